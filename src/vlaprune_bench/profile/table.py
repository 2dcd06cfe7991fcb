"""A profile on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaprune_bench.measure.latency import STAGES as CALL_STAGES
from vlaprune_bench.profile.rows import ProfileRow

if TYPE_CHECKING:
    from rich.table import Table

STAGES = ("total", *CALL_STAGES)


def gain_table(rows: list[ProfileRow]) -> Table:
    """What each method gains over none: measured, and by FLOPs."""
    first = rows[0]
    title = f"{first.checkpoint}, {first.dtype}, {first.attention}, batch 1, {first.device}"
    names = "keep", "pruned\ncalls", "visual\ntokens", "p50\nms", "call\ngain"
    table = _table(title, (*names, "FLOPs\ngain", "prefill\ngain", "FLOPs\ngain", "peak\nGB"))
    table.caption = (
        "gain: none over the method, of calls that pruned; left the whole call, right prefill and "
        "scoring together against the FLOPs of the decoder's prefill"
    )
    for row in rows:
        table.add_row(
            row.method,
            _number(row.keep, ".3g"),
            f"{row.pruned_calls}/{row.timed_calls}",
            _number(row.visual_tokens_kept, ".0f"),
            _number(row.latency_total_p50_ms, ".1f"),
            _number(row.speedup, ".2f"),
            _number(row.flops_ratio, ".2f"),
            _number(row.prefill_speedup, ".2f"),
            _number(row.prefill_macs_ratio, ".2f"),
            _number(row.peak_memory_bytes and row.peak_memory_bytes / 1e9, ".2f"),
        )
    return table


def stage_table(rows: list[ProfileRow]) -> Table:
    """Where each method's time goes; stages that no call enters are left out."""
    entered = [s for s in STAGES if any(getattr(row, f"latency_{s}_p90_ms") for row in rows)]
    table = _table("by stage: p50 over p90, ms", ("keep", "call", *entered[1:]))
    for row in rows:
        cells = []
        for stage in entered:
            values = [getattr(row, f"latency_{stage}_p{q}_ms") for q in (50, 90)]
            cells.append("\n".join(_number(value, ".1f") for value in values))
        table.add_row(row.method, _number(row.keep, ".3g"), *cells)
    return table


def warnings(rows: list[ProfileRow]) -> list[str]:
    """What the reader of the tables must know."""
    found = [
        f"{row.method} at keep {_number(row.keep, '.3g')} pruned in none of {row.timed_calls} "
        "timed calls: there is nothing to measure"
        for row in rows[1:]
        if not row.pruned_calls
    ]
    if rows[0].device.startswith("cpu"):
        found.append("on a CPU a call's memory is not measured, and gains are not those of a GPU")
    return found


def _table(title: str, columns: tuple[str, ...]) -> Table:
    """Narrow enough for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
