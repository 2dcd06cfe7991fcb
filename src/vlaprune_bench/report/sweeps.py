"""Tables of whatever a folder's cells vary: keep, layer, lookback, window, thresholds, gating.

Cells of one method that differ in one option alone are points of that option's curve; where two
options vary, each value of the one has its curve over the other.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.report.calls import select_calls
from vlaprune_bench.report.cells import Cell, Results, differing, short_names, sortable
from vlaprune_bench.report.overview import Overview
from vlaprune_bench.report.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

STUDIES = {
    "keep": "Trade-off",
    "qk_layer": "Layer",
    "layer": "Layer",
    "lookback": "Lookback",
    "window_steps": "Window",
    "window": "Window",
    "rule": "Gating",
    "min_delta_pos": "Threshold",
    "min_delta_rot": "Threshold",
    "hysteresis_up": "Threshold",
    "hysteresis_down": "Threshold",
    "tolerance": "Threshold",
    "lever_arm": "Lever arm",
}
"""What a study over an option is called; others by the option's own name."""


@dataclass(frozen=True)
class Curve:
    """Cells that differ in one option alone, in the order of its values."""

    cells: list[Cell]
    others: str
    """Setting, method and the other varying options."""


@dataclass(frozen=True)
class Axis:
    """An option that varies, with its curves."""

    option: str
    method: str
    """The method, or "" where the axis is keep: then all methods share the axis."""
    curves: list[Curve]

    @property
    def name(self) -> str:
        return "-".join(part for part in ("sweep", self.option, self.method) if part)

    @property
    def title(self) -> str:
        study = STUDIES.get(self.option.rsplit(".", 1)[-1], "Sweep")
        return f"{study}: {self.option}" + (f" of {self.method}" if self.method else "")


def value_of(cell: Cell, option: str) -> Any:
    """The value a cell has on an axis."""
    return cell.keep if option == "keep" else cell.options.get(option)


def axes(results: Results) -> list[Axis]:
    """Every option that varies on its own somewhere, keep first."""
    methods = sorted({cell.method for cell in results.cells})
    keep: list[Curve] = []
    found: list[Axis] = []
    for method in methods:
        cells = [cell for cell in results.cells if cell.method == method]
        keep += _curves(results, cells, "keep")
        own = {option: _curves(results, cells, option) for option in differing(cells)}
        found += [Axis(option, method, curves) for option, curves in own.items() if curves]
    return ([Axis("keep", "", keep)] if keep else []) + found


