"""Published rows put to arithmetic: can this be, on the card and the shape that are named?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from vlaprune_bench.config import nearest
from vlaprune_bench.measure.call_bounds import (
    KERNELS_PER_LAYER,
    LAUNCH_US,
    SHAPES,
    CallShape,
    bounds,
    floor_ms,
    launch_ms,
)
from vlaprune_bench.measure.roofline import CARDS, UNVERIFIED, Card, card_of
from vlaprune_bench.report.published import Entry, against_none, definition, entries, verdict
from vlaprune_bench.report.table import Column, Table, si
from vlaprune_bench.types import UserError

TOLERANCE = 0.1
"""By how much a printed count may miss: prompts differ in length, and what else is counted."""
ROUNDING = 0.006
"""By how much a printed ratio may miss another number's."""
CONSISTENT, IMPOSSIBLE = "consistent", "impossible under the stated hardware"
WRONG = "impossible by arithmetic"
UNKNOWN = "not checkable"
COUNTS: dict[str, Callable[[int, int], int]] = {
    "MAC": lambda macs, attention: macs,
    "2 x MAC": lambda macs, attention: 2 * macs,
    "2 x MAC, attention once": lambda macs, attention: 2 * macs - attention,
}
"""The three definitions of FLOPs that sources use, of the decoder's prefill."""
BACKBONES = {shape.name: shape for shape in SHAPES.values()} | {"pi0.5": SHAPES["pi05"]}
Check = tuple[str, str]
"""A verdict and what it rests on; both empty: nothing is printed."""
KEEPS = (1.0, 0.7, 0.5, 0.3, 0.125, 0.0)


def check_table() -> Table:
    """A row for each published one, with what arithmetic says of it."""
    known = entries()
    rows = [_row(entry, known) for entry in known]
    columns = [
        Column("source", "source", leading=True),
        Column("backbone", "backbone", leading=True),
        Column("method", "method", leading=True),
        Column("keep", "keep", "number", leading=True),
        Column("verdict", "verdict"),
        Column("flops", "FLOPs as printed"),
        Column("latency", "latency as printed"),
        Column("speedup", "speedup as printed"),
        Column("success", "success against none"),
    ]
    notes = [
        "FLOPs: printed against the decoder's prefill by shape, in three definitions; pruned rows "
        f"must lie between all tokens and those kept from the first layer on, to {TOLERANCE:.0%}.",
        "Latency: against the roofline of the named card in bfloat16 (vlaprune-report roofline); a "
        "decoded token reads all weights. A share of the peak near 1 is not credible either.",
        "Success: two independent runs; within noise: the 95 % interval holds 0.",
    ]
    counts = {v: sum(row["verdict"] == v for row in rows) for v in (CONSISTENT, UNKNOWN)}
    bad = len(rows) - sum(counts.values())
    notes.append(
        f"{len(rows)} rows: {counts[CONSISTENT]} consistent, {bad} impossible, {counts[UNKNOWN]} "
        "not checkable."
    )
    title = "Published rows put to arithmetic"
    return Table("published-check", title, columns, rows, notes, ("source", "backbone"))


def _row(entry: Entry, known: Sequence[Entry]) -> dict[str, Any]:
    shape = BACKBONES.get(entry.backbone)
    base = _none_of(entry, known)
    checks = {
        "flops": _flops(entry, base, shape),
        "latency": _latency(entry, shape),
        "speedup": _speedup(entry, base, shape),
    }
    found = [said for said, _ in checks.values()]
    bad = next((said for said in (WRONG, IMPOSSIBLE) if said in found), None)
    return {
        "source": entry.source,
        "backbone": entry.backbone,
        "method": entry.method,
        "keep": entry.keep,
        "verdict": bad or (CONSISTENT if CONSISTENT in found else UNKNOWN),
        **{name: text for name, (_, text) in checks.items()},
        "success": _success(entry, known),
    }


def _none_of(entry: Entry, known: Sequence[Entry]) -> Entry | None:
    place = (entry.source, entry.backbone, "none")
    return next((e for e in known if (e.source, e.backbone, e.method) == place), None)


