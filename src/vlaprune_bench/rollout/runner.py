"""Run what a results folder lacks of one or many cells (configurations), interleaved.

Cells that share everything but the method run scene by scene: every cell on one task and trial
before the next, on one loaded policy whose method is swapped. So a run that was stopped anywhere
is still a paired comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from vlaprune_bench.config import EvalConfig, dump, run_id, world
from vlaprune_bench.rollout.display import Display
from vlaprune_bench.rollout.identity import (
    Facts,
    episode_ids,
    executed,
    facts_note,
    known_facts,
    specs,
)
from vlaprune_bench.rollout.interrupt import INTERRUPTED, Interrupt
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.launcher import Launcher, Local
from vlaprune_bench.rollout.scene_guard import COLUMNS, SceneGuard
from vlaprune_bench.rollout.setup import Loaded, Setup
from vlaprune_bench.store import Store, read_episodes
from vlaprune_bench.tracking import Tracker
from vlaprune_bench.types import EpisodeRow, Status


def by_world(cells: Iterable[EvalConfig]) -> list[list[EvalConfig]]:
    """Cells grouped by what they must share to run together, in order of appearance."""
    groups: dict[EvalConfig, list[EvalConfig]] = {}
    for cell in cells:
        groups.setdefault(world(cell), []).append(cell)
    return list(groups.values())


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    """0; 1 where an episode asked for ended in an error, now or before; 130 after Ctrl-C."""
    asked: frozenset[str]
    """Ids of the episodes of all cells that were looked at."""


def run_cells(
    cells: Sequence[EvalConfig],
    command_line: Sequence[str],
    *,
    retry: bool = False,
    launcher: Launcher | None = None,
) -> Outcome:
    """Run what is missing of some cells in their results folder.

    Args:
        cells: of one output folder.
        command_line: kept beside the configurations.
        retry: run the episodes again that ended in an error or a timeout, and only those.
        launcher: where episodes run; by default on this machine.

    Raises:
        UserError: something the user can put right.
    """
    store = Store(cells[0].storage.output)
    with store.writing() as set_aside, Display(cells) as display:
        for sentence in set_aside:
            display.warn(sentence)
        runner = Runner(store, display, launcher or Local(), retry)
        try:
            for group in by_world(cells):
                if runner.interrupted:
                    break
                runner.run(group, command_line)
        except KeyboardInterrupt:
            runner.interrupted = True
        return runner.finish()


@dataclass
class Runner:
    """One command on one results folder, which it holds."""

    store: Store
    display: Display
    launcher: Launcher
    retry: bool = False
    interrupted: bool = False
    there: dict[str, str | None] = field(default_factory=dict)
    """Episodes in the folder; of those that failed, what the next attempt says about it."""
    asked: set[str] = field(default_factory=set)
    """Ids of the episodes of all cells seen."""

    def __post_init__(self) -> None:
        columns = ["episode_id", "status", "error", "warnings", *COLUMNS]
        rows = read_episodes(self.store.folder, columns)[0].to_pylist()
        self.guard = SceneGuard(self.store.folder, rows)
        for row in rows:
            failed = row["status"] != Status.OK
            self.there[row["episode_id"]] = _attempt(row) if failed else None

    def run(self, cells: Sequence[EvalConfig], command_line: Sequence[str]) -> None:
        """Run what is missing of the cells of one world; Ctrl-C keeps what was finished."""
        known = known_facts(self.store.folder, cells[0])
        if (
            known
            and not any(self._missing(cell, known) for cell in cells)
            and self.launcher.confirmed(cells[0], known)
        ):
            self._count(cells, known)
            return
        loaded = self.load(cells, command_line)
        self._count(cells, loaded.facts)
        self.play(self._jobs(cells, loaded))

    def load(self, cells: Sequence[EvalConfig], command_line: Sequence[str]) -> Loaded:
        """Load what the cells of one world share, and note their configurations and facts."""
        known = known_facts(self.store.folder, cells[0])
        loaded = self.launcher.load(cells)
        for cell in cells:
            executed(cell.what, loaded.facts)  # refused before anything is written
        for cell in cells:
            text = f"# {' '.join(command_line)}\n{dump(cell)}"
            self.store.save_config(run_id(cell), text)
        if loaded.facts != known and loaded.checkpoint is not None:
            self.store.save_note(*facts_note(cells[0], loaded.facts, loaded.checkpoint))
        for warning in dict.fromkeys(w for cell in cells for w in Setup(cell, loaded).warnings):
            self.display.warn(warning)
        return loaded

    def _missing(self, cell: EvalConfig, facts: Facts) -> set[str]:
        """Ids of the episodes of a cell to run."""
        ids = set(episode_ids(cell, facts).values())
        if self.retry:
            return {i for i in ids if self.there.get(i) is not None}
        return ids - self.there.keys()

    def _count(self, cells: Sequence[EvalConfig], facts: Facts) -> None:
        """Say, once, what is not run again."""
        others: dict[EvalConfig, int] = {}
        for cell in cells:
            ids = set(episode_ids(cell, facts).values())
            others[cell] = len(ids - self._missing(cell, facts))
            self.asked |= ids
        self.display.skip(others)

    def _jobs(self, cells: Sequence[EvalConfig], loaded: Loaded) -> list[Job]:
        """The missing episodes of all cells, scene by scene."""
        jobs: dict[str, Job] = {}
        for cell in cells:
            setup, missing = Setup(cell, loaded), self._missing(cell, loaded.facts)
            ids = episode_ids(cell, loaded.facts)
            for spec in specs(cell):
                episode = ids[spec.task, spec.trial]
                if episode in missing:  # once, where two cells are the same
                    jobs.setdefault(episode, Job(setup, spec, self.there.get(episode)))
        # the order of tasks is the one asked for; sorting is stable, so cells stay in order
        tasks = dict.fromkeys(task for cell in cells for task in cell.what.tasks)
        order = {task: place for place, task in enumerate(tasks)}
        return sorted(jobs.values(), key=lambda job: (order[job.spec.task], job.spec.trial))

    def play(
        self, jobs: Sequence[Job] | Schedule, heard: Callable[[EpisodeRow], None] | None = None
    ) -> None:
        """Run episodes; what comes of each is written, shown and mirrored.

        Args:
            jobs: in the order wanted.
            heard: is told of each row once it is written, and may then add to the schedule.
        """
        interrupt = Interrupt(self.display.say)
        done = self.launcher.run(jobs, self.guard, lambda: interrupt.asked, self.display.say)
        with interrupt, Tracker(self.display.warn) as tracker, closing(done):
            try:
                for job, row in self._written(done):
                    if heard is not None:
                        heard(row)
                    tracker.log(job.setup.config, row)
                    self.display.show(job.setup.config, row)
            except KeyboardInterrupt:
                interrupt.asked = True
            self.interrupted |= interrupt.asked

    def _written(self, done: Iterable[Any]) -> Iterator[tuple[Job, EpisodeRow]]:
        for job, row, calls in done:
            self.store.append(row, calls)
            self.store.compact()
            self.there[row.episode_id] = None if row.status == Status.OK else _attempt(vars(row))
            yield job, row

    def finish(self) -> Outcome:
        """Merge parts, and say how it ended."""
        self.store.compact()
        failed = sum(self.there.get(episode) is not None for episode in self.asked)
        if self.interrupted:
            self.display.say("interrupted: what was finished is kept, the same command goes on")
        elif failed:
            self.display.say(
                f"{failed} of {len(self.asked)} episodes ended in errors (--retry-errors, or the "
                "sweep command's retry-errors, runs them again)"
            )
        elif not self.display.ran:
            self.display.say("nothing to retry" if self.retry else "finished: nothing left to run")
        code = INTERRUPTED if self.interrupted else int(bool(failed))
        return Outcome(code, frozenset(self.asked))


def _attempt(row: dict) -> str:
    """What the row of the next attempt says about a failed one."""
    counted = [re.match(r"attempt (\d+)", text) for text in row["warnings"]]
    number = max((int(match[1]) for match in counted if match), default=1)
    return f"attempt {number + 1}; the one before ended in {row['status']}: {row['error']}"
