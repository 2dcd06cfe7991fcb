"""Run what a results folder lacks of one or many cells (configurations), interleaved.

Cells that share everything but the method run scene by scene: every cell on one task and trial
before the next, on one loaded policy whose method is swapped. So a run that was stopped anywhere
is still a paired comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlaprune_bench.config import EvalConfig, dump, run_id
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.rollout.display import Display
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.identity import Facts, episode_ids, facts_note, known_facts
from vlaprune_bench.rollout.interrupt import INTERRUPTED, Interrupt
from vlaprune_bench.rollout.launcher import Launcher, Local
from vlaprune_bench.rollout.running import Job
from vlaprune_bench.rollout.scene_guard import StoredScenes
from vlaprune_bench.store import Store, read_episodes
from vlaprune_bench.tracking import Tracker
from vlaprune_bench.types import EpisodeRow, Status


def world(config: EvalConfig) -> EvalConfig:
    """What cells must share to run on one policy and in one simulator: all but the method, which
    episodes, how they are cut and where their rows go."""
    return replace(
        config,
        pruner=NoPruning(),
        task_ids=(),
        trials=1,
        seed=0,
        max_steps=None,
        execute_steps=None,
        video="none",
        output=Path(),
        wandb=False,
        wandb_project="",
        wandb_entity=None,
        wandb_group=None,
    )


def by_world(cells: Iterable[EvalConfig]) -> list[list[EvalConfig]]:
    """Cells grouped by world, in order of appearance."""
    groups: dict[EvalConfig, list[EvalConfig]] = {}
    for cell in cells:
        groups.setdefault(world(cell), []).append(cell)
    return list(groups.values())


def run_cells(
    cells: Sequence[EvalConfig],
    command_line: Sequence[str],
    *,
    retry: bool = False,
    whole_folder: bool = True,
    launcher: Launcher | None = None,
) -> int:
    """Run what is missing of some cells in their results folder.

    Args:
        cells: of one output folder.
        command_line: kept beside the configurations.
        retry: run the episodes again that ended in an error or a timeout, and only those.
        whole_folder: the table at the end is over all the folder holds, not these cells alone.
        launcher: where episodes run; by default on this machine.

    Returns:
        Exit code: 0, 1 where an episode ended in an error, 130 after Ctrl-C.

    Raises:
        UserError: something the user can put right.
    """
    store = Store(cells[0].output)
    with store.writing() as set_aside, Display(cells) as display:
        for sentence in set_aside:
            display.warn(sentence)
        runner = Runner(store, display, retry=retry, launcher=launcher or Local())
        try:
            for group in by_world(cells):
                if runner.interrupted:
                    break
                known = known_facts(store.folder, group[0])
                if (
                    known
                    and not runner.wanted(group, known)
                    and runner.launcher.confirmed(group[0], known)
                ):
                    continue
                engines, checkpoint = runner.launcher.load(group, store)
                for cell in group:
                    text = f"# {' '.join(command_line)}\n{dump(cell)}"
                    store.save_config(run_id(cell), text)
                if engines[0].facts != known:
                    store.save_note(*facts_note(group[0], engines[0].facts, checkpoint))
                runner.run(engines)
        except KeyboardInterrupt:
            runner.interrupted = True
        return runner.finish(whole_folder)


def run_engines(engines: Sequence[Engine]) -> int:
    """Run what is missing of engines that share policy, simulator and results folder."""
    store = engines[0].store
    with store.writing() as set_aside, Display([e.config for e in engines]) as display:
        for sentence in set_aside:
            display.warn(sentence)
        runner = Runner(store, display)
        runner.run(engines)
        return runner.finish(whole_folder=True)


@dataclass
class Runner:
    """One command on one results folder, which it holds."""

    store: Store
    display: Display
    retry: bool = False
    launcher: Launcher = field(default_factory=Local)
    interrupted: bool = False
    failed: bool = False
    """Whether an episode ended in an error."""
    there: dict[str, str | None] = field(default_factory=dict)
    """Episodes in the folder; of those that failed, what the next attempt says about it."""
    asked: set[str] = field(default_factory=set)
    """Ids of the episodes of all cells seen."""

    def __post_init__(self) -> None:
        columns = ["episode_id", "status", "error", "warnings"]
        for row in read_episodes(self.store.folder, columns)[0].to_pylist():
            failed = row["status"] != Status.OK
            self.there[row["episode_id"]] = _attempt(row) if failed else None

    def wanted(self, cells: Sequence[EvalConfig], facts: Facts) -> dict[str, EvalConfig]:
        """Ids of the episodes to run, with their cells; counts the others as there."""
        todo: dict[str, EvalConfig] = {}
        others: dict[EvalConfig, int] = {}
        for cell in cells:
            ids = set(episode_ids(cell, facts).values())
            new = {i for i in ids if self._is_wanted(i)}
            others[cell] = len(ids - new)
            self.asked |= ids
            todo |= dict.fromkeys(new, cell)
        self.display.skip(others)
        return todo

    def _is_wanted(self, episode: str) -> bool:
        return self.there.get(episode) is not None if self.retry else episode not in self.there

    def run(self, engines: Sequence[Engine]) -> None:
        """Run what is missing of the cells of one world; Ctrl-C keeps what was finished."""
        for warning in engines[0].warnings():
            self.display.warn(warning)
        jobs = self._jobs(engines)
        interrupt = Interrupt(self.display.say)
        rows = self._rows(jobs, engines[0], lambda: interrupt.asked)
        with interrupt, Tracker(self.display.warn) as tracker, closing(rows):
            try:
                for job, row in rows:
                    tracker.log(job.engine.config, row)
                    self.display.show(job.engine.config, row)
                    self.failed |= row.status != Status.OK
            except KeyboardInterrupt:
                interrupt.asked = True
            self.interrupted |= interrupt.asked

    def _jobs(self, engines: Sequence[Engine]) -> list[Job]:
        """The missing episodes of all cells, scene by scene."""
        wanted = self.wanted([engine.config for engine in engines], engines[0].facts)
        jobs = []
        for engine in engines:
            ids = episode_ids(engine.config, engine.facts)
            for spec in engine.specs():
                episode = ids[spec.task, spec.trial]
                if wanted.pop(episode, None):  # once, where two cells are the same
                    jobs.append(Job(engine, spec, self.there.get(episode)))
        # the order of tasks is the one asked for; sorting is stable, so cells stay in order
        order = {task: i for i, task in reversed(list(enumerate(_tasks(engines))))}
        return sorted(jobs, key=lambda job: (order[job.spec.task], job.spec.trial))

    def _rows(
        self, jobs: Sequence[Job], any_engine: Engine, stopping: Callable[[], bool]
    ) -> Generator[tuple[Job, EpisodeRow]]:
        """Run episodes; each is written before it is yielded."""
        scenes = StoredScenes(any_engine.config, self.store, any_engine.assets.hash)
        with closing(self.launcher.run(jobs, scenes, stopping, self.display.say)) as done:
            for job, row, calls in done:
                self.store.append(row, calls)
                self.store.compact()
                yield job, row

    def finish(self, whole_folder: bool) -> int:
        """Merge parts, say how it ended, and print the table.

        Returns:
            The exit code.
        """
        self.store.compact()
        if self.interrupted:
            self.display.say("interrupted: what was finished is kept, the same command goes on")
        elif not self.display.ran:
            self.display.say("nothing to retry" if self.retry else "finished: nothing left to run")
        self.display.summary(self.store, None if whole_folder else self.asked)
        return INTERRUPTED if self.interrupted else int(self.failed)


def _tasks(engines: Sequence[Engine]) -> list[int]:
    return [task for engine in engines for task in engine.config.tasks]


def _attempt(row: dict) -> str:
    """What the row of the next attempt says about a failed one."""
    counted = [re.match(r"attempt (\d+)", text) for text in row["warnings"]]
    number = max((int(match[1]) for match in counted if match), default=1)
    return f"attempt {number + 1}; the one before ended in {row['status']}: {row['error']}"