def _fitting(entry: Entry, shape: CallShape) -> list[str]:
    """The definitions in which printed FLOPs can be those of the shape."""
    return [
        name
        for name, (low, high) in _ranges(entry, shape).items()
        if (1 - TOLERANCE) * low <= entry.flops <= (1 + TOLERANCE) * high
    ]


def _ranges(entry: Entry, shape: CallShape) -> dict[str, tuple[int, int]]:
    """In each definition, the least a row's call can have and the most."""
    keep = 0.0 if math.isnan(entry.keep) else entry.keep
    least = shape.prefill_macs(keep), shape.attention_macs(keep)
    most = shape.prefill_macs(1.0, empty=True), shape.attention_macs(1.0, empty=True)
    return {name: (count(*least), count(*most)) for name, count in COUNTS.items()}


def _flops(entry: Entry, base: Entry | None, shape: CallShape | None) -> Check:
    if math.isnan(entry.flops):
        return "", ""
    if shape is None:
        return UNKNOWN, f"{si(entry.flops)}: no shape of {entry.backbone} is known here"
    ranges = ", ".join(
        f"{name} {si(low)}" + ("" if low == high else f" to {si(high)}")
        for name, (low, high) in _ranges(entry, shape).items()
    )
    fits = _fitting(entry, shape)
    if base is not None and base is not entry and not math.isnan(base.flops):
        # a source counts all its rows alike
        fits = [name for name in fits if name in _fitting(base, shape)]
    if not fits:
        return WRONG, f"{si(entry.flops)} fits none of {ranges}"
    return CONSISTENT, f"{si(entry.flops)} is {' or '.join(fits)} ({ranges})"


def _latency(entry: Entry, shape: CallShape | None) -> Check:
    if math.isnan(entry.latency_ms):
        return "", ""
    printed = f"{entry.latency_ms:g} ms"
    if shape is None:
        return UNKNOWN, f"{printed}: no shape of {entry.backbone} is known here"
    if not entry.hardware:
        return UNKNOWN, f"{printed}: no hardware is named"
    card = card_of(entry.hardware)
    if card is None:
        return UNKNOWN, f"{printed}: peak rates of {entry.hardware} are not known here"
    keep = 0.0 if math.isnan(entry.keep) else entry.keep
    loop = "layer loop" in definition(entry.source).speedup
    stages = [b for b in bounds(shape, card, keep) if not loop or b.stage == "prefill"]
    least = sum(bound.ms for bound in stages)
    what = "layer loop" if loop else "whole call"
    peak = ", peak rates unverified" if card.source == UNVERIFIED else ""
    said = f"{printed}; {what} on {entry.hardware} takes {least:.1f} ms at least{peak}"
    if entry.latency_ms < least:
        return IMPOSSIBLE, said
    return CONSISTENT, f"{said}: {least / entry.latency_ms:.0%} of its peak"


def _speedup(entry: Entry, base: Entry | None, shape: CallShape | None) -> Check:
    if math.isnan(entry.speedup):
        return "", ""
    if base is None or base is entry:
        return "", "the base" if base is entry else ""
    ratio = base.flops / entry.flops
    if not math.isnan(ratio) and abs(ratio - entry.speedup) <= ROUNDING:
        return UNKNOWN, f"{entry.speedup:g} is the ratio of its FLOPs ({ratio:.3f}): no timing"
    card = card_of(entry.hardware) if entry.hardware else None
    if shape is None or card is None or not math.isnan(entry.latency_ms):
        return UNKNOWN, f"{entry.speedup:g}" + (
            "" if math.isnan(ratio) else f" (FLOPs ratio {ratio:.2f})"
        )
    keep = 0.0 if math.isnan(entry.keep) else entry.keep
    least = floor_ms(shape, card, keep)
    parts = {b.stage: b.ms for b in bounds(shape, card, keep)}
    decode = f", {parts['decode']:.0f} of them decode" if "decode" in parts else ""
    return UNKNOWN, (
        f"{entry.speedup:g} with no ms printed: this call takes {least:.0f} ms at least on "
        f"{entry.hardware}{decode}, so the unpruned one took {entry.speedup * least:.0f} ms or more"
    )


