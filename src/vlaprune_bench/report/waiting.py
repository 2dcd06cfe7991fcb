"""What calls that take time cost the robot, and how smoothly it moves: tables and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.measure.stats import Rate, mean_difference, rate
from vlaprune_bench.report.cells import Cell, Results, mean_over_calls
from vlaprune_bench.report.compare import Pairs
from vlaprune_bench.report.overview import cell_columns, cell_values
from vlaprune_bench.report.table import Column, Table
from vlaprune_bench.types import CONTROL_STEP_MS

if TYPE_CHECKING:
    import pandas as pd

TIME = ("clock", "latency_source", "tick")
"""Parts of a setting that say how calls take time."""
MOTION = {
    "path_m": "path\nm",
    "rms_jerk": "RMS jerk\nm/s^3",
    "peak_speed": "peak speed\nm/s",
    "gripper_switches": "gripper\nswitches",
}
LATENCY_NOTES = [
    "Simulated time: control steps of 50 ms, held ones counted, settling and resets not. Time to "
    "success: mean over the episodes that succeed. Tasks an hour: successes over the time of all "
    "episodes. Clock stop leaves calls out: latency 0.",
    "Break-even: the longest latency at which the method still succeeds as often as none does at "
    "none's own in that row; straight lines between the latencies that ran, of the same clock. "
    "It has no interval: read it beside those of success.",
]
WORTH_NOTE = (
    "Least squares over the latencies of a curve, shown where it has two or more: what success and "
    "tasks an hour gain with every 10 ms less."
)
MOTION_NOTE = (
    "Means over finished episodes, held steps included. Differences to none on the same scenes "
    "with 95 % intervals (t): of all pairs, whoever succeeded; an episode that fails moves on to "
    "its budget's end."
)


@dataclass(frozen=True)
class Curve:
    """A method on one clock, over latency."""

    cells: list[Cell]
    """By latency, rising."""
    ms: list[float]
    success: list[Rate]
    hourly: list[float]


class Waiting:
    """What the episodes of a folder say of time."""

    def __init__(self, results: Results, found: list[Pairs]) -> None:
        self.results = results
        self.pairs = {pair.cell.index: pair for pair in found}

    @property
    def tables(self) -> list[Table]:
        """Those that have rows."""
        return [table for table in (self.latency, self.worth, self.motion) if table.rows]

    @cached_property
    def _timed(self) -> bool:
        return any(cell.setting["clock"] != "stop" for cell in self.results.cells)

    def _finished(self, cell: Cell) -> pd.DataFrame:
        own = self.results.episodes_of(cell)
        return own[own.status == "ok"].drop_duplicates("pair")

    def _ms(self, cell: Cell) -> float:
        """Mean latency of its calls in simulated time."""
        if cell.setting["clock"] == "stop":
            return 0.0
        return mean_over_calls(self._finished(cell), "drawn_latency_mean_ms")

    def _hourly(self, cell: Cell) -> float:
        own = self._finished(cell)
        hours = float(own.steps.sum()) * CONTROL_STEP_MS / 3_600_000
        return float(own.success.astype(bool).sum()) / hours if hours else math.nan

    @cached_property
    def curves(self) -> list[Curve]:
        """One for each method, clock and setting; a world that waits is latency 0 of both."""
        kinds: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in self.results.cells if self._timed else []:
            for clock, tick in self._clocks(cell):
                rest = (value for name, value in cell.setting.items() if name not in TIME)
                key = (cell.label, clock, tick, *rest)
                kinds.setdefault(key, []).append(cell)
        made = []
        for cells in kinds.values():
            cells = sorted((c for c in cells if len(self._finished(c))), key=self._ms)
            if cells:
                own = [self._finished(cell).success.astype(bool) for cell in cells]
                success = [rate(int(each.sum()), len(each)) for each in own]
                made.append(
                    Curve(cells, [*map(self._ms, cells)], success, [*map(self._hourly, cells)])
                )
        return made

    def _clocks(self, cell: Cell) -> list[tuple[str, str]]:
        """Clocks and ticks of the curves a cell is part of."""
        if cell.setting["clock"] != "stop":
            return [(cell.setting["clock"], cell.setting["tick"])]
        of = [c.setting for c in self.results.cells if c.setting["clock"] != "stop"]
        return sorted({(setting["clock"], setting["tick"]) for setting in of})

    def title(self, curve: Curve) -> str:
        """A curve's method with the parts of its setting that curves do not share."""
        shown = [name for name in self.results.shown_settings if name not in TIME]
        cell = curve.cells[-1]
        return " ".join(filter(None, [*(cell.setting[name] for name in shown), cell.label]))

    @cached_property
    def latency(self) -> Table:
        """A row for each cell."""
        rows = []
        for cell in self.results.cells if self._timed else []:
            own = self._finished(cell)
            if not len(own):
                continue
            success = own.success.astype(bool)
            rows.append(
                {
                    **cell_values(cell),
                    "ms": self._ms(cell),
                    "success": rate(int(success.sum()), len(own)),
                    "time": own.time_to_success_s.astype(float).mean(),
                    "hourly": self._hourly(cell),
                    "held": float(own.held_steps.astype(float).sum() / own.steps.sum()),
                    "break_even": self._break_even(cell),
                    "episodes": len(own),
                }
            )
        columns = [
            *cell_columns(self.results),
            Column("ms", "latency\nms", "ms"),
            Column("success", "success", "percent"),
            Column("time", "time to\nsuccess, s", "ms"),
            Column("hourly", "tasks\nan hour", "count"),
            Column("held", "steps\nheld, %", "percent"),
            Column("break_even", "break-even\nms"),
            Column("episodes", "episodes", "count"),
        ]
        return Table("latency", "What calls cost in time", columns, rows, LATENCY_NOTES)

    def _break_even(self, cell: Cell) -> str | None:
        base = self.results.baseline(cell)
        curve = next((c for c in self.curves if cell in c.cells and self._of(cell, c)), None)
        if base is None or base is cell or curve is None or not len(self._finished(base)):
            return None
        wanted = float(self._finished(base).success.astype(bool).mean())
        return break_even(curve.ms, [point.value for point in curve.success], wanted)

    def _of(self, cell: Cell, curve: Curve) -> bool:
        """Whether a curve has the cell's clock; a world that waits has no latency to break even."""
        return cell.setting["clock"] != "stop" and len(curve.cells) > 1

    @cached_property
    def worth(self) -> Table:
        """What a saved millisecond is worth: a row for each curve."""
        rows = []
        for curve in self.curves:
            if len(set(curve.ms)) > 1:
                values = cell_values(curve.cells[-1])
                success = [point.value for point in curve.success]
                rows.append(
                    {
                        **values,
                        "latency_source": None,
                        "range": f"{curve.ms[0]:.0f} to {curve.ms[-1]:.0f}",
                        "points": -10 * _slope(curve.ms, success),
                        "hourly": -10 * _slope(curve.ms, curve.hourly),
                    }
                )
        columns = [
            *(c for c in cell_columns(self.results) if c.key != "latency_source"),
            Column("range", "latencies\nms"),
            Column("points", "10 ms less:\npoints", "points"),
            Column("hourly", "10 ms less:\ntasks an hour", "number"),
        ]
        return Table("worth", "What 10 ms are worth", columns, rows, [WORTH_NOTE])

    @cached_property
    def motion(self) -> Table:
        """How cells move, and against `none` where that has the same scenes."""
        by_id = self.results.episodes.set_index("episode_id")
        rows = []
        for cell in self.results.cells:
            own = self._finished(cell)
            row: dict[str, Any] = {n: own[n].astype(float).mean() for n in MOTION}
            if all(math.isnan(value) for value in row.values()):
                continue  # from before these columns
            if pair := self.pairs.get(cell.index):
                mine = by_id.loc[pair.frame.episode_id]
                theirs = by_id.loc[pair.frame.episode_id_none]
                for name in MOTION:
                    gaps = mine[name].astype(float).to_numpy() - theirs[name].astype(float)
                    row[f"{name}_gap"] = mean_difference(gaps[~np.isnan(gaps)])
            rows.append({**cell_values(cell), **row})
        columns = cell_columns(self.results)
        for name, title in MOTION.items():
            columns.append(Column(name, title, "number"))
            if self.pairs:
                columns.append(Column(f"{name}_gap", "less\nnone's", "interval"))
        return Table("motion", "How smoothly it moves", columns, rows, [MOTION_NOTE])


def break_even(ms: Sequence[float], success: Sequence[float], wanted: float) -> str | None:
    """The longest latency at which a curve still succeeds so often, in words.

    Args:
        ms: latencies of the curve, rising.
        success: rates at them.
        wanted: a rate.

    Returns:
        ms; "over X" where the longest that ran does; None: nowhere, or beyond the curve.
    """
    if success[-1] >= wanted:
        return f"over {ms[-1]:.0f}"
    for k in range(len(ms) - 2, -1, -1):
        if success[k] >= wanted:
            share = (success[k] - wanted) / (success[k] - success[k + 1])
            return f"{ms[k] + share * (ms[k + 1] - ms[k]):.0f}"
    return f"under {ms[0]:.0f}"


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(x, y, 1)[0])
