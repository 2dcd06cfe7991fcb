"""Episodes to run, and which of them is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.types import EpisodeSpec


@dataclass(frozen=True)
class Job:
    """An episode to run."""

    setup: Setup
    spec: EpisodeSpec
    note: str | None = None
    """What the reader of its row must know besides."""

    @property
    def episode_id(self) -> str:
        return self.setup.episode_id(self.spec)


class Schedule:
    """Which episode is next: a worker stays with a task, as opening one takes seconds."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._tasks: dict[int, deque[Job]] = {}
        for job in jobs:
            self.put(job)

    @classmethod
    def of(cls, jobs: Iterable[Job] | Schedule) -> Schedule:
        """Jobs as a schedule, or the schedule they are."""
        return jobs if isinstance(jobs, Schedule) else Schedule(jobs)

    @property
    def config(self) -> EvalConfig:
        """Of a job at hand; there must be one."""
        return next(iter(self._tasks.values()))[0].setup.config

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
