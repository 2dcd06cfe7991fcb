"""The policy's side of a run: hands episodes to simulators, answers their calls, watches them.

The loaded policy stays in this process, with the memory of every running episode. Simulators play
in processes of their own (a `Pool`), or, with no workers, in this one. Whoever waits for actions is
answered in the order of asking; several at a time where `batch` allows and the method is the same.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vlaprune_bench.policies.base import PolicyCall
from vlaprune_bench.rollout.messages import (
    Call,
    Ended,
    Message,
    Opened,
    Order,
    Ready,
    Refused,
    Scene,
    WorkerDied,
)
from vlaprune_bench.rollout.pool import Pool, Worker
from vlaprune_bench.rollout.running import Job, Running
from vlaprune_bench.rollout.scene_guard import StoredScenes
from vlaprune_bench.rollout.worker import Player, describe
from vlaprune_bench.types import ActionChunk, CallRow, EpisodeRow, Status, UserError

Done = tuple[Job, EpisodeRow, list[CallRow]]

EPISODES_PER_WORKER = 200
"""Episodes after which a worker's process is replaced: what leaks in it does not add up."""
START_S = 120.0
"""Silence a worker's process is allowed at least until it takes orders."""
FALSE_STARTS = 3
"""Workers in a row that may end before their first scene."""