def _success(entry: Entry, known: Sequence[Entry]) -> str:
    found = against_none(entry, list(known))
    if not found:
        return ""
    suites = [difference for name, difference in found.items() if name != "average"]
    noisy = sum(verdict(difference) == "within noise" for difference in suites)
    gap = found["average"]
    by_suite = f"; {noisy} of {len(suites)} suites within noise" if suites else ""
    return (
        f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}], "
        f"{verdict(gap)}{by_suite}"
    )


def roofline_tables(of: str, name: str) -> list[Table]:
    """The least time of each stage by keep, and where pruning cannot help.

    Args:
        of: a shape of `SHAPES`.
        name: a card of `CARDS`.

    Raises:
        UserError: there is no such shape or card.
    """
    for flag, value, known in (("--shape", of, SHAPES), ("--gpu", name, CARDS)):
        if value not in known:
            raise UserError(f"{flag} is {value}{nearest(value, known)}.")
    shape, card = SHAPES[of], CARDS[name]
    stages = [bound.stage for bound in bounds(shape, card)]
    rows = []
    for keep in KEEPS:
        found = {bound.stage: bound for bound in bounds(shape, card, keep)}
        total = sum(bound.ms for bound in found.values())
        row: dict[str, Any] = {"keep": keep, "tokens": shape.tokens(keep), "total": total}
        row |= {stage: bound.ms for stage, bound in found.items()}
        row["gain"] = floor_ms(shape, card) / total
        row["limit"] = ", ".join(f"{b.stage} {b.limit}" for b in found.values())
        rows.append(row)
    columns = [
        Column("keep", "keep", "number", leading=True),
        Column("tokens", "prefill\ntokens", "count"),
        *(Column(stage, f"{stage}\nms", "ms") for stage in stages),
        Column("total", "call\nms", "ms"),
        Column("gain", "gain at most", "ratio"),
        Column("limit", "limited by"),
    ]
    notes = [
        f"{name}: {card.tflops:g} TFLOP/s dense bfloat16, {card.gb_per_s:g} GB/s ({card.source}). "
        "Tokens leave before the first layer. Lower bounds: no program is faster, most are slower.",
        *_no_help(shape, card),
    ]
    return [Table("roofline", f"Least time of a call: {shape.name}", columns, rows, notes)]


def _no_help(shape: CallShape, card: Card) -> list[str]:
    """Where fewer visual tokens save nothing, in sentences."""
    whole = bounds(shape, card)
    total = sum(bound.ms for bound in whole)
    fixed = [bound for bound in whole if bound.stage != "prefill"]
    said = " and ".join(f"{b.stage} ({b.ms:.1f} ms, {b.ms / total:.0%} of the call)" for b in fixed)
    notes = [f"Pruning cannot help {said}."]
    least = {b.stage: b for b in bounds(shape, card, 0.0)}["prefill"]
    if least.limit == "memory":
        turn = next(k / 100 for k in range(100, -1, -1) if _reads(shape, card, k / 100))
        notes.append(
            f"Nor the prefill below keep {turn:g}: reading the weights takes {least.ms:.1f} ms, "
            "however few tokens there are."
        )
    runs = "prefill and each decoded token launch" if shape.decoded else "the prefill launches"
    notes.append(
        f"Nor launching kernels: {runs} as many with few tokens as with all, "
        f"{launch_ms(shape):.0f} ms where a host takes {LAUNCH_US:g} us for each of "
        f"{KERNELS_PER_LAYER} a layer (assumed, not measured) and nothing is fused or recorded as "
        "a graph."
    )
    return notes


def _reads(shape: CallShape, card: Card, keep: float) -> bool:
    """Whether reading weights is what limits a prefill."""
    return {b.stage: b for b in bounds(shape, card, keep)}["prefill"].limit == "memory"


def cards() -> Table:
    """The peak rates there are, each with its source."""
    rows = [{"card": key, **vars(card)} for key, card in CARDS.items()]
    columns = [
        Column("card", "--gpu", leading=True),
        Column("tflops", "TFLOP/s\nbf16 dense", "number"),
        Column("gb_per_s", "GB/s", "number"),
        Column("source", "source"),
    ]
    return Table("cards", "Peak rates", columns, rows)
