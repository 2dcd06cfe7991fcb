"""The noise floor: `none` against `none`, where nothing differs that should matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlaprune_bench.measure.stats import Rate, rate
from vlaprune_bench.report.cells import Cell, Results
from vlaprune_bench.report.table import Column, Table

FREE = ("repeat", "dtype")
"""Parts of a setting in which a rerun may differ, beside batch size, workers and machine."""


@dataclass(frozen=True)
class Rerun:
    """Two cells of `none` that differ in nothing that should matter."""

    first: Cell
    again: Cell
    pairs: int
    lost: int
    """Episodes that only the first solved."""
    gained: int
    """Episodes that only the rerun solved."""
    differs: str
    """In what they differ, in words."""

    @property
    def flipped(self) -> int:
        return self.lost + self.gained


@dataclass(frozen=True)
class Noise:
    """How far `none` is from itself in a folder."""

    reruns: list[Rerun]

    def floor(self, cell: Cell) -> Rate:
        """Share of episodes that flip between runs of `none` in a cell's setting, whatever its
        rerun and precision; nan: none was run again there."""
        place = _place(cell)
        own = [rerun for rerun in self.reruns if _place(rerun.first) == place]
        return rate(sum(r.flipped for r in own), sum(r.pairs for r in own))

    def says(self, cell: Cell, difference: float) -> str:
        """What the floor says of a paired difference of success rates, a fraction."""
        floor = self.floor(cell)
        if math.isnan(floor.value) or math.isnan(difference):
            return ""
        return "noise" if abs(difference) <= floor.high else "above it"

    @cached_property
    def table(self) -> Table:
        """One row for each rerun."""
        rows: list[dict[str, Any]] = [
            {
                "differs": r.differs,
                "pairs": r.pairs,
                "lost": r.lost,
                "gained": r.gained,
                "flipped": rate(r.flipped, r.pairs),
                "difference": (r.gained - r.lost) / r.pairs,
                **r.first.setting,
            }
            for r in self.reruns
        ]
        columns = [
            Column("differs", "none again, with", leading=True),
            Column("pairs", "pairs", "count"),
            Column("lost", "only the first\nsolved", "count"),
            Column("gained", "only the rerun\nsolved", "count"),
            Column("flipped", "flipped\n%", "percent"),
            Column("difference", "difference\npoints", "points"),
        ]
        notes = [
            "none against none on the same episodes: what flips, flips without any method. The "
            "floor of a setting is the share of its pairs that flip; a paired difference that is "
            "not above the upper end of its interval is called noise."
        ]
        return Table("noise-floor", "Noise floor", columns, rows, notes)


def noise(results: Results) -> Noise:
    """Every rerun of `none` beside the first run of its setting."""
    families: dict[str, list[Cell]] = {}
    for cell in results.cells:
        if cell.method == "none":
            families.setdefault(_place(cell), []).append(cell)
    found = []
    for cells in families.values():
        first, *others = sorted(cells, key=lambda cell: (int(cell.setting["repeat"]), cell.index))
        found += [r for other in others if (r := _rerun(results, first, other)).pairs]
    return Noise(found)


def _place(cell: Cell) -> str:
    return repr([(name, value) for name, value in cell.setting.items() if name not in FREE])


def _rerun(results: Results, first: Cell, again: Cell) -> Rerun:
    shared = results.shared(again, first, "_first")
    lost = int((shared.success_first & ~shared.success).sum())
    gained = int((shared.success & ~shared.success_first).sum())
    return Rerun(first, again, len(shared), lost, gained, _differs(results, first, again))


def _differs(results: Results, first: Cell, again: Cell) -> str:
    """What a rerun had otherwise, as its rows say."""
    parts = [f"{n} {again.setting[n]}" for n in FREE if again.setting[n] != first.setting[n]]
    before, after = results.episodes_of(first), results.episodes_of(again)
    for name in ("batch_size", "workers", "device"):
        one, two = (sorted(map(str, rows[name].unique())) for rows in (before, after))
        if one != two:
            parts.append(f"{name.replace('_size', '')} {'/'.join(two)} (first: {'/'.join(one)})")
    return ", ".join(parts) or "nothing else changed"
