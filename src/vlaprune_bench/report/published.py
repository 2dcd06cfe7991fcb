"""Published numbers, each with what its trials can tell.

`published.csv` and `published_robot.csv` hold what sources print. No two definitions share a
column: what a source calls FLOPs or speedup is named beside every number.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from vlaprune_bench.measure.stats import Rate, combine, rate
from vlaprune_bench.report.table import Column, Table

TRIALS = 500
"""Trials a suite has in LIBERO's protocol: 10 tasks of 50 init states."""
SUITE_OF = {
    "spatial": "libero_spatial",
    "object": "libero_object",
    "goal": "libero_goal",
    "long": "libero_10",
}


@dataclass(frozen=True)
class Definition:
    """What a source's cost columns mean."""

    flops: str
    macs: bool
    """The FLOPs column counts multiply-adds of the prefill as `llm_prefill_macs` does."""
    speedup: str


UNSTATED = Definition("not printed", False, "not printed")
DEFINITIONS = {
    "ADP table": Definition(
        "2 per MAC in linear terms, 1 in attention", False, "ratio of its FLOPs, not a timing"
    ),
    "VLA-Pruner table": Definition(
        "MAC of the decoder prefill", True, "time of a whole action, RTX 4090"
    ),
    "VLA-Cache": Definition(
        "MAC of the decoder prefill", True, "time of the layer loop alone, RTX 4090"
    ),
    "VLA-Pruner v5 Table 1": Definition("MAC of the decoder prefill", True, "not printed"),
    "SAFE-Pruner": Definition("not stated", False, "not printed"),
    "SpecPrune-VLA": Definition("only shares of FLOPs, in the note", False, "timing on A800"),
}


def definition(source: str) -> Definition:
    """What the columns of a source mean."""
    return next((d for name, d in DEFINITIONS.items() if source.startswith(name)), UNSTATED)


@dataclass(frozen=True)
class Entry:
    """One row of published.csv."""

    source: str
    backbone: str
    method: str
    keep: float
    """nan: not stated."""
    rates: dict[str, Rate]
    """By suite, with the interval of `TRIALS` trials."""
    printed_average: float
    """As printed, fraction; nan: not printed."""
    flops: float
    """Operations as printed, in the source's own unit; nan: not printed."""
    speedup: float
    latency_ms: float
    """As printed; of what, the source's definition says. nan: not printed."""
    hardware: str
    note: str

    @property
    def average(self) -> Rate:
        """Mean of the suites, the interval with tasks as they are; nan where none is printed."""
        if not self.rates:
            return Rate(math.nan)
        return combine(list(self.rates.values()), [1 / len(self.rates)] * len(self.rates))


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("vlaprune_bench.report") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _number(text: str) -> float:
    return float(text) if text else math.nan


def entries() -> list[Entry]:
    """Every published row."""
    found = []
    for row in _rows("published.csv"):
        trials = int(row["trials"] or TRIALS)
        rates = {
            suite: rate(float(row[name]) / 100 * trials, trials)
            for name, suite in SUITE_OF.items()
            if row[name]
        }
        found.append(
            Entry(
                row["source"],
                row["backbone"],
                row["method"],
                _number(row["keep"]),
                rates,
                _number(row["average"]) / 100,
                _number(row["flops_T_printed"]) * 1e12,
                _number(row["speedup_printed"]),
                _number(row["latency_ms_printed"]),
                row["hardware"],
                row["note"],
            )
        )
    return found


def verdict(difference: Rate) -> str:
    """Whether an interval of a difference leaves out 0."""
    if math.isnan(difference.value):
        return ""
    return "within noise" if difference.low <= 0 <= difference.high else "beyond noise"


def against_none(entry: Entry, known: list[Entry]) -> dict[str, Rate]:
    """Differences to `none` of the same source and backbone: by suite, and of the average."""
    base = next(
        (
            e
            for e in known
            if (e.source, e.backbone, e.method) == (entry.source, entry.backbone, "none")
        ),
        None,
    )
    if base is None or entry.method == "none" or not entry.rates.keys() <= base.rates.keys():
        return {}
    if not entry.rates:
        return _by_average(entry, base)
    found = {s: combine([entry.rates[s], base.rates[s]], [1, -1]) for s in entry.rates}
    k = len(entry.rates)
    found["average"] = combine(
        [*entry.rates.values(), *base.rates.values()], [1 / k] * k + [-1 / k] * k
    )
    return found


def _by_average(entry: Entry, base: Entry) -> dict[str, Rate]:
    """The difference where averages alone are printed: of `TRIALS` trials on each suite."""
    if math.isnan(entry.printed_average) or math.isnan(base.printed_average):
        return {}
    trials = TRIALS * len(SUITE_OF)
    both = [rate(e.printed_average * trials, trials) for e in (entry, base)]
    return {"average": combine(both, [1, -1])}


def published_tables() -> list[Table]:
    """Success rates, differences to none, costs, and the real-robot table."""
    return [_success(), _differences(), _costs(), _robot()]


GROUP = ("source", "backbone")
_WHO = [
    Column("source", "source", leading=True),
    Column("backbone", "backbone", leading=True),
    Column("method", "method", leading=True),
    Column("keep", "keep", "number", leading=True),
]


