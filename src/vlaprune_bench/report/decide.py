"""What a folder decides, on one page in plain words: it stands at the top of every report."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlaprune_bench.measure.stats import mcnemar, non_inferiority
from vlaprune_bench.report.cells import Cell, Results
from vlaprune_bench.report.compare import Pairs
from vlaprune_bench.report.noise import Noise
from vlaprune_bench.report.table import Table, show
from vlaprune_bench.types import CONTROL_STEP_MS

MOST = 100_000
"""Pairs beyond which nobody is told to go."""
CONTROL_S = CONTROL_STEP_MS / 1000


@dataclass(frozen=True)
class Decision:
    """A heading and what is to be said under it."""

    title: str
    sentences: list[str]


@dataclass(frozen=True)
class Evidence:
    """What decisions are read from."""

    results: Results
    pairs: list[Pairs]
    paired: Table
    cost: Table
    noise: Noise
    sweeps: list[Table]
    margin: float

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of the paired table, those over all suites."""
        return [row for row in self.paired.rows if row["suite"] == "all"]

    def cell(self, row: dict[str, Any]) -> Cell:
        return self.results.cells[row["cell"]]


def decisions(found: Evidence) -> list[Decision]:
    """The page, section by section; what there is nothing to say about says so."""
    margin = f"{100 * found.margin:g} points"
    verdicts: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        verdicts.setdefault(row["verdict"], []).append(row)
    fine = [*verdicts.get("better", []), *verdicts.get("not inferior", [])]
    made = [
        Decision(
            f"Not worse than none by {margin} or more",
            [*_trust(found), *[f"{_name(found, r)}: {_shown(r)}, {r['verdict']}." for r in fine]],
        ),
        Decision("Worse than none", [f"{_name(found, r)}: {_shown(r)}." for r in _worse(verdicts)]),
        Decision("What is saved, of those not worse", [_saved(found, row) for row in fine]),
        Decision("Undecided", [_undecided(found, row) for row in verdicts.get("undecided", [])]),
        Decision("Noise", list(_noise(found))),
        Decision("Dead axes", list(_dead(found.sweeps))),
    ]
    return [Decision(d.title, d.sentences or ["None."]) for d in made]


