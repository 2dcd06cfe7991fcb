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

from vlaprune_bench.policies.base import Memory, Policy, PolicyCall
from vlaprune_bench.rollout.identity import draw_seed, noise_seed
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.messages import (
    ActionRequest,
    Ended,
    Message,
    Opened,
    Order,
    Ready,
    Refused,
    SceneReady,
    WorkerDied,
)
from vlaprune_bench.rollout.pool import Pool, Worker
from vlaprune_bench.rollout.record import EpisodeRecord
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.worker import Player, describe
from vlaprune_bench.types import (
    ActionChunk,
    CallMeasures,
    CallRow,
    EpisodeRow,
    Status,
    UserError,
)

Done = tuple[Job, EpisodeRow, list[CallRow]]
Asked = tuple[EpisodeRecord, ActionRequest]

EPISODES_PER_WORKER = 200
"""Episodes after which a worker's process is replaced: what leaks in it does not add up."""
START_S = 120.0
"""Silence a worker's process is allowed at least until it takes orders."""
FALSE_STARTS = 3
"""Episodes that may fail before a first scene has stood in this run, and workers in a row that
may end without an episode."""


@dataclass(eq=False)
class WorkerSlot:
    """A worker and what it is doing."""

    worker: Worker
    deadline: float
    """When its silence has lasted too long (monotonic clock); infinite while it waits for us."""
    ready: bool = False
    played: int = 0
    task: int | None = None
    """The one it has open."""
    record: EpisodeRecord | None = None