def _who(entry: Entry) -> dict[str, Any]:
    return {
        "source": entry.source,
        "backbone": entry.backbone,
        "method": entry.method,
        "keep": entry.keep,
    }


def _success() -> Table:
    rows = [
        {**_who(e), **e.rates, "average": e.average, "printed": e.printed_average, "note": e.note}
        for e in entries()
    ]
    columns = [*_WHO, *(Column(s, name.capitalize(), "percent") for name, s in SUITE_OF.items())]
    columns += [Column("average", "average", "percent"), Column("printed", "printed", "percent")]
    columns.append(Column("note", "note"))
    notes = [
        f"Success in percent as printed; 95 % Wilson intervals of {TRIALS} trials a suite (10 "
        "tasks of 50), of the average of suites by combining them. Printed: the average as the "
        "source gives it. A keep of – is not stated."
    ]
    return Table("published", "Published success rates", columns, rows, notes, GROUP)


def _differences() -> Table:
    known = entries()
    rows, noisy, total = [], 0, 0
    for entry in known:
        found = against_none(entry, known)
        if not found:
            continue
        row: dict[str, Any] = {**_who(entry), **found, "verdict": verdict(found["average"])}
        suites = [difference for name, difference in found.items() if name != "average"]
        within = sum(verdict(difference) == "within noise" for difference in suites)
        row["suites"] = f"{within} of {len(suites)}"
        noisy, total = noisy + within, total + len(suites)
        rows.append(row)
    columns = [*_WHO, *(Column(s, name.capitalize(), "points") for name, s in SUITE_OF.items())]
    columns += [
        Column("average", "average", "points"),
        Column("verdict", "average is"),
        Column("suites", "suites\nwithin noise"),
    ]
    notes = [
        "Points to none of the same source and backbone; 95 % intervals of two independent runs of "
        f"{TRIALS} trials (Newcombe), since no source prints pairs. Within noise: the interval "
        f"holds 0. That is so for {noisy} of {total} printed differences by suite; no correction "
        "for their number is made, which would only add to them."
    ]
    return Table(
        "published-differences", "Published differences to none", columns, rows, notes, GROUP
    )


def _costs() -> Table:
    rows = []
    for entry in entries():
        if math.isnan(entry.flops) and math.isnan(entry.speedup) and math.isnan(entry.latency_ms):
            continue
        what = definition(entry.source)
        key = "macs" if what.macs else "flops"
        row = {**_who(entry), key: entry.flops, "speedup": entry.speedup}
        row |= {"latency": entry.latency_ms, "hardware": entry.hardware, "note": entry.note}
        what_it_is = {"definition": f"speedup: {what.speedup}", "counted": f"FLOPs: {what.flops}"}
        rows.append({**row, **what_it_is})
    columns = [
        *_WHO,
        Column("macs", "MACs", "flops"),
        Column("flops", "FLOPs\n(own count)", "flops"),
        Column("counted", "counted"),
        Column("speedup", "speedup", "ratio"),
        Column("definition", "speedup is"),
        Column("latency", "latency\nms", "ms"),
        Column("hardware", "on"),
        Column("note", "note"),
    ]
    notes = ["As printed. Numbers of different definitions do not compare."]
    return Table(
        "published-costs",
        "Published costs",
        columns,
        rows,
        notes,
        (*GROUP, "counted", "definition"),
    )


def _robot() -> Table:
    rows = []
    known = _rows("published_robot.csv")
    tasks = sorted({row["task"] for row in known})
    methods = list(dict.fromkeys(row["method"] for row in known))
    means: dict[str, list[Rate]] = {}
    for method in methods:
        own = [row for row in known if row["method"] == method]
        rates = [_wins(row) for row in own]
        means[method] = rates
        row: dict[str, Any] = {"source": own[0]["source"], "method": method}
        row |= {f"t{r['task']}": value for r, value in zip(own, rates, strict=True)}
        row["average"] = combine(rates, [1 / len(rates)] * len(rates))
        row["latency"] = float(own[0]["latency_ms"])
        rows.append(row)
    columns = [
        Column("source", "source", leading=True),
        Column("method", "method", leading=True),
        *(Column(f"t{task}", f"task {task}", "percent") for task in tasks),
        Column("average", "average", "percent"),
        Column("latency", "latency\nms", "ms"),
    ]
    notes = [_robot_note(means["adp"], means["none"])]
    return Table("published-robot", "Published on a real robot", columns, rows, notes)


def _robot_note(adp: list[Rate], none: list[Rate]) -> str:
    """What the differences task by task say."""
    k = len(adp)
    gap = combine([*adp, *none], [1 / k] * k + [-1 / k] * k)
    each = [combine([a, b], [1, -1]) for a, b in zip(adp, none, strict=True)]
    noisy = sum(verdict(difference) == "within noise" for difference in each)
    return (
        "30 trials a task by arithmetic: every printed rate is a whole number of successes of 30. "
        f"Differences of adp to none: average {100 * gap.value:+.1f} points "
        f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}], {verdict(gap)}; {noisy} of {k} tasks "
        "within noise."
    )


def _wins(row: dict[str, str]) -> Rate:
    trials = int(row["trials"])
    return rate(round(float(row["rate"]) / 100 * trials), trials)