def _worse(verdicts: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return verdicts.get("worse", [])


def _trust(found: Evidence) -> Iterator[str]:
    """What must be known before anything is decided from these rows."""
    trained = found.results.episodes.checkpoint_trained.astype(bool)
    if not trained.any():
        yield "No checkpoint here is trained: success means nothing, and nothing is decided by it."
    elif not trained.all():
        yield "Some checkpoints here are untrained: their success means nothing."
    if not found.rows:
        yield "Nothing was run beside none in its setting: there is nothing to compare."


def _name(found: Evidence, row: dict[str, Any]) -> str:
    cell = found.cell(row)
    return " ".join([*(cell.setting[n] for n in found.results.shown_settings), cell.label])


def _shown(row: dict[str, Any]) -> str:
    return (
        f"{show(row['difference'], 'points')} points of {row['pairs']} pairs "
        f"({row['losses']} lost, {row['gains']} gained)"
    )


def _saved(found: Evidence, row: dict[str, Any]) -> str:
    """FLOPs, latency and time to success against none."""
    costs = [cost for cost in found.cost.rows if cost["cell"] == row["cell"]]
    parts = []
    for cost in costs:
        where = f" on {cost['device']}" if len(costs) > 1 else ""
        parts.append(f"total FLOPs {_less(cost.get('flops_ratio'))}")
        parts.append(f"median call {_less(cost.get('p50_ratio'))}{where}")
    parts.append(_time(found, row, costs))
    return f"{_name(found, row)}: {', '.join(parts)}."


def _less(ratio: float | None) -> str:
    if ratio is None or math.isnan(ratio):
        return "not measured beside none"
    change = 100 * (ratio - 1)
    return f"{abs(change):.1f} % {'less' if change < 0 else 'more'}"


def _time(found: Evidence, row: dict[str, Any], costs: list[dict[str, Any]]) -> str:
    """Time to success where both solved it: control steps, and calls that the robot waits for."""
    cell = found.cell(row)
    base = found.results.baseline(cell)
    assert base is not None
    own, none = found.results.finished[cell.index], found.results.finished[base.index]
    both = own.index.intersection(none.index)
    both = both[(own.success[both] & none.success[both]).to_numpy()]
    if not len(both):
        return "time to success unknown (no scene that both solved)"
    ours, theirs = own.steps[both].mean(), none.steps[both].mean()
    said = f"steps to success {_less(ours / theirs)} ({theirs:.0f} to {ours:.0f})"
    if cell.setting["clock"] != "stop":  # the steps that calls took are among them
        return f"{said}, {theirs * CONTROL_S:.1f} to {ours * CONTROL_S:.1f} s of simulated time"
    bases = {c["device"]: c["p50"] for c in found.cost.rows if c["cell"] == base.index}
    for cost in costs[:1]:
        before, after = bases.get(cost["device"], math.nan), cost["p50"]
        if not (math.isnan(before) or math.isnan(after)):
            one = theirs * CONTROL_S + none.calls[both].mean() * before / 1000
            two = ours * CONTROL_S + own.calls[both].mean() * after / 1000
            said += (
                f", time to success {_less(two / one)} ({one:.1f} to {two:.1f} s at 20 Hz, the "
                "robot waiting for each call)"
            )
    return said


def _undecided(found: Evidence, row: dict[str, Any]) -> str:
    more = pairs_to_decide(row["losses"], row["gains"], row["pairs"], found.margin, len(found.rows))
    how = (
        f"more than {MOST:,} pairs would not decide it if these shares stay"
        if more is None
        else f"about {more:,} more pairs would decide it if these shares stay"
    )
    return f"{_name(found, row)}: {_shown(row)}; {how}."


def pairs_to_decide(
    losses: int, gains: int, pairs: int, margin: float, cells: int = 1
) -> int | None:
    """Further pairs after which a comparison is decided, if losses and gains go on in their shares.

    Decided: not inferior by the margin (2.5 %, one-sided), or McNemar's p, times the number of
    cells as Holm's first step has it, below 5 %.

    Returns:
        The number; None: more than `MOST`.
    """
    total = float(pairs)
    while pairs and total <= MOST:
        scale = total / pairs
        lost, gained = round(losses * scale), round(gains * scale)
        if (
            non_inferiority(lost, gained, round(total), margin) < 0.025
            or cells * mcnemar(lost, gained) < 0.05
        ):
            return max(0, round(total) - pairs)
        total = max(total * 1.05, total + 1)
    return None


def _noise(found: Evidence) -> Iterator[str]:
    reruns = found.noise.reruns
    if not reruns:
        yield "Unknown: none was not run again (--repeat, make noise-floor)."
        return
    for rerun in reruns:
        yield (f"none again ({rerun.differs}): {rerun.flipped} of {rerun.pairs} episodes flipped.")
    called = [row for row in found.rows if row.get("noise") == "noise"]
    if called:
        names = ", ".join(_name(found, row) for row in called)
        yield f"Not above it, so no more than noise: {names}."
    else:
        yield "No paired difference is as small as that."


def _dead(sweeps: list[Table]) -> Iterator[str]:
    for table in sweeps:
        yield from (note for note in table.notes if "ead axis" in note)


def as_text(page: list[Decision], width: int) -> str:
    """The page for a terminal."""
    lines = []
    for section in page:
        lines.append(section.title)
        for sentence in section.sentences:
            lines += textwrap.wrap(
                sentence, max(width, 20), initial_indent="  ", subsequent_indent="    "
            )
    return "\n".join([*lines, ""])


def as_markdown(page: list[Decision]) -> str:
    """The page as Markdown."""
    parts = ["## What this decides\n"]
    for section in page:
        parts += [f"**{section.title}**\n", *(f"- {text}" for text in section.sentences), ""]
    return "\n".join(parts)
