"""What a sweep asks for, what its results folder holds, what is missing and how long it may take.

A plan imports neither torch nor a simulator, reads no checkpoint and asks no network: what
identifies an episode besides its options (the hashes of checkpoint and assets, the precision) is
what the last run in the folder noted, as long as the checkpoint's files have not changed since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import EvalConfig, labels
from vlaprune_bench.rollout.identity import Facts, episode_ids, known_facts, settings
from vlaprune_bench.store import read_episodes
from vlaprune_bench.sweep.file import Sweep
from vlaprune_bench.types import Role, Status, columns

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ["episode_id", "status", "success", "error", "wall_s", "workers", "device"]
COLUMNS += ["method", "max_steps", *columns(Role.PAIR)]


@dataclass(frozen=True)
class CellState:
    """A cell and its episodes."""

    cell: EvalConfig
    label: str
    asked: int
    rows: list[dict[str, Any]]
    """Of its episodes that are in the folder."""
    seconds: float | None
    """What an episode takes, as far as measured, with the workers it was measured with."""

    @property
    def missing(self) -> int:
        return self.asked - len(self.rows)

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] != Status.OK]


@dataclass(frozen=True)
class Plan:
    """A sweep against its results folder."""

    sweep: Sweep
    states: list[CellState]
    warnings: list[str]
    measured: list[dict[str, Any]]
    """The rows that times are estimated from."""

    @property
    def folder(self) -> Path:
        return self.sweep.folder

    @property
    def missing(self) -> int:
        return sum(state.missing for state in self.states)

    @property
    def seconds(self) -> float | None:
        """What the missing episodes may take; None: no rate yet."""
        known = [s for s in self.states if s.missing]
        if any(s.seconds is None for s in known):
            return None
        return sum(s.missing * (s.seconds or 0.0) for s in known)


def make_plan(sweep: Sweep) -> Plan:
    """Compare a sweep with its results folder, which need not exist."""
    folder = sweep.folder
    table, warnings = read_episodes(folder, COLUMNS)
    rows = {row["episode_id"]: row for row in table.to_pylist()}
    rates = Rates(rows.values())
    facts: dict[str, Facts | None] = {}
    states = []
    for cell, label in zip(sweep.cells, labels(sweep.cells, suite=False), strict=True):
        key = str(settings(cell))
        if key not in facts:
            facts[key] = known_facts(folder, cell) if rows else None
            if rows and not facts[key]:
                warnings.append(
                    f"nothing is known of checkpoint {cell.what.checkpoint} on device "
                    f"{cell.compute.device} in "
                    f"{folder} (or its files have changed): what is done shows when it runs"
                )
        known = facts[key]
        ids = episode_ids(cell, known).values() if known else ()
        there = [rows[i] for i in ids if i in rows]
        asked = len(cell.what.tasks) * cell.what.n_trials
        states.append(CellState(cell, label, asked, there, rates.seconds(cell, there)))
    measured = [row for row in rows.values() if row["status"] == Status.OK]
    return Plan(sweep, states, [*sweep.warnings, *warnings], measured)


def _seconds(row: dict[str, Any]) -> float:
    """What an episode added to the time of its run: it shared that with those beside it."""
    return row["wall_s"] / (row["workers"] or 1)


class Rates:
    """Mean times of finished episodes, by what they have in common."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        alike: dict[tuple[int, str, str], list[float]] = {}
        for row in rows:
            if row["status"] == Status.OK:
                kind = row["max_steps"], row["suite"], row["method"]
                alike.setdefault(kind, []).append(_seconds(row))
        self._times: dict[tuple[Any, ...], list[float]] = {}
        for kind, times in alike.items():
            for key in self._keys(*kind):
                self._times.setdefault(key, []).extend(times)

    @staticmethod
    def _keys(budget: int, suite: str, method: str) -> list[tuple[Any, ...]]:
        """Keys of rates, from those of the most alike episodes to that of any at all."""
        return [(budget, suite, method), (budget, suite), (budget,), (suite, method), ()]

    def seconds(self, cell: EvalConfig, own: Iterable[dict[str, Any]]) -> float | None:
        """What an episode of a cell may take: the mean of its own (`own`), else of the most alike
        there are; None: no episode was finished."""
        mine = [_seconds(row) for row in own if row["status"] == Status.OK]
        keys = self._keys(cell.what.budget, cell.what.suite, cell.what.pruner.name)
        times = mine or next((self._times[key] for key in keys if key in self._times), [])
        return sum(times) / len(times) if times else None


