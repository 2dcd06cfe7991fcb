"""Each cell against `none` on the same episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlaprune_bench.measure.stats import (
    anytime_p,
    holm,
    mcnemar,
    non_inferiority,
    paired_difference,
    pairs_to_see,
    rate,
    trials_to_see,
)
from vlaprune_bench.report.cells import BEGIN, PAIR, TITLES, Cell, Results
from vlaprune_bench.report.noise import Noise
from vlaprune_bench.report.overview import cell_columns, cell_values
from vlaprune_bench.report.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

_NO_FLOOR = "No noise floor: none was not run again here (--repeat, make noise-floor)."
SEEN = (0.01, 0.02, 0.05)
"""Differences for which the number of trials is told, fractions."""


@dataclass(frozen=True)
class Pairs:
    """Episodes that a cell and `none` both finished."""

    cell: Cell
    frame: pd.DataFrame
    """Columns of `PAIR`, success and success_none (bool), episode_id and episode_id_none."""
    unpaired: int
    """Finished episodes of the cell that `none` lacks or did not finish."""
    differ: dict[str, int] = field(default_factory=dict)
    """How many pairs differ in each column of `cells.BEGIN`: other scenes or instructions are no
    pairs in truth; other frames count where the scene is the same."""

    @property
    def losses(self) -> pd.DataFrame:
        """Solved by `none` alone."""
        return self.frame[self.frame.success_none & ~self.frame.success]

    @property
    def gains(self) -> pd.DataFrame:
        """Solved by the cell alone."""
        return self.frame[self.frame.success & ~self.frame.success_none]


def pairs(results: Results) -> list[Pairs]:
    """The cells that have a `none` in their setting, with their shared episodes."""
    found = []
    for cell in results.cells:
        base = results.baseline(cell)
        if base is None or base is cell:
            continue
        frame = results.shared(cell, base, "_none")
        changed = {c: frame[c].fillna("") != frame[f"{c}_none"].fillna("") for c in BEGIN}
        changed["frames_hash"] &= ~changed["scene_hash"]
        differ = {column: int(rows.sum()) for column, rows in changed.items() if rows.any()}
        unpaired = len(results.finished[cell.index]) - len(frame)
        found.append(Pairs(cell, frame, unpaired, differ))
    return found


def paired_table(results: Results, found: list[Pairs], margin: float, noise: Noise) -> Table:
    """One row per cell over all suites, and per suite where there are several.

    Args:
        results: the folder.
        found: of `pairs`.
        margin: how much worse than `none` still counts as not inferior, a fraction.
        noise: how far `none` is from itself.
    """
    rows: list[dict[str, Any]] = []
    for pair in found:
        rows.append({**cell_values(pair.cell), **_row("all", pair.frame, margin)})
        if len(results.suites) > 1:
            for suite in results.suites:
                own = pair.frame[pair.frame.suite == suite]
                if len(own):
                    rows.append({**cell_values(pair.cell), **_row(suite, own, margin)})
    for whole in (True, False):
        family = [row for row in rows if (row["suite"] == "all") == whole]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
            row["verdict"] = _verdict(row)
            cell = results.cells[row["cell"]]
            row["floor"] = noise.floor(cell)
            row["noise"] = noise.says(cell, row["difference"].value)
    columns = [
        *cell_columns(results),
        Column("suite", "suite", leading=True),
        Column("pairs", "pairs", "count"),
        Column("losses", "only none\nsolved", "count"),
        Column("gains", "only it\nsolved", "count"),
        Column("difference", "difference\npoints", "points"),
        Column("p", "McNemar\np", "p"),
        Column("p_holm", "p\n(Holm)", "p"),
        Column("p_anytime", "p\nanytime", "p"),
        Column("p_inferior", f"p worse by\n{100 * margin:g} points", "p"),
        Column("verdict", "verdict"),
    ]
    if noise.reruns:
        columns.append(Column("floor", "noise floor\npoints", "percent"))
        columns.append(Column("noise", "difference is"))
    notes = [
        "Same scene, init state and seed. Difference: Tango's 95 % score interval; McNemar exact, "
        "two-sided; Holm over the cells (rows of all suites) or over cells and suites.",
        "Anytime: stays valid when a sweep is stopped on what it shows.",
        "Better, worse: Holm's p below 0.05. Not inferior: not worse by "
        f"{100 * margin:g} points or more (one-sided, 2.5 %).",
        *(noise.table.notes if noise.reruns else [_NO_FLOOR]),
    ]
    return Table("paired", "Paired with none", columns, rows, notes)


def _row(suite: str, frame: pd.DataFrame, margin: float) -> dict[str, Any]:
    losses = int((frame.success_none & ~frame.success).sum())
    gains = int((frame.success & ~frame.success_none).sum())
    p = mcnemar(losses, gains) if len(frame) else math.nan
    return {
        "suite": TITLES.get(suite, suite),
        "pairs": len(frame),
        "losses": losses,
        "gains": gains,
        "difference": paired_difference(losses, gains, len(frame)),
        "p": p,
        "p_anytime": anytime_p(losses, gains) if len(frame) else math.nan,
        "p_inferior": non_inferiority(losses, gains, len(frame), margin),
    }


def _verdict(row: dict[str, Any]) -> str:
    """In a word: a difference that survives Holm's correction, or the margin, or neither."""
    if row["p_holm"] < 0.05:
        return "better" if row["gains"] > row["losses"] else "worse"
    return "not inferior" if row["p_inferior"] < 0.025 else "undecided"


