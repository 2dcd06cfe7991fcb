"""The tables of a results folder: success, cost, tasks."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaprune_bench.measure.stats import average, rate
from vlaprune_bench.report.calls import LATENCIES, measured_calls
from vlaprune_bench.report.cells import (
    PAIR,
    TITLES,
    Cell,
    Results,
    base_of,
    mean_over_calls,
    usual,
)
from vlaprune_bench.report.runs import plan
from vlaprune_bench.report.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

INTERVALS = (
    "Success in percent with 95 % intervals: Wilson for a suite or task; for the average of suites "
    "a bootstrap over tasks and trials, never shorter than Wilson's."
)
COSTS = (
    "Means per policy call. MACs: decoder prefill, 4nd²+2n²d+3ndm with the true token count of "
    "each layer. FLOPs: 2 × MAC of everything the call executed, scoring and probe layers included."
)
LATENCY = (
    "Latency: whole synchronised calls at batch size 1, warm-up calls left out; ratios are to "
    "none in the same setting on the same device."
)

EMPTY = (
    "Empty left out: masked tokens of cameras that the checkpoint declares empty, the same for "
    "every method; no pruning, and not among the visual tokens."
)


def cell_columns(results: Results) -> list[Column]:
    """The columns that say which cell a row is."""
    columns = [Column(name, name, leading=True) for name in results.shown_settings]
    columns.append(Column("method", "method", leading=True))
    columns.append(Column("keep", "keep", "number", leading=True))
    if any(cell.varying for cell in results.cells):
        columns.append(Column("options", "options", leading=True))
    return columns


def cell_values(cell: Cell) -> dict[str, Any]:
    return {
        **cell.setting,
        "method": cell.method,
        "keep": cell.keep,
        "options": cell.varying or " ",
        "cell": cell.index,
    }


class Overview:
    """What the tables and pictures of one folder share, worked out once."""

    def __init__(self, results: Results) -> None:
        self.results = results

    @cached_property
    def calls(self) -> pd.DataFrame:
        """Every policy call; of `measured_calls`."""
        return measured_calls(self.results.folder, self.results.episodes)

    @cached_property
    def by_task(self) -> dict[tuple[int, str], pd.DataFrame]:
        """Successes and trials (episodes with status ok) by task, of each cell and suite."""
        episodes = self.results.episodes
        ok = episodes[episodes.status == "ok"]
        success = ok[["cell", "suite", "task"]].assign(success=ok.success.astype(bool))
        counts = success.groupby(["cell", "suite", "task"]).success.agg(["sum", "size"])
        counts = counts.set_axis(["successes", "trials"], axis=1).reset_index()
        return {
            (int(str(key[0])), str(key[1])): group.set_index("task")
            for key, group in counts.groupby(["cell", "suite"])
        }

    @cached_property
    def absent(self) -> list[int]:
        """Missing episodes of each cell."""
        return missing(self.results)

    @cached_property
    def latencies(self) -> dict[tuple[int, str], pd.DataFrame]:
        """Latencies of calls without warm-up at batch 1, by cell and device."""
        calls = self.calls
        steady = ~calls.warmup.astype(bool) & (calls.batch_size == 1)
        steady &= calls.latency_total_ms.notna()  # a remote policy's may be unknown
        groups = calls.loc[steady, ["cell", "device", *LATENCIES]].groupby(
            ["cell", "device"], observed=True
        )
        return {(int(str(key[0])), str(key[1])): group for key, group in groups}

    @cached_property
    def success(self) -> Table:
        """Rows are cells; columns are suites and their average."""
        results = self.results
        rows = [self._rates(cell) for cell in results.cells]
        columns = cell_columns(results)
        columns += [Column(suite, TITLES.get(suite, suite), "percent") for suite in results.suites]
        if len(self.averaged) > 1:
            columns.append(Column("average", "average", "percent"))
        columns += [Column(n, n, "count") for n in ("episodes", "errors", "missing")]
        notes = [INTERVALS, "Errors and timeouts are no failures and count in no rate."]
        if len(self.averaged) > 1 and any("average" not in row for row in rows):
            notes.append("No average where a suite is missing.")
        if len(self.averaged) < len(results.suites):
            notes.append("Perturbed suites are in no average.")
        return Table("success", f"Success rates{self.shared}", columns, rows, notes)

    @property
    def averaged(self) -> list[str]:
        """The suites of the average: LIBERO's own, or perturbed ones where there are no others."""
        suites = self.results.suites
        return [suite for suite in suites if base_of(suite) == suite] or suites

    def _rates(self, cell: Cell) -> dict[str, Any]:
        """Success of a cell by suite, their average, and what is not in it."""
        episodes, suites = self.results.episodes_of(cell), self.results.suites
        counts = {s: self.by_task[cell.index, s] for s in suites if (cell.index, s) in self.by_task}
        row = cell_values(cell)
        for suite, own in counts.items():
            row[suite] = rate(int(own.successes.sum()), int(own.trials.sum()))
        if all(suite in counts for suite in self.averaged):
            whole = [counts[suite] for suite in self.averaged]
            row["average"] = average(
                [(own.successes.to_numpy(), own.trials.to_numpy()) for own in whole]
            )
        row["episodes"] = int((episodes.status == "ok").sum())
        row["errors"] = len(episodes) - row["episodes"]
        row["missing"] = self.absent[cell.index]
        return row

    @property
    def shared(self) -> str:
        """What all cells have in common, for titles."""
        setting = self.results.cells[0].setting
        shown = [
            f"{value} assets" if name == "assets" else value
            for name, value in setting.items()
            if name not in self.results.shown_settings and not usual(name, setting)
        ]
        return f": {', '.join(shown)}" if shown else ""

    @cached_property
    def cost(self) -> Table:
        """Rows are cells on a device; what a policy call costs."""
        results = self.results
        rows = self._costs()
        columns = cell_columns(results)
        if results.episodes.device.nunique() > 1:
            columns.append(Column("device", "device"))
        columns.append(Column("tokens", "visual\ntokens", "count"))
        empty = any(row["empty"] > 0 for row in rows)
        if empty:
            columns.append(Column("empty", "empty\nleft out", "count"))
        columns += [
            Column("pruned", "pruned\ncalls %", "percent"),
            Column("macs", "prefill\nMACs", "flops"),
            Column("macs_ratio", "÷ none", "ratio"),
            Column("flops", "total\nFLOPs", "flops"),
            Column("flops_ratio", "÷ none", "ratio"),
            Column("p50", "p50\nms", "ms"),
            Column("p90", "p90\nms", "ms"),
            Column("p50_ratio", "p50\n÷ none", "ratio"),
            Column("p90_ratio", "p90\n÷ none", "ratio"),
        ]
        notes = [COSTS, LATENCY, *([EMPTY] if empty else [])]
        if any(row["p50_source"] == "episodes" for row in rows):
            notes.append("Where no call rows are at hand, p50 is the median of episodes' medians.")
        return Table("cost", f"Cost per policy call{self.shared}", columns, rows, notes)

    def _costs(self) -> list[dict[str, Any]]:
        """A row for each cell on each device, with its ratios to none there."""
        results = self.results
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for cell in results.cells:
            for device, episodes in results.episodes_of(cell).groupby("device"):
                row = {**cell_values(cell), "device": str(device), **_means(episodes)}
                row |= self._latency(cell, str(device), episodes)
                rows[cell.index, str(device)] = row
        for (index, device), row in rows.items():
            base = results.baseline(results.cells[index])
            if base and (none := rows.get((base.index, device))):
                for name in ("macs", "flops", "p50", "p90"):
                    row[f"{name}_ratio"] = _ratio(row[name], none[name])
        return list(rows.values())

    def _latency(self, cell: Cell, device: str, episodes: pd.DataFrame) -> dict[str, Any]:
        import numpy as np

        calls = self.latencies.get((cell.index, device))
        if calls is not None:
            p50, p90 = np.quantile(calls.latency_total_ms, (0.5, 0.9))
            return {"p50": float(p50), "p90": float(p90), "p50_source": "calls"}
        medians = episodes[episodes.batch_size == 1].latency_p50_ms
        p50 = float(medians.median()) if medians.notna().any() else math.nan
        return {"p50": p50, "p90": math.nan, "p50_source": "" if math.isnan(p50) else "episodes"}

    @cached_property
    def tasks(self) -> Table:
        """Rows are tasks, columns are cells: success rates with Wilson intervals."""
        results = self.results
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        names = results.episodes.drop_duplicates(["suite", "task"])
        for suite, task, name in sorted(
            zip(names.suite, names.task, names.task_name, strict=True),
            key=lambda key: (results.suites.index(key[0]), key[1]),
        ):
            rows[suite, task] = {"suite": TITLES.get(suite, suite), "task": task, "name": name}
        for (index, suite), counts in self.by_task.items():
            for task, successes, trials in counts[["successes", "trials"]].itertuples():
                rows[suite, task][f"c{index}"] = rate(successes, trials)
        columns = [Column("suite", "suite", leading=True)]
        columns.append(Column("task", "task", "count", leading=True))
        columns.append(Column("name", "name", leading=True))
        columns += [Column(f"c{c.index}", _full(results, c), "percent") for c in results.cells]
        return Table("tasks", f"Success by task{self.shared}", columns, list(rows.values()))