def show(plan: Plan, console: Console) -> None:
    """Print a plan."""
    sweep, states = plan.sweep, plan.states
    scenes = {
        (s.cell.what.suite, task, k)
        for s in states
        for task in s.cell.what.tasks
        for k in range(s.cell.what.n_trials)
    }
    done = sum(len(s.rows) - len(s.failed) for s in states)
    failed = sum(len(s.failed) for s in states)
    asked = sum(s.asked for s in states)
    console.print(
        f"sweep {sweep.name}: {len(states)} cells, {asked} episodes on {len(scenes)} scenes, "
        f"results in {plan.folder}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(plan))
    for line in shared_work(sweep):
        console.print(line, highlight=False, soft_wrap=True)
    for sentence in plan.warnings:
        console.print(f"[yellow]warning:[/] {sentence}", highlight=False, soft_wrap=True)
    console.print(
        f"{done} done, {failed} ended in errors (retry-errors runs them again), "
        f"{plan.missing} missing{_time(plan)}",
        highlight=False,
        soft_wrap=True,
    )


def _time(plan: Plan) -> str:
    if not plan.missing:
        return ": nothing left to run"
    if plan.seconds is None:
        return "; no rate yet: no episode of this folder was finished"
    devices = ", ".join(sorted({row["device"] for row in plan.measured}))
    took = timedelta(seconds=round(plan.seconds))
    return f", about {took} at the rate of {len(plan.measured)} finished ones on {devices}"


def shared_work(sweep: Sweep) -> list[str]:
    """What cells share, in sentences."""
    loads = list(dict.fromkeys((cell.what.checkpoint, cell.what.suite) for cell in sweep.cells))
    baselines = sum(cell.what.pruner.name == "none" for cell in sweep.cells)
    return [
        f"{sweep.asked} cells asked for, {len(sweep.cells) - baselines} run and {baselines} "
        f"baseline{'s' * (baselines != 1)} (none, once for each checkpoint, suite and set of "
        "episodes)",
        *(f"{name}: loaded once for {suite}, its methods interleaved" for name, suite in loads),
    ]


def _table(plan: Plan, success: bool = False) -> Any:
    """Cells with their episodes; those of several suites are one line."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("cell", overflow="fold")
    names = ["episodes", "done", "errors", "missing"]
    for name in [*names, "success"] if success else names:
        table.add_column(name, justify="right", no_wrap=True)
    lines: dict[str, Counter[str]] = {}
    for state in plan.states:
        ok = [row for row in state.rows if row["status"] == Status.OK]
        line = lines.setdefault(state.label, Counter())
        line["episodes"] += state.asked
        line["done"] += len(ok)
        line["errors"] += len(state.failed)
        line["missing"] += state.missing
        line["success"] += sum(bool(row["success"]) for row in ok)
    for label, line in lines.items():
        cells = [str(line[name] or "") for name in names]
        if success:
            cells.append(_rate(line["success"], line["done"]))
        table.add_row(escape(label), *cells)
    return table


def _rate(successes: int, trials: int) -> str:
    from vlaprune_bench.measure.stats import wilson

    if not trials:
        return ""
    low, high = wilson(successes, trials)
    return f"{successes / trials:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def show_status(plan: Plan, holder: str | None, console: Console) -> None:
    """Print how far a sweep has come, and what went wrong."""
    console.print(_table(plan, success=True))
    failed = [(state.label, row) for state in plan.states for row in state.failed]
    for label, row in failed[:MAX_ERRORS]:
        console.print(
            f"{row['status']}: {row['suite']} task {row['task']} trial {row['trial']} {label}: "
            f"{row['error']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if len(failed) > MAX_ERRORS:
        console.print(f"and {len(failed) - MAX_ERRORS} more errors", highlight=False)
    for sentence in plan.warnings:
        console.print(f"[yellow]warning:[/] {sentence}", highlight=False, soft_wrap=True)
    console.print(
        f"{holder} is writing now" if holder else "nobody is writing now", highlight=False
    )
    console.print(f"{plan.missing} missing{_time(plan)}", highlight=False, soft_wrap=True)


MAX_ERRORS = 10
"""Errors that `status` tells one by one."""