def discordant_table(results: Results, found: list[Pairs]) -> Table:
    """The episodes that only one of the two solved."""
    rows = []
    for pair in found:
        for who, frame in (("none", pair.losses), (pair.cell.method, pair.gains)):
            known = {**cell_values(pair.cell), "solved_by": who}
            rows += [{**known, **row} for row in frame.to_dict("records")]
    columns = [
        *cell_columns(results),
        *(Column(name, name) for name in PAIR),
        Column("solved_by", "solved only by"),
        Column("episode_id", "episode"),
        Column("episode_id_none", "episode of none"),
    ]
    return Table("discordant", "Episodes only one of the two solved", columns, rows)


def _discordant(found: Iterable[Pairs]) -> float:
    """The share of pairs that only one of the two solved; nan: there are no pairs."""
    counts = [(len(pair.losses) + len(pair.gains), len(pair.frame)) for pair in found]
    total = sum(pairs for _, pairs in counts)
    return sum(discordant for discordant, _ in counts) / total if total else math.nan


def trials_table(results: Results, found: list[Pairs]) -> Table:
    """How many trials it takes to see 1, 2 and 5 points."""
    rows = []
    for cell in results.cells:
        if cell.method == "none":
            ok = results.finished[cell.index]
            base = rate(int(ok.success.sum()), len(ok)).value
            share = _discordant(pair for pair in found if pair.cell.setting == cell.setting)
            rows.append({**cell_values(cell), "design": "two runs", "from": base})
            rows[-1] |= {f"d{d}": trials_to_see(d, base) for d in SEEN}
            rows.append({**cell_values(cell), "design": "pairs", "from": share})
            rows[-1] |= {f"d{d}": pairs_to_see(d, share) for d in SEEN if not math.isnan(share)}
    columns = [
        *(Column(name, name, leading=True) for name in results.shown_settings),
        Column("design", "design", leading=True),
        Column("from", "observed\n%", "percent"),
        *(Column(f"d{d}", f"{100 * d:g} point{'s' * (d > 0.01)}", "count") for d in SEEN),
    ]
    notes = [
        "Episodes of each method to see a fall in success with power 0.8 at two-sided level 0.05. "
        "Two runs: unpaired, from the success rate of none (Fleiss). Pairs: on the same episodes, "
        "from the share of episodes only one of the two solved (Connor).",
    ]
    return Table("trials", "Trials needed", columns, rows, notes)
