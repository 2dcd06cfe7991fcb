"""What runs on the nodes of a Ray cluster: a policy with its method, and simulators beside it.

A `Host` holds the policy of one GPU and serves the simulators of its node, as one machine's process
does (`rollout.server`); only the transport is Ray's. Imported where Ray is in use, and only there.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vlaprune_bench.config import from_dict
from vlaprune_bench.pruning import load_plugin
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.launcher import Local
from vlaprune_bench.rollout.messages import (
    ActionRequest,
    Message,
    Opened,
    Order,
    Ready,
    Refused,
    SceneReady,
    WorkerDied,
)
from vlaprune_bench.rollout.pool import Worker
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.server import Server
from vlaprune_bench.rollout.setup import Loaded, Setup
from vlaprune_bench.rollout.worker import Player
from vlaprune_bench.types import ActionChunk, CallRow, EpisodeRow, EpisodeSpec, UserError

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class RemoteJob:
    """An episode to run."""

    cell: int
    """Index of its configuration among those that were loaded."""
    spec: EpisodeSpec
    note: str | None


Played = tuple[EpisodeRow, list[CallRow]]


class Host:
    """An actor: the policy of a GPU (or of a node without one), and the simulators beside it."""

    def __init__(self, plugin: tuple[str, str] | None) -> None:
        """Args:
        plugin: name and text of a file that registers a method.
        """
        if plugin is not None:
            with TemporaryDirectory() as folder:
                path = Path(folder) / plugin[0]
                path.write_text(plugin[1], encoding="utf-8")
                load_plugin(path)
        self._inbox = Inbox()
        self._done: queue.SimpleQueue[Played | Refused | Exception | None] = queue.SimpleQueue()
        self._stopped = False

    def load(self, cells: Sequence[dict[str, Any]], workers: int, cpus: float) -> Loaded | Refused:
        """Load what the cells share, and serve.

        Args:
            cells: configurations as plain data, of one world.
            workers: simulators at once.
            cpus: what Ray is to set aside for each.
        """
        configs = [from_dict(data, "the sweep") for data in cells]
        local = Local(Simulators(cpus))
        try:
            loaded = local.load(configs)
        except UserError as error:
            return Refused(str(error))
        self._setups = [Setup(config, loaded) for config in configs]
        # the driver alone writes and knows what the results folder holds
        guard = SceneGuard(configs[0].storage.output)
        server = local.server(configs[0], guard, workers)
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()
        return loaded

    def play(self, tasks: Sequence[RemoteJob]) -> list[Played | Refused | None]:
        """Take on more episodes; wait until one is over.

        Returns:
            What was finished since the last time; None after it: nothing more comes, as asked for
            by `stop`.
        """
        for task in tasks:
            self._inbox.add(Job(self._setups[task.cell], task.spec, task.note))
        found = [self._done.get()]
        while not self._done.empty():
            found.append(self._done.get())
        for one in found:
            if isinstance(one, Exception):
                raise one
        return cast(list[Played | Refused | None], found)

    def stop(self) -> None:
        """Begin no further episode."""
        self._stopped = True

    def _serve(self, server: Server) -> None:
        try:
            while not self._stopped:
                self._inbox.wait()
                for _, row, calls in server.run(self._inbox, lambda: self._stopped):
                    self._done.put((row, calls))
            self._done.put(None)
        except UserError as error:
            self._done.put(Refused(str(error)))
        except Exception as error:  # noqa: BLE001 - raised by `play`, where it is seen
            self._done.put(error)


class Inbox(Schedule):
    """A schedule that grows while it is worked off, filled by another thread."""

    def __init__(self) -> None:
        super().__init__(())
        self._new: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def add(self, job: Job) -> None:
        self._new.put(job)

    def wait(self) -> None:
        """Wait until there is something to do."""
        if not len(self):
            self.put(self._new.get())

    def __len__(self) -> int:
        while not self._new.empty():
            self.put(self._new.get())
        return super().__len__()


class Simulators:
    """A pool of simulators that are actors, on the node of the host that starts them."""

    def __init__(self, cpus: float) -> None:
        self._options = {
            "num_cpus": cpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            ),
        }

    def start(self) -> Remote:
        return Remote(self._options)

    def wait(self, workers: Sequence[Worker], timeout: float | None) -> Sequence[Worker]:
        # one that waits for us has nothing under way
        by_ref = {w.ref: w for w in cast(Sequence[Remote], workers) if w.ref is not None}
        refs = list(by_ref)
        if not refs or not ray.wait(refs, timeout=timeout)[0]:
            return []
        return [by_ref[ref] for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]]


class Remote:
    """A simulator in an actor, seen from its host."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._actor = ray.remote(Simulator).options(**options).remote(os.environ.get(GPUS))
        self.ref = self._actor.start.remote()

    def send(self, message: Order | ActionChunk | None) -> None:
        self.ref = self._actor.tell.remote(message)

    def receive(self) -> Message:
        try:
            message = cast(Message, ray.get(self.ref))
        except RayError as error:
            raise WorkerDied(" ".join(str(error).split())[-300:]) from error
        goes_on = isinstance(message, Opened | SceneReady)
        self.ref = self._actor.next.remote() if goes_on else None
        return message

    def kill(self) -> None:
        ray.kill(self._actor)


class Simulator:
    """An actor: a `Player` in a thread, so that it can be told actions while it plays."""

    def __init__(self, gpus: str | None) -> None:
        # Ray hides GPUs from actors that ask for none; they render, on that of their host
        os.environ.pop(GPUS, None)
        if gpus:
            os.environ[GPUS] = gpus
        self._in: queue.SimpleQueue[Order | ActionChunk | None] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def start(self) -> Message:
        """Import the simulator; `Ready`."""
        from vlaprune_bench.sim.gl import choose_gl

        try:
            choose_gl()  # before anything imports mujoco
            import vlaprune_bench.sim.libero  # noqa: F401
        except UserError as error:
            return Refused(str(error))
        threading.Thread(target=self._play, daemon=True).start()
        return Ready()

    def tell(self, message: Order | ActionChunk | None) -> Message:
        """Hand over an order or an answer; the next message."""
        self._in.put(message)
        return self._out.get()

    def next(self) -> Message:
        """The next message."""
        return self._out.get()

    def _play(self) -> None:
        player = Player(self._ask)
        try:
            while True:
                self._out.put(player.play(cast(Order, self._in.get())))
        except UserError as error:
            self._out.put(Refused(str(error)))

    def _ask(self, message: Message) -> ActionChunk | None:
        self._out.put(message)
        wanted = isinstance(message, ActionRequest)
        return cast(ActionChunk | None, self._in.get()) if wanted else None
