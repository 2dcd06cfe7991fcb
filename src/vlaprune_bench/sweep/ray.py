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
from types import SimpleNamespace
from typing import Any, cast

from vlaprune_bench.config import EvalConfig, to_dict
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.identity import Facts
from vlaprune_bench.rollout.launcher import SwappablePolicy, resolve
from vlaprune_bench.rollout.messages import Refused
from vlaprune_bench.rollout.running import Job, Running
from vlaprune_bench.rollout.scene_guard import StoredScenes
from vlaprune_bench.rollout.server import Done, Schedule
from vlaprune_bench.store import Store
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

from vlaprune_bench.rollout.ray_actors import Host, Loaded, Played, Task
from vlaprune_bench.sweep.ray_nodes import Place, check, places

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
class Post:
    """A host as the driver sees it."""

    place: Place
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
    """Runs cells on a cluster (a `launch.Launcher`). Use as a context manager.

    Args:
        address: of the cluster: `auto` (the one this machine is a node of), HOST:PORT, or `local`
            (this machine alone, for as long as the sweep runs).
        plugin: file that registers a method; its text is sent to the nodes.

    Raises:
        UserError: there is no cluster.
    """

    def __init__(self, address: str, plugin: Path | None = None) -> None:
        self._plugin = (plugin.name, plugin.read_text()) if plugin else None
        self._posts: list[Post] = []
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

    def load(self, cells: Sequence[EvalConfig], store: Store) -> tuple[list[Engine], Path]:
        """Load what the cells of a world share, on every node.

        Raises:
            UserError: a node lacks something, or has another checkpoint or other assets.
        """
        check(cells[0])
        for post in list(self._posts):
            self._drop(post)
        self._cells, self._first = cells, None
        self._checkpoint, self._assets = resolve(cells[0])
        self._looked = -inf
        self._recruit()
        why = ""
        while any(not post.loaded for post in self._posts):
            for post, reply in self._replies():
                if isinstance(reply, RayError):
                    self._lose(post)
                    why = f" ({post.place.name} was lost: {_brief(reply)})"
                else:
                    self._accept(post, reply)
        if self._first is None:
            raise UserError(
                "--launcher is ray; no node of the cluster could hold a policy: it takes a GPU or, "
                f"in a cluster without one, a CPU{why}."
            )
        policy = cast(SwappablePolicy, SimpleNamespace(info=self._first.info))
        gl = self._first.gl_backend
        engines = [Engine(cell, store, policy, self._assets, gl) for cell in cells]
        return engines, self._checkpoint.folder

    def run(
        self,
        jobs: Sequence[Job],
        scenes: StoredScenes,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Generator[Done]:
        """Run episodes on the hosts that were loaded; see `Server.run`."""
        schedule = Schedule(jobs)
        if jobs:
            say(self._describe())
        attempts: Counter[str] = Counter()
        stopped = False
        while True:
            if stopping() and not stopped:
                stopped = True
                for post in self._posts:
                    post.actor.stop.remote()
            hope = bool(schedule) and not stopped and self._recruit()
            for post in self._posts:
                self._hand_out(post, Schedule(()) if stopped else schedule)
            if not any(post.given for post in self._posts):
                if stopped or not schedule:
                    return
                if not hope:
                    raise UserError(
                        f"--launcher is ray; no node of the cluster is left, {len(schedule)} "
                        "episodes are not run: the same command goes on once there is one."
                    )
            for post, reply in self._replies():
                if isinstance(reply, RayError):
                    lost = self._lose(post)
                    say(
                        f"{post.place.name} was lost: its {len(lost)} episodes run again "
                        f"({_brief(reply)})"
                    )
                    yield from self._lost(post, lost, attempts, schedule)
                elif not post.loaded:
                    try:
                        self._accept(post, reply)
                    except UserError as error:  # it joined later: the others go on
                        self._losses[post.place.node] = LOSSES
                        self._drop(post)
                        say(f"{error} It is left out.")
                else:
                    yield from self._take_in(post, reply, scenes)

    def _take_in(
        self, post: Post, reply: list[Played | Refused | None], scenes: StoredScenes
    ) -> Iterator[Done]:
        for played in reply:
            if played is None:  # it was told to stop
                post.given.clear()
            elif isinstance(played, Refused):
                raise UserError(f"{post.place.name}: {played.sentence}")
            else:
                row, calls = played
                try:
                    scenes.check(row.task, row.trial, row.task_name, row.scene_hash)
                except UserError as error:
                    raise UserError(f"{post.place.name}: {error}") from error
                note = scenes.compare_frames(row.task, row.trial, row.frames_hash)
                if note and note not in row.warnings:
                    row = replace(row, warnings=[*row.warnings, note])
                yield post.given.pop(row.episode_id), row, calls

    def _lost(
        self, post: Post, jobs: Sequence[Job], attempts: Counter[str], schedule: Schedule
    ) -> Iterator[Done]:
        """Plan episodes again whose host is gone; what was begun too often becomes a row."""
        for job in jobs:
            running = Running(job, post.workers)
            attempts[running.episode_id] += 1
            number = attempts[running.episode_id]
            if number < ATTEMPTS:
                note = f"begun again: {post.place.name} was lost with it (attempt {number})"
                schedule.put(replace(job, note=note))
            else:
                why = f"its node was lost {number} times, the last one was {post.place.name}"
                yield job, *running.give_up(Status.ERROR, why)

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
        for place in places(self._cells[0]):
            taken = any(post.place == place for post in self._posts)
            if taken or self._losses[place.node] >= LOSSES:
                continue
            if now < self._paused.get(place.node, now):
                waiting = True
                continue
            actor = (
                ray.remote(Host)
                .options(
                    num_cpus=0,  # it waits for its GPU; on a CPU, its simulators wait for it
                    num_gpus=place.gpus,
                    max_concurrency=2,  # `stop` while `play` waits
                    scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
                )
                .remote(self._plugin)
            )
            workers = place.workers(self._cells[0].workers)
            share = min(1.0, place.cpus / max(1, workers))
            reply = actor.load.remote([to_dict(cell) for cell in self._cells], workers, share)
            self._posts.append(Post(place, workers, actor, reply))
        return waiting or bool(self._posts)

    def _accept(self, post: Post, reply: Loaded | Refused) -> None:
        """A host has loaded: is it what the driver has?

        Raises:
            UserError: no; names the node.
        """
        name = post.place.name
        if isinstance(reply, Refused):
            raise UserError(f"{name}: {reply.sentence}")
        config, info = self._cells[0], reply.info
        for what, there, here in (
            (
                f"files of checkpoint {config.checkpoint}",
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
        post.loaded, post.reply = True, None

    def _hand_out(self, post: Post, schedule: Schedule) -> None:
        """Give a host episodes, as many as it can take, and wait for what it has finished."""
        if not post.loaded or post.reply is not None:
            return
        tasks = []
        while schedule and len(post.given) < AHEAD * max(1, post.workers):
            others = [p.task for p in self._posts if p is not post and p.task is not None]
            job = schedule.take(post.task, others)
            post.task = job.spec.task
            post.given[job.engine.episode_id(job.spec)] = job
            tasks.append(Task(self._cells.index(job.engine.config), job.spec, job.note))
        if post.given:
            post.reply = post.actor.play.remote(tasks)

    def _replies(self) -> Iterator[tuple[Post, Any]]:
        """What hosts have answered, after a while at most; an error of Ray's: the host is gone."""
        waiting = {post.reply: post for post in self._posts if post.reply is not None}
        if not waiting:
            time.sleep(LOOK_S)  # for a node to join
            return
        refs = list(waiting)
        ray.wait(refs, timeout=LOOK_S)
        for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
            post = waiting[ref]
            post.reply = None
            try:
                reply = ray.get(ref)
            except RayTaskError:
                raise  # what went wrong in the host itself
            except RayError as error:
                reply = error
            yield post, reply

    def _lose(self, post: Post) -> list[Job]:
        """Give up a host; what it had at hand."""
        self._losses[post.place.node] += 1
        self._paused[post.place.node] = time.monotonic() + PAUSE_S
        self._drop(post)
        return list(post.given.values())

    def _drop(self, post: Post) -> None:
        ray.kill(post.actor)
        self._posts.remove(post)

    def _describe(self) -> str:
        nodes = len({post.place.node for post in self._posts})
        workers = sum(post.workers for post in self._posts)
        return f"on Ray: {workers} simulators, policies: {len(self._posts)}, nodes: {nodes}"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:BRIEF]
