"""Charts to files with matplotlib: PDF for papers, PNG for everything else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.report.charts import Chart, Series
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f",
    "#b15928", "#66a61e", "#e7298a", "#1b9e77", "#a6761d", "#7570b3",
)  # fmt: skip
"""Seen on light and dark ground; the first six also told apart by the colour-blind (Okabe, Ito)."""
MANY = 8
"""Series from which on a legend stands beside the picture."""


def save(charts: list[Chart], folder: Path) -> list[Path]:
    """Write every chart as PDF and PNG.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            figure = draw(chart)
            for suffix in ("pdf", "png"):
                path = folder / f"{chart.name}.{suffix}"
                figure.savefig(path, dpi=160, bbox_inches="tight")
                written.append(path)
    except OSError as error:
        raise UserError(
            f"--plots is {folder}; it must be a folder that can be written to ({error.strerror})."
        ) from error
    return written


def draw(chart: Chart) -> Figure:
    """One chart as a matplotlib figure; no window, no global state."""
    from matplotlib.figure import Figure

    columns = len(chart.series[0].x) if chart.kind in ("heat", "boxes") else 0
    rows = len(chart.grid)
    figure = Figure(figsize=(max(6.0, 1.5 + 0.45 * columns), max(4.0, 1.2 + 0.36 * rows)))
    axes = figure.add_subplot()
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    {"heat": _heat, "boxes": _boxes, "steps": _steps}.get(chart.kind, _lines)(axes, chart)
    if len(chart.series) > 1 and chart.kind != "steps":
        beside = len(chart.series) > MANY
        axes.legend(
            fontsize=7,
            loc="upper left" if beside else "best",
            bbox_to_anchor=(1.01, 1) if beside else None,
        )
    return figure


def _error(series: Series) -> list[list[float]] | None:
    """Lengths of error bars below and above."""
    if not series.low:
        return None
    return [
        [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)],
        [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)],
    ]


def _lines(axes: Axes, chart: Chart) -> None:
    names = any(isinstance(x, str) for series in chart.series for x in series.x)
    for k, series in enumerate(chart.series):
        x: Any = [str(v) for v in series.x] if names else series.x
        if series.dashed:
            axes.plot(x, series.y, "--", color="0.5", lw=1, zorder=0, label=series.name)
            continue
        axes.errorbar(
            x,
            series.y,
            yerr=_error(series),
            fmt="o" if chart.kind == "points" else "o-" if series.low else "-",
            ms=4,
            lw=1.2,
            capsize=2,
            color=COLOURS[k % len(COLOURS)],
            label=series.name,
        )
        if chart.kind == "points":
            _label(axes, x, series)
    axes.grid(alpha=0.25)


def _label(axes: Axes, x: list[Any], series: Series) -> None:
    for px, py, text in zip(x, series.y, series.text, strict=True):
        axes.annotate(text, (px, py), (3, 3), textcoords="offset points", fontsize=6)


def _steps(axes: Axes, chart: Chart) -> None:
    pruned = chart.series[0]
    axes.fill_between(pruned.x, pruned.y, step="post", alpha=0.3, color=COLOURS[0], lw=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1])
    for series in chart.series[1:]:
        other = axes.twinx()
        other.step(series.x, series.y, where="post", color=COLOURS[1], lw=1.2)
        other.set_ylabel(chart.right_title)
        other.set_ylim(bottom=0)


def _heat(axes: Axes, chart: Chart) -> None:
    series = chart.series[0]
    image = axes.imshow(chart.grid, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(series.x)), series.x, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(series.y)), series.y, fontsize=7)
    for r, row in enumerate(chart.grid):
        for c, value in enumerate(row):
            if not math.isnan(value):
                ink = "black" if value > 60 else "white"
                axes.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=6, color=ink)
    axes.figure.colorbar(image, ax=axes, label="success, %")


def _boxes(axes: Axes, chart: Chart) -> None:
    width = 0.8 / len(chart.series)
    names = ("whislo", "q1", "med", "q3", "whishi")
    for k, series in enumerate(chart.series):
        stats: Any = [dict(zip(names, box, strict=True)) for box in series.boxes]
        positions = [i + (k - len(chart.series) / 2 + 0.5) * width for i in range(len(stats))]
        axes.bxp(
            stats,
            positions=positions,
            widths=0.9 * width,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": COLOURS[k % len(COLOURS)], "lw": 0.5},
            medianprops={"color": "black"},
        )
        axes.plot([], [], "s", color=COLOURS[k % len(COLOURS)], label=series.name)
    labels = chart.series[0].x
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, axis="y")