def _full(results: Results, cell: Cell) -> str:
    """A cell's label with the parts of its setting that are not shared."""
    parts = [*(cell.setting[name] for name in results.shown_settings), cell.label]
    return " ".join(filter(None, parts))


def _means(episodes: pd.DataFrame) -> dict[str, float]:
    """Means over calls of what episodes give as means over their own calls."""
    names = {
        "tokens": "visual_tokens_kept_mean",
        "empty": "empty_tokens_dropped_mean",
        "pruned": "pruned_call_fraction",
        "macs": "llm_prefill_macs_mean",
        "flops": "total_flops_mean",
    }
    return {key: mean_over_calls(episodes, column) for key, column in names.items()}


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


def missing(results: Results) -> list[int]:
    """How many episodes each cell lacks.

    Expected are those that its runs' configurations name and those that any cell of the same
    setting has.
    """
    known = results.episodes[["pair", *PAIR]].drop_duplicates("pair")
    numbers = {tuple(key): number for number, *key in known.itertuples(index=False, name=None)}
    plans = {
        run: {numbers.get(key, key) for key in plan(text)} for run, text in results.runs.items()
    }
    have: list[set[Any]] = []
    seen: dict[str, set[Any]] = {}
    for cell in results.cells:
        have.append(set(results.episodes_of(cell).pair))
        seen.setdefault(repr(cell.setting), set()).update(have[-1])
    counts = []
    for cell in results.cells:
        runs = results.episodes_of(cell).run_id.unique()
        expected = seen[repr(cell.setting)].union(*(plans.get(run, ()) for run in runs))
        counts.append(len(expected - have[cell.index]))
    return counts