def _curves(results: Results, cells: list[Cell], option: str) -> list[Curve]:
    """Cells grouped by all but one option; groups of two and more."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        rest = {**cell.options, "keep": cell.keep, **cell.setting}
        rest.pop(option, None)
        if option != "keep" or not math.isnan(cell.keep):
            groups.setdefault(repr(sorted(rest.items())), []).append(cell)
    names = [name for name in differing(cells) if name != option]
    curves = []
    for group in groups.values():
        if len({repr(value_of(cell, option)) for cell in group}) > 1:
            others = _others(results, group[0], option, names)
            group.sort(key=lambda cell: sortable(value_of(cell, option)))
            curves.append(Curve(group, others))
    return curves


def _others(results: Results, cell: Cell, option: str, names: list[str]) -> str:
    """What a curve over `option` is called: what is fixed on it, `names` the options among that."""
    short = short_names(names)
    parts = [*(cell.setting[name] for name in results.shown_settings), cell.method]
    if option != "keep" and not math.isnan(cell.keep):
        parts.append(f"keep={cell.keep:g}")
    parts += [f"{short[name]}={cell.options.get(name)}" for name in names]
    return " ".join(filter(None, parts))


def sweep_table(overview: Overview, axis: Axis) -> Table:
    """One row per point of an axis: success, cost, and which point it cannot be told from."""
    several = len(axis.curves) > 1
    rows, dead = [], []
    for curve in axis.curves:
        twins = identical(overview.results, curve)
        rows += _points(overview, axis.option, curve, twins)
        if len(twins) == len(curve.cells) - 1:
            dead.append(curve.others)
    columns = [Column("curve", "", leading=True)] if several else []
    columns += [Column("value", axis.option, leading=True), *_measured(overview)]
    if any("same" in row for row in rows):
        columns.append(Column("same", "repeats"))
    notes = [*_dead_note(axis, dead), overview.cost.notes[0]]
    title = axis.title + ("" if several else f" ({axis.curves[0].others})")
    return Table(axis.name, title, columns, rows, notes)


def _measured(overview: Overview) -> list[Column]:
    """Success by suite, what it costs, and how many episodes it is from."""
    success = overview.success.columns
    rates, counts = ([c for c in success if c.kind == kind] for kind in ("percent", "count"))
    return [*rates, *(c for c in overview.cost.columns if c.key in COSTS), *counts]


def _points(
    overview: Overview, option: str, curve: Curve, twins: dict[int, int]
) -> list[dict[str, Any]]:
    """A row for each cell of a curve; `twins` is of `identical`."""
    success = {row["cell"]: row for row in overview.success.rows}
    values = {cell.index: value_of(cell, option) for cell in curve.cells}
    rows = []
    for index, value in values.items():
        cost = next(row for row in overview.cost.rows if row["cell"] == index)
        row = {**cost, **success[index], "value": str(value), "curve": curve.others}
        if index in twins:
            row["same"] = f"same decisions as {values[twins[index]]}"
        rows.append(row)
    return rows


def _dead_note(axis: Axis, dead: list[str]) -> list[str]:
    if len(dead) == len(axis.curves):
        return [f"Dead axis: {axis.option} changes no decision on the episodes shared."]
    if dead:
        return [f"{axis.option} changes no decision (dead axis) for {'; '.join(dead)}."]
    return []


COSTS = ("tokens", "pruned", "macs", "macs_ratio", "flops", "p50", "p50_ratio")


def identical(results: Results, curve: Curve) -> dict[int, int]:
    """Which cells of a curve made the very same decisions as an earlier one.

    Same decisions: on every episode both finished (at least one) equal success, steps, and per call
    equal gate decision and kept tokens. What scoring cost may differ. Without call rows decisions
    are not known, and nothing is called the same.

    Returns:
        Index of a cell to the index of the first cell like it.
    """
    twins: dict[int, int] = {}
    first: list[Cell] = []
    for cell in curve.cells:
        for other in first:
            if _same(results, cell, other):
                twins[cell.index] = other.index
                break
        else:
            first.append(cell)
    return twins


def _same(results: Results, one: Cell, two: Cell) -> bool:
    mine, theirs = results.finished[one.index], results.finished[two.index]
    shared = mine.index.intersection(theirs.index)
    # a cheap look before the calls
    if not len(shared) or (mine.outcome[shared] != theirs.outcome[shared]).any():
        return False
    ids, others = mine.episode_id[shared].tolist(), theirs.episode_id[shared].tolist()
    columns = ["call", "pruned", "kept_visual", "fused_patches"]
    digests = decisions(select_calls(results.folder, columns, [*ids, *others]))
    return all(
        a in digests and b in digests and digests[a] == digests[b]
        for a, b in zip(ids, others, strict=True)
    )


def decisions(calls: pd.DataFrame) -> dict[str, str]:
    """A hash of gate decisions and kept or fused tokens by episode, where they are known."""
    found: dict[str, str] = {}
    calls = calls.sort_values(["episode_id", "call"])
    for episode, group in calls.groupby("episode_id", observed=True):
        if group.pruned.isna().any():
            continue  # a remote policy's, of which nobody knows
        digest = hashlib.sha256()
        fused = group.fused_patches.fillna(0)  # a file from before this column
        for pruned, kept, n in zip(group.pruned, group.kept_visual, fused, strict=True):
            digest.update(b"pruned" if pruned else b"full")
            digest.update(b"all" if kept is None else np.asarray(kept, np.int32).tobytes())
            digest.update(b"%d" % n)
        found[str(episode)] = digest.hexdigest()
    return found