@dataclass
class Server:
    """Runs episodes on simulators; to be closed (or used as a context manager)."""

    policy: Policy
    guard: SceneGuard
    pool: Pool
    workers: int
    """Simulators at once; 0: one, in this process, which no watchdog can watch."""
    batch: int = 1
    """Episodes a policy call may serve."""
    timeout: float = 300.0
    """Seconds a simulator may be silent while it has something to do."""
    recycle_after: int = EPISODES_PER_WORKER
    slots: list[WorkerSlot] = field(default_factory=list)
    asking: deque[tuple[WorkerSlot, ActionRequest]] = field(default_factory=deque)
    """Who waits for actions, the longest first."""
    opened: bool = False
    """Whether a scene has stood."""
    held: list[Done] = field(default_factory=list)
    """Episodes that failed before the first scene: they are rows once one has stood."""
    false_starts: int = 0
    memories: dict[EpisodeRecord, Memory] = field(default_factory=dict)
    """Of the episodes that have called."""
    warm: set[tuple[str, int, tuple[int, ...]]] = field(default_factory=set)
    """Methods, batch sizes and sequence lengths that ran: the first call of each is a warm-up."""

    def run(self, jobs: Iterable[Job] | Schedule, stopping: Callable[[], bool]) -> Iterator[Done]:
        """Run episodes; each is yielded with its rows when it has ended, whatever came of it.

        Args:
            jobs: in the order wanted.
            stopping: once true, no further episode is begun.

        Raises:
            UserError: something the user can put right.
        """
        schedule = Schedule.of(jobs)
        run = self._run_here if self.workers == 0 else self._run_elsewhere
        for done in run(schedule, stopping):
            yield from self._open(done)
        if self.held and not stopping():
            raise self._refusal(str(self.held[0][1].error))

    def _open(self, done: Done) -> Iterator[Done]:
        """What is finished, as long as scenes can stand here at all.

        Raises:
            UserError: none did.
        """
        self.held.append(done)
        if not self.opened:
            self._false_start(str(done[1].error))
            return
        yield from self.held
        self.held.clear()

    def _false_start(self, why: str) -> None:
        self.false_starts += 1
        if self.false_starts >= FALSE_STARTS:
            raise self._refusal(why)

    def _refusal(self, why: str) -> UserError:
        what = f"{FALSE_STARTS} simulators in a row ended" if self.opened else "no scene opens here"
        return UserError(
            f"{what}: {' '.join(why.split()).rstrip('.')}; vlaprune-doctor looks into it, "
            "--workers 0 runs the simulator in this process."
        )

    def _run_elsewhere(self, schedule: Schedule, stopping: Callable[[], bool]) -> Iterator[Done]:
        while True:
            self._staff(Schedule(()) if stopping() else schedule)
            if not self.slots:
                return
            yield from self._listen()
            self._answer()

    def _run_here(self, schedule: Schedule, stopping: Callable[[], bool]) -> Iterator[Done]:
        record: EpisodeRecord

        def ask(message: Message) -> ActionChunk | None:
            if isinstance(message, ActionRequest):
                return self._act([(record, message)])[0]
            self._note(record, message)
            return None

        player, task = Player(ask), None
        try:
            while schedule and not stopping():
                job = schedule.take(task, [])
                task = job.spec.task
                record = EpisodeRecord(job, self.workers)
                done = self._finish(record, player.play(self._order(job)))
                if done[1].status != Status.OK:
                    player.close()  # whatever went wrong may have left it in any state
                yield done
        finally:
            player.close()

    def _order(self, job: Job) -> Order:
        setup, spec = job.setup, job.spec
        return setup.order(spec, self.guard.first_trial(setup.scene(spec)))

    def _note(self, record: EpisodeRecord, message: Message) -> None:
        """Keep what a simulator tells of its episode."""
        if isinstance(message, Opened):
            record.opened = message
            return
        assert isinstance(message, SceneReady)
        assert record.opened is not None
        record.scene, self.opened, self.false_starts = message, True, 0
        place, name = record.job.setup.scene(record.job.spec), record.opened.name
        if message.compared is not None:
            trial, scene = message.compared
            self.guard.check({**place, "trial": trial}, name, scene)
        self.guard.check(place, name, message.scene_hash)
        if note := self.guard.compare_frames(place, message.frames_hash):
            record.notes.append(note)

    def _act(self, requests: Sequence[Asked]) -> list[ActionChunk | None]:
        """Answer calls of different episodes; None for one that failed."""
        answers: list[ActionChunk | None] = []
        for (record, request), result in zip(requests, self._results(requests), strict=True):
            record.moved(request.moved)
            if isinstance(result, UserError):
                raise result
            if isinstance(result, Exception):
                record.error = describe(result)
                answers.append(None)
            else:
                record.answered(request, result, self._is_first(record, result.measures))
                answers.append(result)
        return answers

    def _is_first(self, record: EpisodeRecord, measures: CallMeasures) -> bool:
        """Whether a call is the first of its kind here; to be asked once a call."""
        method = record.job.setup.config.what.pruner.name
        kind = method, measures.batch_size, tuple(measures.tokens_per_layer or ())
        first = kind not in self.warm
        self.warm.add(kind)
        return first

    def _results(self, requests: Sequence[Asked]) -> list[ActionChunk | Exception]:
        try:
            calls = [
                PolicyCall(self._memory(record), request.observation, request.eef_poses)
                for record, request in requests
            ]
            if len(calls) > 1:
                return self.policy.act_many(calls)
            (call,) = calls
            return [self.policy.act(call.memory, call.observation, call.eef_poses)]
        except Exception as failure:  # noqa: BLE001 - recorded as the episodes' status
            return [failure] * len(requests)

    def _memory(self, record: EpisodeRecord) -> Memory:
        """The memory of an episode, made at its first call, with its method's own."""
        if record not in self.memories:
            assert record.opened is not None
            setup, spec = record.job.setup, record.job.spec
            self.memories[record] = self.policy.start(
                record.opened.instruction,
                draw_seed(spec),
                setup.config.what.pruner,
                noise_seed(spec),
            )
        return self.memories[record]

    def _finish(self, record: EpisodeRecord, ended: Ended) -> Done:
        self._forget(record)
        return record.job, *record.finish(ended)

    def _forget(self, record: EpisodeRecord) -> None:
        if (memory := self.memories.pop(record, None)) is not None:
            self.policy.end(memory)

    def _staff(self, schedule: Schedule) -> None:
        """Give every worker that is free an order, or send it home; start workers for the rest."""
        for slot in [slot for slot in self.slots if slot.ready and slot.record is None]:
            if schedule and slot.played < self.recycle_after:
                self._give_order(slot, schedule)
            else:
                self._dismiss(slot)
        starting = sum(not slot.ready for slot in self.slots)
        for _ in range(min(self.workers - len(self.slots), len(schedule) - starting)):
            patience = max(self.timeout, START_S)
            self.slots.append(WorkerSlot(self.pool.start(), time.monotonic() + patience))

    def _give_order(self, slot: WorkerSlot, schedule: Schedule) -> None:
        others = [s.task for s in self.slots if s is not slot and s.task is not None]
        job = schedule.take(slot.task, others)
        slot.task = job.spec.task
        slot.record = EpisodeRecord(job, self.workers)
        self._send(slot, self._order(job))

    def _send(self, slot: WorkerSlot, message: Order | ActionChunk | None) -> None:
        slot.deadline = time.monotonic() + self.timeout
        slot.worker.send(message)

    def _dismiss(self, slot: WorkerSlot) -> None:
        # nothing of worth is in a worker: killing it is quick, whatever state it is in
        self.slots.remove(slot)
        slot.worker.kill()

    def _listen(self) -> Iterator[Done]:
        """Take in what workers say; not waiting for it while somebody waits for actions."""
        first = min(slot.deadline for slot in self.slots)
        patience = 0.0 if self.asking else max(0.0, first - time.monotonic())
        for slot in self._speaking(self.slots, None if math.isinf(patience) else patience):
            try:
                message = slot.worker.receive()
            except WorkerDied as end:
                yield from self._lost(slot, Status.ERROR, f"the simulator's process died: {end}")
            else:
                yield from self._hear(slot, message)
        for slot in self._silent():
            why = f"no sign of life from the simulator for {self.timeout:g} s"
            yield from self._lost(slot, Status.TIMEOUT, why)

    def _silent(self) -> list[WorkerSlot]:
        """Those whose silence has lasted too long."""
        overdue = [slot for slot in self.slots if slot.deadline < time.monotonic()]
        # this process may have been busy elsewhere, and not they
        spoken = self._speaking(overdue, 0.0) if overdue else []
        return [slot for slot in overdue if slot not in spoken]

    def _speaking(self, slots: Sequence[WorkerSlot], timeout: float | None) -> list[WorkerSlot]:
        found = self.pool.wait([slot.worker for slot in slots], timeout)
        return [slot for slot in slots if slot.worker in found]

    def _hear(self, slot: WorkerSlot, message: Message) -> Iterator[Done]:
        slot.deadline = time.monotonic() + self.timeout
        record = slot.record
        if isinstance(message, Refused):
            raise UserError(message.sentence)
        if isinstance(message, Ready):
            slot.ready = True
            return
        assert record is not None
        if isinstance(message, ActionRequest):
            slot.deadline = math.inf
            self.asking.append((slot, message))
        elif isinstance(message, Ended):
            slot.record = None
            slot.played += 1
            done = self._finish(record, message)
            if done[1].status != Status.OK:  # whatever went wrong may have left it in any state
                self._dismiss(slot)
            yield done
        else:
            self._note(record, message)

    def _answer(self) -> None:
        """Serve those who have waited longest for actions."""
        if not self.asking:
            return
        served = [self.asking.popleft() for _ in range(min(self.batch, len(self.asking)))]
        requests = [(slot.record, call) for slot, call in served if slot.record is not None]
        for (slot, _), chunk in zip(served, self._act(requests), strict=True):
            self._send(slot, chunk)

    def _lost(self, slot: WorkerSlot, status: Status, why: str) -> Iterator[Done]:
        """A worker that is gone, or given up: its episode is a row, another worker goes on."""
        self._dismiss(slot)
        self.asking = deque(entry for entry in self.asking if entry[0] is not slot)
        if slot.record is not None:
            record = slot.record
            self._forget(record)
            why = f"{why}, {record.where()}"
            yield record.job, *record.give_up(status, why)
        else:
            self._false_start(why)

    def close(self) -> None:
        """End all workers now."""
        for slot in list(self.slots):
            self._dismiss(slot)
        self.asking.clear()
        for record in list(self.memories):
            self._forget(record)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
