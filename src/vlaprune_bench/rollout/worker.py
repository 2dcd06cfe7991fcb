"""The simulator's side: plays the episodes it is ordered, asking elsewhere for actions.

    python -m vlaprune_bench.rollout.worker FD    # FD: a socket to the process with the policy

`Player` does the work wherever it runs (in the policy's own process with `--workers 0`); `main`
puts it behind a socket. Neither torch nor a checkpoint is loaded here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

from vlaprune_bench.measure.motion import describe_motion
from vlaprune_bench.rollout.episode import Progress, Watcher, run_episode
from vlaprune_bench.rollout.messages import (
    ActionRequest,
    Ended,
    Film,
    Message,
    Opened,
    Order,
    Ready,
    Refused,
    SceneReady,
)
from vlaprune_bench.sim.compiled import compile_s
from vlaprune_bench.types import PROTOCOLS, ActionChunk, EpisodeSpec, Observation, UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.libero import LiberoTask
    from vlaprune_bench.sim.tasks import TaskKey

Ask = Callable[[Message], ActionChunk | None]
"""Sends a message; waits for the answer to an `ActionRequest`, else returns None at once."""

PR_SET_PDEATHSIG = 1
"""Linux, prctl(2): the signal this process is sent when its parent dies."""


class CallFailed(Exception):
    """The policy gave no actions; its side knows why."""


class Player:
    """Plays episodes; the task of the last one stays open."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._task: LiberoTask | None = None
        self._key: TaskKey | None = None
        self._opened = ExitStack()

    def play(self, order: Order) -> Ended:
        """Play an episode, whatever comes of it: an exception is told in what is returned.

        Raises:
            UserError: something the user can put right.
        """
        progress = Progress()
        error = None
        try:
            self._play(order, progress)
        except UserError:
            raise
        except Exception as failure:  # noqa: BLE001 - recorded as the episode's status
            error = describe(failure)
        return Ended(
            success=progress.success,
            steps=progress.steps,
            moved=progress.displacements[-1] if progress.displacements else 0.0,
            actions_hash=progress.actions_hash,
            error=error,
            motion=describe_motion(progress.positions, progress.actions),
            held=progress.held,
            timings=tuple(progress.timings),
        )

    def _play(self, order: Order, progress: Progress) -> None:
        started, compiled = time.perf_counter(), compile_s()
        task, new = self._open(order)
        self._ask(Opened(task.name, task.instruction))
        compared = None
        if new and order.compare is not None:
            compared = order.compare, task.fingerprint(order.compare)

        def after_reset() -> None:
            compiling = compile_s() - compiled
            took = time.perf_counter() - started - compiling
            hashes = task.init_state_hash, task.scene_hash, task.frames_hash
            self._ask(Opened(task.name, task.instruction))  # words may be the trial's
            self._ask(SceneReady(*hashes, compared, task.sim, task.self_check, took, compiling))

        with film(order.film, order.spec, progress) as watch:
            run_episode(
                task,
                RemotePolicy(self._ask, progress),
                order.spec,
                episode_seed=0,  # the policy's side knows it
                execute_steps=order.execute_steps,
                progress=progress,
                after_reset=after_reset,
                timing=order.timing,
                watch=watch,
                watch_every_step=order.film is not None and order.film.every_step,
            )

    def _open(self, order: Order) -> tuple[LiberoTask, bool]:
        """The task of an order, and whether it had to be opened."""
        if self._task is not None and self._key == order.task:
            return self._task, False
        self.close()
        from vlaprune_bench.sim.libero import LiberoTask

        key = order.task
        task = LiberoTask(key)
        self._task, self._key = self._opened.enter_context(task), key
        return task, True

    def close(self) -> None:
        """Close the open task, as after an error: the next episode opens it anew."""
        self._task = None
        self._opened.close()


class RemotePolicy:
    """Stands in for the policy in the episode loop; the memory of an episode is elsewhere."""

    def __init__(self, ask: Ask, progress: Progress) -> None:
        self._ask = ask
        self._progress = progress

    def start(self, instruction: str, seed: int) -> None:
        """Nothing is remembered here."""

    def act(self, memory: None, observation: Observation, eef_poses: np.ndarray) -> ActionChunk:
        steps, moved = self._progress.steps, self._progress.displacements
        chunk = self._ask(ActionRequest(observation, eef_poses, steps, moved[-1] if moved else 0.0))
        if chunk is None:
            raise CallFailed
        return chunk


@contextmanager
def film(how: Film | None, spec: EpisodeSpec, progress: Progress) -> Iterator[Watcher | None]:
    """A watcher that writes the episode's video, or None where none is asked for."""
    if how is None:
        yield None
        return
    from vlaprune_bench.video import episode_video

    with episode_video(
        how.path,
        progress,
        label=how.label,
        gated=how.gated,
        grids=how.grids,
        crop_area=PROTOCOLS[spec.protocol].crop_area,
        max_steps=spec.max_steps,
        frame_steps=how.frame_steps,
    ) as show:
        yield lambda observation, _: show(observation)


def describe(failure: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    where = traceback.extract_tb(failure.__traceback__)[-1]
    return f"{type(failure).__name__}: {failure} ({where.name}, line {where.lineno})"


def main(argv: list[str]) -> None:
    """Take orders from a socket until it closes."""
    _die_with_parent()
    fd = int(argv[1])
    os.set_inheritable(fd, False)
    line = Connection(fd)

    def ask(message: Message) -> ActionChunk | None:
        # the other end is gone: nobody waits for what this process does, an open task included
        try:
            line.send(message)
            return line.recv() if isinstance(message, ActionRequest) else None
        except (EOFError, OSError):
            os._exit(0)

    player = Player(ask)
    try:
        import vlaprune_bench.sim.libero  # noqa: F401 - seconds, before anybody waits for a scene

        ask(Ready())
        while True:
            try:
                order = line.recv()
            except (EOFError, OSError):
                os._exit(0)
            ask(player.play(order))
    except UserError as error:
        ask(Refused(str(error)))


def _die_with_parent() -> None:
    """Be killed when the process that started this one ends, even within native code that hangs.

    Where there is no prctl (not Linux), the closed socket does it, at the next message. Linux means
    by that the end of the very thread that started this process.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv)
