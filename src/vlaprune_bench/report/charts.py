"""What the pictures show, apart from how they are drawn.

A `Chart` is drawn twice: by matplotlib into a file (`plots`), by plotly in the page (`page`).
Success is in percent here, ready for an axis.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlaprune_bench.measure.stats import Rate
from vlaprune_bench.report.build import Report
from vlaprune_bench.report.calls import LATENCIES, STAGES, select_calls
from vlaprune_bench.report.cells import TITLES, Cell
from vlaprune_bench.report.sweeps import Axis, value_of

if TYPE_CHECKING:
    import pandas as pd

TIMELINES = 12
"""Episodes whose gate is drawn, at most."""
MOTION = "eef_displacement"
CONTROL_HZ = 20
WRAP = 40
"""Where the names of tasks break, characters."""
BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a box: whisker, box, median, box, whisker."""


@dataclass(frozen=True)
class Series:
    """Points of one name, in drawing order."""

    name: str
    x: list[Any]
    y: list[Any]
    low: list[float] = field(default_factory=list)
    """Lower ends of intervals, as long as y, or empty."""
    high: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    """A label for each point, or empty."""
    dashed: bool = False
    right: bool = False
    """Belongs to the axis on the right."""
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    """Quantiles `BOX` of each point of a chart of boxes."""


@dataclass(frozen=True)
class Chart:
    """One picture."""

    name: str
    """File name without suffix."""
    group: str
    """Charts of one group are variants of one picture: the page shows one and offers the rest."""
    variant: str
    kind: Literal["points", "lines", "steps", "heat", "boxes"]
    x_title: str
    y_title: str
    series: list[Series]
    right_title: str = ""
    grid: list[list[float]] = field(default_factory=list)
    """Values of a heat map, rows of `series[0].y` by columns of `series[0].x`; nan: nothing."""
    note: str = ""

    @property
    def title(self) -> str:
        return f"{self.group}: {self.variant}" if self.variant else self.group


def charts(report: Report) -> list[Chart]:
    """Every picture of a report for which there is something to show."""
    made = [*_costs(report)]
    for axis in report.axes:
        made += _sweep(report, axis)
    made += [
        *_severity(report),
        *_over_latency(report),
        *_heat(report),
        *_timelines(report),
        *_tokens(report),
        *_latency(report),
    ]
    return [chart for chart in made if any(series.x for series in chart.series)]


def _outcomes(report: Report) -> list[tuple[str, str]]:
    """Key and title of every success column: the average first, then suites."""
    columns = [c for c in report.overview.success.columns if c.kind == "percent"]
    return [(c.key, c.title) for c in sorted(columns, key=lambda c: c.key != "average")]


def _name(*parts: str) -> str:
    """A file name out of words."""
    text = "-".join(part for part in parts if part).lower()
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def _points(name: str, found: list[tuple[Any, Rate, str]], dashed: bool = False) -> Series:
    rates = [rate for _, rate, _ in found]
    return Series(
        name,
        [x for x, _, _ in found],
        [100 * r.value for r in rates],
        [100 * r.low for r in rates],
        [100 * r.high for r in rates],
        [text for _, _, text in found],
        dashed,
    )


def full_label(report: Report, cell: Cell) -> str:
    """A cell's label with the parts of its setting that are not shared."""
    shown = report.results.shown_settings
    return " ".join(filter(None, [*(cell.setting[name] for name in shown), cell.label]))


def _costs(report: Report) -> list[Chart]:
    """Success against FLOPs and against latency, one chart for each outcome and device."""
    devices = sorted({row["device"] for row in report.overview.cost.rows})
    several = len(devices) > 1
    made = []
    for key, x_title, group, scale in (
        ("flops", "total GFLOPs per policy call", "Success against FLOPs", 1e9),
        ("p50", "median latency of a call, ms (batch 1)", "Success against latency", 1.0),
    ):
        for (outcome, title), device in product(_outcomes(report), devices):
            series = _cost_series(report, key, scale, outcome, device)
            variant = f"{title}, {device}" if several else title
            name = _name("success", key, outcome, device if several else "")
            made.append(Chart(name, group, variant, "points", x_title, "success, %", series))
    return made


