"""Where episodes run: on this machine, or wherever another `Launcher` takes them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.policies.base import Policy
from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.identity import Facts
from vlaprune_bench.rollout.pool import Processes, count_workers
from vlaprune_bench.rollout.running import Job
from vlaprune_bench.rollout.scene_guard import StoredScenes
from vlaprune_bench.rollout.server import Done, Server
from vlaprune_bench.store import Store
from vlaprune_bench.types import PROTOCOLS

if TYPE_CHECKING:
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.sim.assets import AssetSet


class SwappablePolicy(Policy, Protocol):
    """A policy whose method can be another one from episode to episode."""

    pruner: Pruner


class Launcher(Protocol):
    """Where episodes run."""

    def confirmed(self, config: EvalConfig, known: Facts) -> bool:
        """Whether what an earlier run found out about checkpoint and assets still holds, without
        loading a model."""
        ...

    def load(self, cells: Sequence[EvalConfig], store: Store) -> tuple[list[Engine], Path]:
        """Load what the cells of a world share.

        Returns:
            An engine for each cell, and the checkpoint's folder.

        Raises:
            UserError: it cannot be loaded, or a method does not fit the model.
        """
        ...

    def run(
        self,
        jobs: Sequence[Job],
        scenes: StoredScenes,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        """Run episodes on what was loaded last; see `Server.run`.

        Args:
            jobs: in the order wanted.
            scenes: those the results folder knows.
            stopping: once true, no further episode is begun.
            say: is told what the user should know.
        """
        ...


class Local:
    """The `Launcher` of one machine: the policy in this process, simulators in others."""

    def confirmed(self, config: EvalConfig, known: Facts) -> bool:
        from vlaprune_bench.policies.device import choose_device, choose_dtype

        dtype = choose_dtype(config.dtype, choose_device(config.device))
        checkpoint, assets = resolve(config)
        return known == replace(
            known,
            checkpoint_hash=checkpoint.hash,
            assets_hash=assets.hash,
            dtype=str(dtype).removeprefix("torch."),
        )

    def load(self, cells: Sequence[EvalConfig], store: Store) -> tuple[list[Engine], Path]:
        # the renderer is chosen before anything imports mujoco
        from vlaprune_bench.sim.gl import choose_gl

        gl_backend = choose_gl()
        from vlaprune_bench.policies import load_policy

        first = cells[0]
        checkpoint, assets = resolve(first)
        policy = cast(
            SwappablePolicy,
            load_policy(
                checkpoint,
                first.pruner,
                suite=first.suite,
                device=first.device,
                dtype=first.dtype,
                attention=first.attention,
                protocol=PROTOCOLS[first.protocol],
                count_every=first.count_flops_every,
                policy=first.policy,
                cameras=first.cameras,
                unnorm_key=first.unnorm_key,
            ),
        )
        for cell in cells:
            policy.pruner = cell.pruner  # refused before the first episode
        engines = [Engine(cell, store, policy, assets, gl_backend) for cell in cells]
        return engines, checkpoint.folder

    def run(
        self,
        jobs: Sequence[Job],
        scenes: StoredScenes,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        if not jobs:
            return
        config = jobs[0].engine.config
        workers, why = count_workers(config.workers)
        if why:
            say(why)
        with Server(scenes, Processes(), workers, config.batch, config.episode_timeout) as server:
            yield from server.run(jobs, stopping)


def resolve(config: EvalConfig) -> tuple[Checkpoint, AssetSet]:
    """The checkpoint and the assets of a configuration, found without loading a model.

    Raises:
        UserError: one of them is not there.
    """
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.sim.assets import resolve_assets

    checkpoint = Checkpoint.find(config.checkpoint, config.suite)
    checkpoint.check_for(config.suite, config.unnorm_key)  # before assets are fetched
    made_for = checkpoint.config.get("vlaprune", {}).get("assets", "real")
    return checkpoint, resolve_assets(config.assets, made_for)
