"""Where episodes run: on this machine, or wherever another `Launcher` takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from vlaprune_bench.config import EvalConfig, What
from vlaprune_bench.measure.machine import model_threads
from vlaprune_bench.policies import REMOTE
from vlaprune_bench.rollout.identity import Facts
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.pool import Pool, Processes, count_workers
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.server import Done, Server
from vlaprune_bench.rollout.setup import Loaded
from vlaprune_bench.sim.compiled import is_compiled
from vlaprune_bench.sim.pins import check_pins, unpinned
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.policies.base import SwappablePolicy
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.sim.assets import AssetSet


class Launcher(Protocol):
    """Where episodes run."""

    def confirmed(self, config: EvalConfig, known: Facts) -> bool:
        """Whether what an earlier run found out about checkpoint and assets still holds, without
        loading a model."""
        ...

    def load(self, cells: Sequence[EvalConfig]) -> Loaded:
        """Load what the cells of a world share.

        Raises:
            UserError: it cannot be loaded, or a method does not fit the model.
        """
        ...

    def run(
        self,
        jobs: Sequence[Job] | Schedule,
        guard: SceneGuard,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        """Run episodes on what was loaded last; see `Server.run`.

        Args:
            jobs: in the order wanted; a schedule may get more of them as rows come.
            guard: of the scenes that the results folder knows.
            stopping: once true, no further episode is begun.
            say: is told what the user should know.
        """
        ...


class Local:
    """The `Launcher` of one machine: the policy in this process, simulators in others.

    Args:
        pool: where simulators come from; by default processes of this machine.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool or Processes()
        self._policy: SwappablePolicy | None = None

    def confirmed(self, config: EvalConfig, known: Facts) -> bool:
        if config.what.policy == REMOTE:
            return False  # only the server knows
        from vlaprune_bench.policies.device import choose_device, choose_dtype

        dtype = choose_dtype(config.compute.dtype, choose_device(config.compute.device))
        checkpoint, assets = resolve(config)
        return known == replace(
            known,
            checkpoint_hash=checkpoint.hash,
            assets_hash=assets.hash,
            dtype=str(dtype).removeprefix("torch."),
            unpinned=json.dumps(unpinned(), sort_keys=True) if unpinned() else "",
        )

    def load(self, cells: Sequence[EvalConfig]) -> Loaded:
        # the renderer is chosen before anything imports mujoco
        from vlaprune_bench.sim.gl import choose_gl

        gl_backend = choose_gl()
        unpinned = check_pins(cells[0].compute.allow_unpinned)
        what, compute = cells[0].what, cells[0].compute
        if what.policy == REMOTE:
            return self._connect(what, gl_backend, unpinned)
        from vlaprune_bench.policies import load_policy

        checkpoint, assets = resolve(cells[0])
        threads = _set_threads(cells[0], checkpoint)
        self._policy = load_policy(
            checkpoint,
            what.pruner,
            suite=what.base_suite,
            device=compute.device,
            dtype=compute.dtype,
            attention=compute.attention,
            protocol=what.evaluation,
            count_every=compute.count_flops_every,
            policy=what.policy,
            options=what.policy_options,
            cameras=what.cameras,
            unnorm_key=what.unnorm_key,
        )
        for cell in cells:
            self._policy.resolve(cell.what.pruner)  # refused before the first episode
        return Loaded(self._policy.info, assets, gl_backend, checkpoint.folder, threads, unpinned)

    def _connect(self, what: What, gl_backend: str, unpinned: dict[str, str]) -> Loaded:
        """A policy that runs elsewhere.

        Raises:
            UserError: there is no server, or what it serves is not for LIBERO.
        """
        from vlaprune_bench.policies.remote.policy import RemotePolicy
        from vlaprune_bench.sim.assets import resolve_assets

        assert what.url is not None
        remote = RemotePolicy(what.url, what.dialect, what.evaluation)
        if what.dialect == "auto" and what.protocol == "auto" and remote.dialect != "openpi":
            raise UserError(
                f"--dialect is auto; the server speaks {remote.dialect}: say --dialect "
                f"{remote.dialect}, whose evaluation protocol is another, or name --protocol."
            )
        assets = resolve_assets(what.assets, remote.info.assets)
        self._policy = cast("SwappablePolicy", remote)  # only the kind of its memory is another
        return Loaded(remote.info, assets, gl_backend, None, None, unpinned)

    def run(
        self,
        jobs: Sequence[Job] | Schedule,
        guard: SceneGuard,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        schedule = Schedule.of(jobs)
        if not schedule:
            return
        config = schedule.config
        workers, why = count_workers(config.compute.workers)
        if why:
            say(why)
        if not is_compiled():
            say("the simulator's controller is compiled first: once a machine, under a minute")
        with self.server(config, guard, workers) as server:
            yield from server.run(schedule, stopping)

    def server(self, config: EvalConfig, guard: SceneGuard, workers: int) -> Server:
        """A server of episodes on the policy that was loaded last.

        Args:
            config: how they are run.
            guard: of the scenes that are known.
            workers: simulators at once.
        """
        assert self._policy is not None
        compute = config.compute
        return Server(
            self._policy, guard, self._pool, workers, compute.batch, compute.episode_timeout
        )


def _set_threads(config: EvalConfig, checkpoint: Checkpoint) -> int:
    """Give torch the threads that suit the model; how many it has."""
    import torch

    workers, _ = count_workers(config.compute.workers)
    threads = model_threads(config.compute.threads, checkpoint.weight_bytes, workers)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def resolve(config: EvalConfig) -> tuple[Checkpoint, AssetSet]:
    """The checkpoint and the assets of a configuration, found without loading a model.

    Raises:
        UserError: one of them is not there.
    """
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.sim.assets import resolve_assets

    checkpoint = Checkpoint.find(config.what.checkpoint, config.what.base_suite)
    checkpoint.check_for(
        config.what.base_suite, config.what.unnorm_key
    )  # before assets are fetched
    made_for = checkpoint.config.get("vlaprune", {}).get("assets", "real")
    return checkpoint, resolve_assets(config.what.assets, made_for)
