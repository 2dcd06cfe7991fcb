"""Our results beside published rows of the same backbone, method and keep."""

from __future__ import annotations

import math
from typing import Any

from vlaprune_bench.measure.stats import Rate, combine
from vlaprune_bench.report.cells import TITLES, Cell
from vlaprune_bench.report.overview import Overview
from vlaprune_bench.report.published import TRIALS, Entry, definition, entries, verdict
from vlaprune_bench.report.table import Column, Table

_BESIDE = (
    f"Published rates with the interval of {TRIALS} trials a suite. Assets, checkpoints and "
    "protocol of a source may differ from ours. Untrained checkpoints are not shown."
)
_BESIDE_COST = (
    "Only columns of one definition compare: our MACs with printed MACs. Our speedup is the ratio "
    "of median whole calls to none at batch size 1 on our device."
)


def matches(cell: Cell, entry: Entry) -> bool:
    """Same backbone, method and keep, nominal scenes; `none` keeps all, and not stated is equal to
    nothing."""
    if cell.setting["perturbation"]:
        return False
    if (cell.setting["policy"], cell.method) != (entry.backbone, entry.method):
        return False
    return cell.method == "none" or (
        not math.isnan(entry.keep) and math.isclose(cell.keep, entry.keep)
    )


def match_tables(overview: Overview) -> list[Table]:
    """Ours beside the published rows of the same backbone, method and keep: success, then cost.

    Untrained checkpoints are left out: their numbers compare with nothing.
    """
    who = [column for column in overview.success.columns if column.leading]
    matched = _matched(overview)
    tables = [_success_table(overview, matched, who), _cost_table(overview, matched, who)]
    return [table for table in tables if table.rows]


def _matched(overview: Overview) -> list[tuple[int, Entry]]:
    """Cells of trained checkpoints, by index, with each published row that matches."""
    results = overview.results
    trained = [c for c in results.cells if results.episodes_of(c).checkpoint_trained.all()]
    return [(cell.index, entry) for cell in trained for entry in entries() if matches(cell, entry)]


def _success_table(
    overview: Overview, matched: list[tuple[int, Entry]], who: list[Column]
) -> Table:
    ours = {row["cell"]: row for row in overview.success.rows}
    rows = [row for index, entry in matched for row in _beside(ours[index], entry)]
    columns = [
        Column("source", "source", leading=True),
        *who,
        Column("suite", "suite", leading=True),
        Column("ours", "ours", "percent"),
        Column("published", "published", "percent"),
        Column("gap", "difference\npoints", "points"),
        Column("verdict", "difference is"),
    ]
    title = "Ours beside published: success"
    return Table("beside", title, columns, rows, [_BESIDE], ("source",))


def _cost_table(overview: Overview, matched: list[tuple[int, Entry]], who: list[Column]) -> Table:
    rows = [
        {**row, "source": entry.source, **_beside_cost(row, entry)}
        for index, entry in matched
        for row in overview.cost.rows
        if row["cell"] == index
    ]
    columns = [
        Column("source", "source", leading=True),
        *who,
        Column("macs", "our\nMACs", "flops"),
        Column("macs_printed", "printed\nMACs", "flops"),
        Column("flops", "our total\nFLOPs", "flops"),
        Column("flops_printed", "printed FLOPs\n(own count)", "flops"),
        Column("faster", "our p50\nspeedup", "ratio"),
        Column("speedup_printed", "printed\nspeedup", "ratio"),
        Column("device", "our device"),
        Column("differs", "what differs in definition"),
    ]
    title = "Ours beside published: cost"
    return Table("beside-costs", title, columns, rows, [_BESIDE_COST], ("source",))


def _beside(own: dict[str, Any], entry: Entry) -> list[dict[str, Any]]:
    rows = []
    for suite, printed in entry.rates.items():
        mine = own.get(suite)
        if isinstance(mine, Rate) and not math.isnan(mine.value):
            gap = combine([mine, printed], [1, -1])
            row = {**own, "source": entry.source, "suite": TITLES[suite], "ours": mine}
            rows.append({**row, "published": printed, "gap": gap, "verdict": verdict(gap)})
    return rows


def _beside_cost(own: dict[str, Any], entry: Entry) -> dict[str, Any]:
    what = definition(entry.source)
    parts = []
    if not math.isnan(entry.flops):
        parts.append(f"FLOPs printed: {what.flops}")
    if not math.isnan(entry.speedup):
        parts.append(f"speedup printed: {what.speedup}")
    if entry.hardware:
        parts.append(f"hardware: {entry.hardware}")
    ratio = own.get("p50_ratio", math.nan)
    return {
        "macs_printed" if what.macs else "flops_printed": entry.flops,
        "speedup_printed": entry.speedup,
        "faster": 1 / ratio if ratio else math.nan,
        "differs": "; ".join(parts) or "no cost printed",
    }