def _cost_series(report: Report, key: str, scale: float, outcome: str, device: str) -> list[Series]:
    """Points of success over a cost, by method, and their front."""
    rates = {row["cell"]: row.get(outcome) for row in report.overview.success.rows}
    by_method: dict[str, list[tuple[Any, Rate, str]]] = {}
    for row in report.overview.cost.rows:
        rate, x = rates[row["cell"]], row[key]
        if row["device"] == device and isinstance(rate, Rate) and not math.isnan(x):
            label = full_label(report, report.results.cells[row["cell"]])
            by_method.setdefault(row["method"], []).append((x / scale, rate, label))
    everything = [point for found in by_method.values() for point in found]
    return [
        *(_points(method, found) for method, found in by_method.items()),
        _points("Pareto front", front(everything), dashed=True),
    ]


def front(points: list[tuple[Any, Rate, str]]) -> list[tuple[Any, Rate, str]]:
    """The points that no other beats: cheaper ones all succeed less often."""
    best, found = -math.inf, []
    for point in sorted(points, key=lambda p: (p[0], -p[1].value)):
        if point[1].value > best:
            best = point[1].value
            found.append(point)
    return found


def _sweep(report: Report, axis: Axis) -> list[Chart]:
    """Success over the values of one option."""
    rates = {row["cell"]: row for row in report.overview.success.rows}
    made = []
    for outcome, title in _outcomes(report):
        series = []
        for curve in axis.curves:
            found = []
            for cell in curve.cells:
                value = value_of(cell, axis.option)
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if isinstance(rate := rates[cell.index].get(outcome), Rate):
                    found.append((value if number else str(value), rate, cell.label))
            series.append(_points(curve.others, found))
        made.append(
            Chart(
                _name(axis.name, outcome),
                axis.title,
                title,
                "lines",
                axis.option,
                "success, %",
                series,
            )
        )
    return made


def _severity(report: Report) -> list[Chart]:
    """Success over the severity of each change."""
    made = []
    for line in report.robustness.lines:
        series = [
            _points(name, [(x, rate, f"{name}, severity {x}") for x, rate in found])
            for name, found in line.rates.items()
        ]
        for name, low in line.floors.items():
            series.append(_points(name, [(x, low, "") for x in (0, 5)], dashed=True))
        name = _name("severity", line.dimension, line.suite)
        variant = f"{line.dimension}, {line.suite}"
        axes = ("severity (0: nominal)", "success, %")
        made.append(Chart(name, "Success over severity", variant, "lines", *axes, series))
    return made


def _over_latency(report: Report) -> list[Chart]:
    """Success over the latency of calls in simulated time, a chart for each clock."""
    found: dict[str, list[Series]] = {}
    for curve in report.waiting.curves:
        points = [
            (ms, rate, f"{cell.label}, {ms:.0f} ms")
            for ms, rate, cell in zip(curve.ms, curve.success, curve.cells, strict=True)
        ]
        clock = curve.cells[-1].setting["clock"]
        found.setdefault(clock, []).append(_points(report.waiting.title(curve), points))
    axes = ("latency of a call, ms of simulated time", "success, %")
    return [
        Chart(_name("clock", clock), "Success over latency", clock, "lines", *axes, series)
        for clock, series in found.items()
    ]


def _heat(report: Report) -> list[Chart]:
    """Task by method."""
    table = report.overview.tasks
    cells = report.results.cells
    made = []
    for suite in dict.fromkeys(row["suite"] for row in table.rows):
        rows = [row for row in table.rows if row["suite"] == suite]
        nothing = Rate(math.nan)
        grid = [[100 * row.get(f"c{c.index}", nothing).value for c in cells] for row in rows]
        names = [
            textwrap.fill(f"{row['task']}: {row['name'].replace('_', ' ')}", WRAP) for row in rows
        ]
        series = Series("", [full_label(report, cell) for cell in cells], names)
        name = _name("tasks", suite)
        made.append(Chart(name, "Success by task, %", suite, "heat", "", "", [series], grid=grid))
    return made


