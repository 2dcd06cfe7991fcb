"""Run a sweep on a Ray cluster: `vlaprune-sweep run FILE --launcher ray --address auto`.

The driver hands out episodes, takes in their rows and alone writes them. One `Host` a GPU (a node,
where the cluster has none) holds the policy. Nodes share no file system: each finds checkpoint and
assets for itself, and they must be the driver's. A node that is lost costs its running episodes,
which run again elsewhere; one that joins is put to work.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from vlaprune_bench.config import EvalConfig, to_dict
from vlaprune_bench.files import read_text
from vlaprune_bench.rollout.identity import Facts
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.launcher import resolve
from vlaprune_bench.rollout.messages import Refused
from vlaprune_bench.rollout.record import EpisodeRecord
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.server import Done
from vlaprune_bench.rollout.setup import Loaded
from vlaprune_bench.types import Status, UserError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as missing:
    raise UserError(
        "--launcher is ray, which is not installed: `pip install 'vlaprune-bench[ray]'` (on every "
        "node)."
    ) from missing

from vlaprune_bench.rollout.ray_actors import Host, Played, RemoteJob
from vlaprune_bench.sweep.ray_nodes import NodeSlot, check, node_slots

ATTEMPTS = 3
"""How often an episode is begun, where nodes are lost under it."""
LOSSES = 3
"""After so many hosts were lost on a node it gets no further one."""
PAUSE_S = 30.0
"""Seconds before that: Ray needs some to notice that a whole node is gone."""
LOOK_S = 1.0
"""Seconds between looks at Ctrl-C and at nodes that have joined."""
BRIEF = 200
"""Characters shown of what Ray says of a lost host."""
AHEAD = 2
"""Episodes a host has at hand for each of its simulators, the running one included."""


@dataclass(eq=False)
class HostHandle:
    """A host as the driver sees it."""

    slot: NodeSlot
    workers: int
    actor: Any
    reply: Any
    """Reference to what it was asked for, or None."""
    loaded: bool = False
    task: int | None = None
    """The task its last episode is of."""
    given: dict[str, Job] = field(default_factory=dict)
    """What it has at hand, by episode id."""


class RayLauncher:
    """Runs cells on a cluster (a `rollout.launcher.Launcher`). Use as a context manager.

    Args:
        address: of the cluster: `auto` (the one this machine is a node of), HOST:PORT, or `local`
            (this machine alone, for as long as the sweep runs).
        plugin: file that registers a method; its text is sent to the nodes.

    Raises:
        UserError: there is no cluster.
    """

    def __init__(self, address: str, plugin: Path | None = None) -> None:
        self._plugin = (plugin.name, read_text(plugin, "--plugin")) if plugin else None
        self._hosts: list[HostHandle] = []
        self._losses: Counter[str] = Counter()
        self._paused: dict[str, float] = {}
        """Until when a node that lost a host gets no other one (monotonic clock)."""
        self._first: Loaded | None = None
        self._looked = -inf
        own: dict[str, Any] = {}
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody of it
            own["include_dashboard"] = False
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **own)
        except ConnectionError as error:
            raise UserError(
                f"--address is {address}; no Ray cluster answers there (`ray start --head` starts "
                "one, --address local makes one of this machine)."
            ) from error

    def __enter__(self) -> RayLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def confirmed(self, config: EvalConfig, known: Facts) -> bool:
        """Whether checkpoint and assets are those an earlier run knew; asks no node."""
        checkpoint, assets = resolve(config)
        return known == replace(known, checkpoint_hash=checkpoint.hash, assets_hash=assets.hash)

    def load(self, cells: Sequence[EvalConfig]) -> Loaded:
        """Load what the cells of a world share, on every node.

        Raises:
            UserError: a node lacks something, or has another checkpoint or other assets.
        """
        check(cells[0])
        for host in list(self._hosts):
            self._drop(host)
        self._cells, self._first = cells, None
        self._checkpoint, self._assets = resolve(cells[0])
        self._looked = -inf
        self._recruit()
        why = ""
        while any(not host.loaded for host in self._hosts):
            for host, reply in self._replies():
                if isinstance(reply, RayError):
                    self._lose(host)
                    why = f" ({host.slot.name} was lost: {_brief(reply)})"
                else:
                    self._accept(host, reply)
        if self._first is None:
            raise UserError(
                "--launcher is ray; no node of the cluster could hold a policy: it takes a GPU or, "
                f"in a cluster without one, a CPU{why}."
            )
        return replace(self._first, assets=self._assets, checkpoint=self._checkpoint.folder)

    def run(
        self,
        jobs: Sequence[Job] | Schedule,
        guard: SceneGuard,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        """Run episodes on the hosts that were loaded; see `Server.run`."""
        schedule, attempts, stopped = Schedule.of(jobs), Counter[str](), False
        if schedule:
            say(self._describe())
        while True:
            if stopping() and not stopped:
                stopped, schedule = True, Schedule(())
                for host in self._hosts:
                    host.actor.stop.remote()
            hope = bool(schedule) and self._recruit()
            for host in self._hosts:
                self._hand_out(host, schedule)
            if not any(host.given for host in self._hosts):
                if not schedule:
                    return
                if not hope:
                    raise UserError(
                        f"--launcher is ray; no node of the cluster is left, {len(schedule)} "
                        "episodes are not run: the same command goes on once there is one."
                    )
            for host, reply in self._replies():
                if isinstance(reply, RayError):
                    say(f"{host.slot.name} was lost: {self._lose(host)} ({_brief(reply)})")
                    yield from self._lost(host, attempts, Schedule(()) if stopped else schedule)
                elif not host.loaded:
                    self._welcome(host, reply, say)
                else:
                    yield from self._take_in(host, reply, guard)

    def _welcome(self, host: HostHandle, reply: Any, say: Callable[[str], None]) -> None:
        """Take in a host that joined later; where it does not fit, the others go on."""
        try:
            self._accept(host, reply)
        except UserError as error:
            self._losses[host.slot.node] = LOSSES
            self._drop(host)
            say(f"{error} It is left out.")

    def _take_in(
        self, host: HostHandle, reply: list[Played | Refused | None], guard: SceneGuard
    ) -> Iterator[Done]:
        for played in reply:
            if played is None:  # it was told to stop
                host.given.clear()
            elif isinstance(played, Refused):
                raise UserError(f"{host.slot.name}: {played.sentence}")
            else:
                row, calls = played
                try:
                    guard.check(vars(row), row.task_name, row.scene_hash)
                except UserError as error:
                    raise UserError(f"{host.slot.name}: {error}") from error
                note = guard.compare_frames(vars(row), row.frames_hash)
                if note and note not in row.warnings:
                    row = replace(row, warnings=[*row.warnings, note])
                yield host.given.pop(row.episode_id), row, calls

    def _lost(self, host: HostHandle, attempts: Counter[str], schedule: Schedule) -> Iterator[Done]:
        """Plan episodes again whose host is gone; what was begun too often becomes a row."""
        for job in host.given.values():
            record = EpisodeRecord(job, host.workers)
            attempts[job.episode_id] += 1
            number = attempts[job.episode_id]
            if number < ATTEMPTS:
                note = f"begun again: {host.slot.name} was lost with it (attempt {number})"
                schedule.put(replace(job, note=note))
            else:
                why = f"its node was lost {number} times, the last one was {host.slot.name}"
                yield job, *record.give_up(Status.ERROR, why)

    def _recruit(self) -> bool:
        """Start a host wherever there is room for one.

        Returns:
            Whether there are hosts, or may be some soon.
        """
        now = time.monotonic()
        if now < self._looked + LOOK_S:
            return True
        self._looked = now
        waiting = False
        for slot in node_slots(self._cells[0]):
            taken = any(host.slot == slot for host in self._hosts)
            if taken or self._losses[slot.node] >= LOSSES:
                continue
            if now < self._paused.get(slot.node, now):
                waiting = True
                continue
            actor = (
                ray.remote(Host)
                .options(
                    num_cpus=0,  # it waits for its GPU; on a CPU, its simulators wait for it
                    num_gpus=slot.gpus,
                    max_concurrency=2,  # `stop` while `play` waits
                    scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
                )
                .remote(self._plugin)
            )
            workers = slot.workers(self._cells[0].compute.workers)
            share = min(1.0, slot.cpus / max(1, workers))
            reply = actor.load.remote([to_dict(cell) for cell in self._cells], workers, share)
            self._hosts.append(HostHandle(slot, workers, actor, reply))
        return waiting or bool(self._hosts)

    def _accept(self, host: HostHandle, reply: Loaded | Refused) -> None:
        """A host has loaded: is it what the driver has?

        Raises:
            UserError: no; names the node.
        """
        name = host.slot.name
        if isinstance(reply, Refused):
            raise UserError(f"{name}: {reply.sentence}")
        config, info = self._cells[0], reply.info
        for what, there, here in (
            (
                f"files of checkpoint {config.what.checkpoint}",
                info.checkpoint_hash,
                self._checkpoint.hash,
            ),
            (f"{reply.assets.kind} assets", reply.assets.hash, self._assets.hash),
        ):
            if there != here:
                raise UserError(
                    f"{name}: its {what} have hash {there}, here it is {here}: give every node the "
                    "same files."
                )
        self._first = self._first or reply
        if info.dtype != self._first.info.dtype:
            raise UserError(
                f"{name}: its policy runs in {info.dtype} on {info.device}, another in "
                f"{self._first.info.dtype} on {self._first.info.device}: give --dtype."
            )
        host.loaded, host.reply = True, None

    def _hand_out(self, host: HostHandle, schedule: Schedule) -> None:
        """Give a host episodes, as many as it can take, and wait for what it has finished."""
        if not host.loaded or host.reply is not None:
            return
        tasks = []
        while schedule and len(host.given) < AHEAD * max(1, host.workers):
            others = [p.task for p in self._hosts if p is not host and p.task is not None]
            job = schedule.take(host.task, others)
            host.task = job.spec.task
            host.given[job.episode_id] = job
            tasks.append(RemoteJob(self._cells.index(job.setup.config), job.spec, job.note))
        if host.given:
            host.reply = host.actor.play.remote(tasks)

    def _replies(self) -> Iterator[tuple[HostHandle, Any]]:
        """What hosts have answered, after a while at most; an error of Ray's: the host is gone."""
        waiting = {host.reply: host for host in self._hosts if host.reply is not None}
        if not waiting:
            time.sleep(LOOK_S)  # for a node to join
            return
        refs = list(waiting)
        ray.wait(refs, timeout=LOOK_S)
        for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
            host = waiting[ref]
            host.reply = None
            try:
                reply = ray.get(ref)
            except RayTaskError:
                raise  # what went wrong in the host itself
            except RayError as error:
                reply = error
            yield host, reply

    def _lose(self, host: HostHandle) -> str:
        """Give up a host; in words, what it had at hand."""
        self._losses[host.slot.node] += 1
        self._paused[host.slot.node] = time.monotonic() + PAUSE_S
        self._drop(host)
        return f"its {len(host.given)} episodes run again"

    def _drop(self, host: HostHandle) -> None:
        ray.kill(host.actor)
        self._hosts.remove(host)

    def _describe(self) -> str:
        nodes = len({host.slot.node for host in self._hosts})
        workers = sum(host.workers for host in self._hosts)
        return f"on Ray: {workers} simulators, policies: {len(self._hosts)}, nodes: {nodes}"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:BRIEF]
