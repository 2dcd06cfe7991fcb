"""What pruning loses where scenes, words or pictures are not the nominal ones: tables and warnings.

What a change is, and which episodes are held against which: `changes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.measure.stats import (
    Rate,
    change_of_difference,
    change_p,
    holm,
    paired_difference,
)
from vlaprune_bench.report.caveats import some
from vlaprune_bench.report.cells import Cell, Results
from vlaprune_bench.report.changes import (
    APART,
    BLIND,
    WORDLESS,
    Change,
    Changes,
    difference,
    success_of,
    suite_title,
)
from vlaprune_bench.report.compare import Pairs
from vlaprune_bench.report.overview import cell_columns, cell_values
from vlaprune_bench.report.table import Column, Table, show

if TYPE_CHECKING:
    import pandas as pd

SUCCESS_NOTE = (
    "Success in percent with Wilson's 95 % intervals. Change: on the same scenes (Tango) where a "
    "variant edits them; a perturbed suite's are other scenes than the nominal ones (Newcombe)."
)
BLIND_NOTE = (
    "Above blind: over none with both cameras black, on the same scenes where there are any."
)
ABSENT = "No floor: none has not run blind (--variants blackout)."
LOSS_NOTES = [
    "Loss: success less that of none on the same scenes, points. Extra: the loss with the change "
    "less the loss without it; below 0 pruning loses more under the change. Interval: Tango's two, "
    "joined by Zou's method; p: the level at which it just reaches 0; Holm over the rows of all "
    "suites, or over those of single suites.",
    "The same scenes: the four episodes share suite, task, trial and seed, and scenes count that "
    "all four finished; the two losses' correlation is allowed for. Others: a perturbed suite's "
    "tasks beside the nominal tasks they come from, taken as independent.",
    "Points: who is near the floor has few left to lose, so read extra beside the floors.",
]
FLOOR_NOTE = (
    "Blind: both cameras black from the first frame on. Wordless: an empty instruction. "
    "Differences on the same scenes (Tango)."
)


@dataclass(frozen=True)
class Contrast:
    """What a method does to success, scene by scene, without a change and with it."""

    before: np.ndarray
    """(scenes,) int: 1 where the method alone succeeded, -1 where `none` alone did, else 0."""
    after: np.ndarray
    same: bool
    """Both are of the same scenes, in one order."""


@dataclass(frozen=True)
class Line:
    """Success over severity."""

    dimension: str
    suite: str
    rates: dict[str, list[tuple[int, Rate]]]
    """By name of a cell: severity, rising from 0 (nominal), and success."""
    floors: dict[str, Rate]
    """Success of `none` blind, by its name."""


class Robustness:
    """What there is beside the nominal episodes of a folder, worked out when asked for."""

    def __init__(self, results: Results, found: list[Pairs]) -> None:
        self.results = results
        self.changes = Changes(results)
        self.pairs = {pair.cell.index: pair.frame for pair in found}

    @cached_property
    def _parts(self) -> list[tuple[Cell, Change, pd.DataFrame]]:
        """What is changed, and not to be a control."""
        return [part for part in self.changes.all if part[1].dimension and not part[1].control]

    @property
    def tables(self) -> list[Table]:
        """Those that have rows."""
        return [t for t in (self.success, self.loss, self.floors) if t.rows]

    def _who(self) -> list[Column]:
        """Columns that say what is changed, and which cell a row is."""
        what = [Column(n, n, leading=True) for n in ("dimension", "severity", "suite")]
        return [*what, *(c for c in cell_columns(self.results) if c.key != "perturbation")]

    def _sorted(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Changes together, all suites before each; within, the order of cells."""
        places = {suite_title(suite): k for k, suite in enumerate(self.results.suites)}
        return sorted(
            rows, key=lambda r: (r["dimension"], r["severity"], places.get(r["suite"], -1))
        )

    @cached_property
    def success(self) -> Table:
        """A row for each cell under each change: success with it, without it, over the floor."""
        rows = []
        for cell, change, own in self._parts:
            row = {**_values(cell, change), "changed": success_of(own), "episodes": len(own)}
            row["above"] = self.changes.above(cell, change, own)
            if nominal := self.changes.nominal(cell):
                there, same = self._beside(change, own, nominal)
                row |= {"nominal": success_of(there), "change": difference(own, there, same)}
            rows.append(row)
        columns = [
            *self._who(),
            Column("nominal", "nominal", "percent"),
            Column("changed", "changed", "percent"),
            Column("change", "change\npoints", "points"),
            Column("above", "above blind\npoints", "points"),
            Column("episodes", "episodes", "count"),
        ]
        blind = any(change.control == BLIND for _, change, _ in self.changes.all)
        notes = [SUCCESS_NOTE, BLIND_NOTE if blind else ABSENT]
        return Table(
            "robustness", "Success where scenes are changed", columns, self._sorted(rows), notes
        )

    def _beside(self, change: Change, own: pd.DataFrame, cell: Cell) -> tuple[pd.DataFrame, bool]:
        """See `Changes.beside`: among the finished episodes of a cell."""
        return self.changes.beside(change, own, self.results.finished[cell.index])

    @cached_property
    def contrasts(self) -> list[tuple[Cell, Change, Contrast | None]]:
        """Each pruned cell's pairs under a change beside its nominal ones; None: there are none."""
        found = []
        for cell in self.results.cells:
            if cell.index in self.pairs:
                for change, own in self.changes.split(cell, self.pairs[cell.index]):
                    if change.dimension and not change.control:
                        found.append((cell, change, self._contrast(cell, change, own)))
        return found

    def _contrast(self, cell: Cell, change: Change, own: pd.DataFrame) -> Contrast | None:
        nominal = self.changes.nominal(cell)
        if nominal is None or nominal.index not in self.pairs:
            return None
        there, same = self.changes.beside(change, own, self.pairs[nominal.index])
        if same:
            shared = own.index.intersection(there.index)
            own, there = own.loc[shared], there.loc[shared]
        if not len(own) or not len(there):
            return None
        return Contrast(_gaps(there), _gaps(own), same)

    @cached_property
    def loss(self) -> Table:
        """Whether pruning loses more under a change than without it."""
        rows = self._loss_rows()
        for whole in (True, False):
            family = [row for row in rows if row["whole"] == whole]
            for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
                row["p_holm"] = p
                more = "loses more" if row["extra"].value < 0 else "loses less"
                row["verdict"] = more if p < 0.05 else "undecided"
        columns = [
            *self._who(),
            Column("before", "loss\nnominal", "points"),
            Column("after", "loss\nchanged", "points"),
            Column("extra", "extra\npoints", "points"),
            Column("p", "p", "p"),
            Column("p_holm", "p\n(Holm)", "p"),
            Column("verdict", "verdict"),
            Column("scenes", "scenes"),
        ]
        title = "Whether pruning loses more where scenes are changed"
        return Table("interaction", title, columns, self._sorted(rows), LOSS_NOTES)

    def _loss_rows(self) -> list[dict[str, Any]]:
        """A row for each cell and change over all suites, and for each suite of several."""
        found: dict[tuple[int, str, str], dict[Change, Contrast]] = {}
        for cell, change, contrast in self.contrasts:
            if contrast is not None:
                key = (cell.index, change.dimension, change.severity)
                found.setdefault(key, {})[change] = contrast
        rows = []
        for (index, _, _), suites in found.items():
            cell, (first, *others) = self.results.cells[index], suites
            whole = {**_values(cell, first), **_row(_pooled([*suites.values()])), "whole": True}
            rows.append(whole | ({"suite": "all"} if others else {}))
            for change, contrast in suites.items() if others else ():
                rows.append({**_values(cell, change), **_row(contrast), "whole": False})
        return rows

    @cached_property
    def floors(self) -> Table:
        """Nominal success beside what `none` does without sight and without language."""
        rows = []
        for cell, change, own in self.changes.all:
            if change.dimension or not any(self.changes.floor(cell, c) for c in (BLIND, WORDLESS)):
                continue
            row = {**_values(cell, change), "success": success_of(own)}
            for control in (BLIND, WORDLESS):
                if floor := self.changes.floor(cell, control):
                    row[control] = success_of(self._beside(change, own, floor)[0])
                    row[f"above_{control}"] = self.changes.above(cell, change, own, control)
            rows.append(row)
        columns = [
            *(c for c in self._who() if c.key not in ("dimension", "severity")),
            Column("success", "success", "percent"),
            Column(BLIND, "none\nblind", "percent"),
            Column(f"above_{BLIND}", "above it\npoints", "points"),
            Column(WORDLESS, "none\nwordless", "percent"),
            Column(f"above_{WORDLESS}", "above it\npoints", "points"),
        ]
        title = "Floors: without sight, without language"
        return Table("floors", title, columns, rows, [FLOOR_NOTE])

    @cached_property
    def warnings(self) -> list[str]:
        """What is at the floor, and changes whose nominal side is not there."""
        at: dict[str, list[str]] = {}
        for cell, change, own in self.changes.all:
            above = self.changes.above(cell, change, own)
            if above.low <= 0 and not change.control:
                at.setdefault(cell.label, []).append(f"{change.name} ({show(above, 'points')})")
        found = [
            f"{label} is not above the blind floor (points over none with both cameras black): "
            f"{some(where)}"
            for label, where in at.items()
        ]
        alone = [f"{cell.label}, {change.name}" for cell, change, c in self.contrasts if c is None]
        if alone:
            found.append(
                f"no nominal pairs: not known whether pruning loses more for {some(alone)}"
            )
        return found

    @cached_property
    def lines(self) -> list[Line]:
        """Success over severity: one for each dimension and suite, nominal scenes first."""
        found: dict[tuple[str, str], Line] = {}
        for cell, change, own in self._parts:
            nominal, floor = self.changes.nominal(cell), self.changes.floor(cell)
            if nominal is None or not change.severity.isdigit():
                continue
            key = (change.dimension, suite_title(change.suite))
            line = found.setdefault(key, Line(*key, {}, {}))
            start = success_of(self._beside(change, own, nominal)[0])
            points = line.rates.setdefault(self._name(cell, cell.label), [(0, start)])
            points.append((int(change.severity), success_of(own)))
            points.sort(key=lambda point: point[0])
            if floor is not None:
                low = success_of(self._beside(change, own, floor)[0])
                line.floors[self._name(cell, "none blind")] = low
        return list(found.values())

    def _name(self, cell: Cell, what: str) -> str:
        """A label with the parts of a setting that cells do not share, but for what is changed."""
        shown = [name for name in self.results.shown_settings if name not in APART]
        return " ".join(filter(None, [*(cell.setting[name] for name in shown), what]))

    @property
    def seen(self) -> list[tuple[Change, pd.DataFrame]]:
        """Finished episodes by what is changed: nominal ones first, those of `none` first."""
        found = sorted(
            self.changes.all,
            key=lambda part: (bool(part[1].dimension), part[1].name, part[0].method != "none"),
        )
        return [(change, own) for _, change, own in found]


def _values(cell: Cell, change: Change) -> dict[str, Any]:
    suite = suite_title(change.suite)
    what = {"dimension": change.dimension, "severity": change.severity, "suite": suite}
    return {**cell_values(cell), **what}


def _gaps(pairs: pd.DataFrame) -> np.ndarray:
    return pairs.success.to_numpy().astype(int) - pairs.success_none.to_numpy().astype(int)


def _pooled(found: list[Contrast]) -> Contrast:
    """Contrasts of several suites as one."""
    before = np.concatenate([one.before for one in found])
    after = np.concatenate([one.after for one in found])
    return Contrast(before, after, all(one.same for one in found))


def _row(contrast: Contrast) -> dict[str, Any]:
    """The numbers of a contrast."""
    before, after, same = contrast.before, contrast.after, contrast.same
    scenes = f"{len(after)} the same" if same else f"{len(after)} beside {len(before)} others"
    return {
        "before": _net(before),
        "after": _net(after),
        "extra": change_of_difference(before, after, same),
        "p": change_p(before, after, same),
        "scenes": scenes,
    }


def _net(gaps: np.ndarray) -> Rate:
    return paired_difference(int((gaps < 0).sum()), int((gaps > 0).sum()), len(gaps))