class Schedule:
    """Which episode is next: a worker stays with a task, as opening one takes seconds."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._tasks: dict[int, deque[Job]] = {}
        for job in jobs:
            self.put(job)

    def put(self, job: Job) -> None:
        self._tasks.setdefault(job.spec.task, deque()).append(job)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._tasks.values())

    def take(self, own: int | None, others: Sequence[int]) -> Job:
        """The next episode of a worker; there must be one.

        Jobs of a task are given out in their order, so that all methods on a scene run about the
        same time.

        Args:
            own: the task it has open.
            others: the tasks other workers have open.
        """
        free = [task for task in self._tasks if task not in others]
        if own in self._tasks:
            task = own
        elif free:
            task = free[0]
        else:
            task = max(self._tasks, key=lambda t: len(self._tasks[t]) / others.count(t))
        assert task is not None
        job = self._tasks[task].popleft()
        if not self._tasks[task]:
            del self._tasks[task]
        return job


@dataclass(eq=False)
class Seat:
    """A worker and what it is doing."""

    worker: Worker
    deadline: float
    """When its silence has lasted too long (monotonic clock); infinite while it waits for us."""
    ready: bool = False
    had_scene: bool = False
    played: int = 0
    task: int | None = None
    """The one it has open."""
    running: Running | None = None


@dataclass
class Server:
    """Runs episodes on simulators; to be closed (or used as a context manager)."""

    scenes: StoredScenes
    pool: Pool
    workers: int
    """Simulators at once; 0: one, in this process, which no watchdog can watch."""
    batch: int = 1
    """Episodes a policy call may serve."""
    timeout: float = 300.0
    """Seconds a simulator may be silent while it has something to do."""
    recycle_after: int = EPISODES_PER_WORKER
    seats: list[Seat] = field(default_factory=list)
    asking: deque[tuple[Seat, Call]] = field(default_factory=deque)
    """Who waits for actions, the longest first."""
    false_starts: int = 0

    def run(self, jobs: Iterable[Job] | Schedule, stopping: Callable[[], bool]) -> Iterator[Done]:
        """Run episodes; each is yielded with its rows when it has ended, whatever came of it.

        Args:
            jobs: in the order wanted.
            stopping: once true, no further episode is begun.

        Raises:
            UserError: something the user can put right.
        """
        schedule = jobs if isinstance(jobs, Schedule) else Schedule(jobs)
        if self.workers == 0:
            yield from self._run_here(schedule, stopping)
            return
        while True:
            self._staff(Schedule(()) if stopping() else schedule)
            if not self.seats:
                return
            yield from self._listen()
            self._answer()

    def _run_here(self, schedule: Schedule, stopping: Callable[[], bool]) -> Iterator[Done]:
        running: Running

        def ask(message: Message) -> ActionChunk | None:
            if isinstance(message, Call):
                return self._act([(running, message)])[0]
            self._note(running, message)
            return None

        player, task = Player(ask), None
        try:
            while schedule and not stopping():
                job = schedule.take(task, [])
                task = job.spec.task
                running = Running(job, self.workers)
                ended = player.play(self._order(job))
                row, calls = running.finish(ended)
                if row.status != Status.OK:
                    player.close()  # whatever went wrong may have left it in any state
                yield job, row, calls
        finally:
            player.close()

    def _order(self, job: Job) -> Order:
        return job.engine.order(job.spec, self.scenes.first_trial(job.spec.task))

    def _note(self, running: Running, message: Message) -> None:
        """Keep what a simulator tells of its episode."""
        if isinstance(message, Opened):
            running.opened = message
            return
        assert isinstance(message, Scene)
        assert running.opened is not None
        running.scene = message
        spec, name = running.job.spec, running.opened.name
        if message.compared is not None:
            trial, scene = message.compared
            self.scenes.check(spec.task, trial, name, scene)
        self.scenes.check(spec.task, spec.trial, name, message.scene_hash)
        note = self.scenes.compare_frames(spec.task, spec.trial, message.frames_hash)
        if note:
            running.notes.append(note)

    def _act(self, requests: Sequence[tuple[Running, Call]]) -> list[ActionChunk | None]:
        """Answer calls of different episodes; None for one that failed."""
        answers: list[ActionChunk | None] = []
        for (running, request), result in zip(requests, self._results(requests), strict=True):
            running.moved(request.moved)
            if isinstance(result, UserError):
                raise result
            if isinstance(result, Exception):
                running.error = describe(result)
                answers.append(None)
            else:
                running.answered(request, result)
                answers.append(result)
        return answers

    def _results(self, requests: Sequence[tuple[Running, Call]]) -> list[ActionChunk | Exception]:
        policy = requests[0][0].job.engine.policy
        try:
            calls = [
                PolicyCall(running.remember(), request.observation, request.eef_poses)
                for running, request in requests
            ]
            if len(calls) > 1:
                return policy.act_many(calls)
            (call,) = calls
            return [policy.act(call.memory, call.observation, call.eef_poses)]
        except Exception as failure:  # noqa: BLE001 - recorded as the episodes' status
            return [failure] * len(requests)

    def _staff(self, schedule: Schedule) -> None:
        """Give every worker that is free an order, or send it home; start workers for the rest."""
        for seat in [seat for seat in self.seats if seat.ready and seat.running is None]:
            if not schedule or seat.played >= self.recycle_after:
                self._dismiss(seat)
                continue
            others = [s.task for s in self.seats if s is not seat and s.task is not None]
            job = schedule.take(seat.task, others)
            seat.task = job.spec.task
            seat.running = Running(job, self.workers)
            self._send(seat, self._order(job))
        starting = sum(not seat.ready for seat in self.seats)
        while len(self.seats) < self.workers and starting < len(schedule):
            patience = max(self.timeout, START_S)
            self.seats.append(Seat(self.pool.start(), time.monotonic() + patience))
            starting += 1

    def _send(self, seat: Seat, message: Order | ActionChunk | None) -> None:
        seat.deadline = time.monotonic() + self.timeout
        seat.worker.send(message)

    def _dismiss(self, seat: Seat) -> None:
        # nothing of worth is in a worker: killing it is quick, whatever state it is in
        self.seats.remove(seat)
        seat.worker.kill()

    def _listen(self) -> Iterator[Done]:
        """Take in what workers say; not waiting for it while somebody waits for actions."""
        first = min(seat.deadline for seat in self.seats)
        patience = 0.0 if self.asking else max(0.0, first - time.monotonic())
        for seat in self._speaking(self.seats, None if math.isinf(patience) else patience):
            try:
                message = seat.worker.receive()
            except WorkerDied as end:
                yield from self._lost(seat, Status.ERROR, f"the simulator's process died: {end}")
            else:
                yield from self._hear(seat, message)
        overdue = [seat for seat in self.seats if seat.deadline < time.monotonic()]
        # this process may have been busy elsewhere, and not they
        spoken = self._speaking(overdue, 0.0) if overdue else []
        for seat in overdue:
            if seat not in spoken:
                why = f"no sign of life from the simulator for {self.timeout:g} s"
                yield from self._lost(seat, Status.TIMEOUT, why)

    def _speaking(self, seats: Sequence[Seat], timeout: float | None) -> list[Seat]:
        found = self.pool.wait([seat.worker for seat in seats], timeout)
        return [seat for seat in seats if seat.worker in found]

    def _hear(self, seat: Seat, message: Message) -> Iterator[Done]:
        seat.deadline = time.monotonic() + self.timeout
        running = seat.running
        if isinstance(message, Refused):
            raise UserError(message.sentence)
        if isinstance(message, Ready):
            seat.ready = True
            return
        assert running is not None
        if isinstance(message, Call):
            seat.deadline = math.inf
            self.asking.append((seat, message))
        elif isinstance(message, Ended):
            seat.running = None
            seat.played += 1
            row, calls = running.finish(message)
            if row.status != Status.OK:  # whatever went wrong may have left it in any state
                self._dismiss(seat)
            yield running.job, row, calls
        else:
            self._note(running, message)
            if isinstance(message, Scene):
                seat.had_scene, self.false_starts = True, 0

    def _answer(self) -> None:
        """Serve those who have waited longest for actions."""
        if not self.asking:
            return
        served = [self.asking.popleft() for _ in range(min(self.batch, len(self.asking)))]
        requests = [(seat.running, call) for seat, call in served if seat.running is not None]
        for (seat, _), chunk in zip(served, self._act(requests), strict=True):
            self._send(seat, chunk)

    def _lost(self, seat: Seat, status: Status, why: str) -> Iterator[Done]:
        """A worker that is gone, or given up: its episode is a row, another worker goes on."""
        self._dismiss(seat)
        self.asking = deque(entry for entry in self.asking if entry[0] is not seat)
        if seat.running is not None:
            running = seat.running
            why = f"{why}, {running.where()}"
            yield running.job, *running.give_up(status, why)
        self.false_starts = 0 if seat.had_scene else self.false_starts + 1
        if self.false_starts >= FALSE_STARTS:
            raise UserError(
                f"{FALSE_STARTS} simulators in a row ended before their first scene (the last: "
                f"{why}): vlaprune-doctor looks into it, --workers 0 runs the simulator in this "
                "process."
            )

    def close(self) -> None:
        """End all workers now."""
        for seat in list(self.seats):
            self._dismiss(seat)
        self.asking.clear()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