def _timelines(report: Report) -> list[Chart]:
    """When the gate pruned, in a few episodes: the first of each cell that did both."""
    results = report.results
    mixed = results.episodes[results.episodes.pruned_call_fraction.between(0, 1, "neither")]
    chosen = mixed.groupby("cell").head(2).head(TIMELINES)
    calls = select_calls(results.folder, ["call", "step", "pruned", MOTION], set(chosen.episode_id))
    made = []
    for row in chosen.itertuples():
        own = calls[calls.episode_id == row.episode_id].sort_values("call")
        label = full_label(report, results.cells[int(str(row.cell))])
        suite = TITLES.get(str(row.suite), str(row.suite))
        variant = f"{label}: {suite} task {row.task} trial {row.trial}"
        made.append(timeline(_name("gate", str(row.episode_id)), variant, own, int(str(row.steps))))
    return made


def timeline(name: str, variant: str, calls: pd.DataFrame, steps: int) -> Chart:
    """Pruned windows and the mean speed of the end effector in each.

    Args:
        name: of the file.
        variant: says which episode it is.
        calls: of the episode, in order; with columns step, pruned and `MOTION`.
        steps: control steps the episode took.
    """
    edges = [*calls.step.tolist(), steps] if len(calls) else []
    pruned, moved = (calls[column].astype(float).tolist() for column in ("pruned", MOTION))
    times = [(end - start) / CONTROL_HZ for start, end in pairwise(edges)]
    speed = [100 * m / t if t else math.nan for m, t in zip(moved, times, strict=True)]
    series = [Series("pruned", edges, pruned + pruned[-1:])]
    if not all(math.isnan(value) for value in speed):
        series.append(Series("end-effector speed", edges, speed + speed[-1:], right=True))
    return Chart(
        name,
        "Gate over an episode",
        variant,
        "steps",
        "control step",
        "pruned window (1: yes)",
        series,
        "speed, cm/s",
        note="Speed: path of the end effector over its time, window by window.",
    )


def _tokens(report: Report) -> list[Chart]:
    """Visual tokens kept over an episode, the mean of those still running."""
    calls = report.overview.calls.dropna(subset="visual_tokens_kept")
    means = calls.groupby(["cell", "call"])[["step", "visual_tokens_kept"]].mean()
    series = []
    for index in means.index.unique("cell"):
        own = means.loc[index]
        label = full_label(report, report.results.cells[index])
        series.append(Series(label, own.step.tolist(), own.visual_tokens_kept.tolist()))
    title = "Visual tokens kept over an episode"
    note = "Mean over the episodes that are still running at that call."
    axes = ("control step", "visual tokens")
    return [Chart("tokens", title, "", "lines", *axes, series, note=note)]


def _latency(report: Report) -> list[Chart]:
    """How long calls take, in all and by stage."""
    devices = sorted({device for _, device in report.overview.latencies})
    title = "Latency of a call by stage"
    note = "Median, quartiles, and 5th to 95th percentile; warm-up calls left out."
    made = []
    for device in devices:
        series = _stages(report, device)
        name = _name("latency", device if len(devices) > 1 else "")
        made.append(Chart(name, title, device, "boxes", "", "ms (batch 1)", series, note=note))
    return made


def _stages(report: Report, device: str) -> list[Series]:
    """Boxes of the whole call, and of each stage that took any time."""
    own = {k: calls for (k, where), calls in report.overview.latencies.items() if where == device}
    labels = [full_label(report, report.results.cells[index]) for index in sorted(own)]
    # (stages, quantiles, cells)
    quantiles = np.stack([np.quantile(own[k][LATENCIES], BOX, axis=0).T for k in sorted(own)], -1)
    series = []
    for stage, found in zip(("total", *STAGES), quantiles, strict=True):
        boxes = [tuple(box) for box in found.T.tolist()]
        if stage == "total" or found[-1].max() > 0:
            series.append(Series(stage, labels, found[2].tolist(), boxes=boxes))
    return series
