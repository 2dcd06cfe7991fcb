"""What is not nominal about episodes, and what they are held against.

A change is a variant (`--variants`), a perturbed suite's dimension, or both. A variant edits a
trial, so method and `none`, with and without it, are four episodes of one scene. A perturbed suite
has tasks of its own: its episodes are held against other scenes, of the tasks they come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from vlaprune_bench.measure.stats import Rate, combine, paired_difference, rate
from vlaprune_bench.report.cells import TITLES, Cell, Results, base_of

if TYPE_CHECKING:
    import pandas as pd

BLIND, WORDLESS = "blind", "wordless"
"""Controls: both cameras black from the first frame on, and an instruction without any word."""
APART = ("perturbation", "suite_reading")
"""Parts of a setting in which a changed cell and its nominal one may differ."""


@dataclass(frozen=True)
class Change:
    """What is not nominal about some episodes."""

    dimension: str
    """What is changed; empty: nothing."""
    severity: str
    """Of each variant, joined by +; empty: it has none."""
    suite: str
    control: str = ""
    """`BLIND`, `WORDLESS` or empty."""

    @property
    def name(self) -> str:
        """What is changed, how much, and where."""
        words = [self.dimension or "nominal scenes", self.severity, f"on {suite_title(self.suite)}"]
        return " ".join(filter(None, words))


class Edits(NamedTuple):
    """What the variants of a cell change, in words, and the control that is, if it is one."""

    words: str
    severity: str
    control: str


def suite_title(suite: str) -> str:
    return TITLES.get(suite, suite)


def edits_of(variants: list[dict[str, Any]]) -> Edits:
    """Variants, as a row has them, in words."""
    named = []
    for one in variants:
        rest = sorted(one.keys() - {"type", "kind", "severity", "amount", "unit"})
        named.append(" ".join(str(one[k]) for k in ("type", "kind", *rest) if one[k]))
    severities = "+".join(str(one["severity"]) for one in variants if one["severity"])
    return Edits(" + ".join(named), severities, _control(variants))


def _control(variants: list[dict[str, Any]]) -> str:
    one = variants[0] if len(variants) == 1 else {"type": ""}
    if one["type"] == "blackout" and (one["camera"], one["amount"]) == ("both", 0):
        return BLIND
    if one["type"] == "words" and (one["kind"], one.get("amount")) == ("blank", 1):
        return WORDLESS
    return ""


def success_of(episodes: pd.DataFrame) -> Rate:
    """Success of finished episodes."""
    return rate(int(episodes.success.sum()), len(episodes))


def difference(own: pd.DataFrame, other: pd.DataFrame, same: bool) -> Rate:
    """Success of some episodes less that of others: on the scenes they share, or of other ones."""
    if not same:
        return combine([success_of(own), success_of(other)], [1, -1])
    shared = own.index.intersection(other.index)
    gap = own.success[shared].astype(int) - other.success[shared].astype(int)
    return paired_difference(int((gap < 0).sum()), int((gap > 0).sum()), len(shared))


class Changes:
    """The changes in a folder."""

    def __init__(self, results: Results) -> None:
        self.results = results

    @cached_property
    def _tasks(self) -> pd.DataFrame:
        """Name and dimension of each (suite, task)."""
        kinds = self.results.episodes.drop_duplicates(["suite", "task"])
        return kinds.set_index(["suite", "task"])[["task_name", "dimension"]]

    @cached_property
    def _edits(self) -> dict[int, Edits]:
        """By index of a cell."""
        found = {}
        for cell in self.results.cells:
            row = self.results.episodes_of(cell).iloc[0]
            edits = edits_of(json.loads(row.variants or "[]"))
            # a hash stands behind the words that stand for several scales of severities
            mark = cell.setting["perturbation"].removeprefix(row.perturbation)
            found[cell.index] = edits._replace(words=edits.words + mark)
        return found

    @cached_property
    def _kin(self) -> dict[tuple[str, str], list[Cell]]:
        """Cells by method with options, and by setting but for what is changed."""
        found: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.results.cells:
            found.setdefault((_method(cell), _setting(cell)), []).append(cell)
        return found

    def _nearest(self, cell: Cell, method: str, wanted: Callable[[Edits], bool]) -> Cell | None:
        """The cell of a method in the setting of `cell` with other edits; with the same reading of
        perturbed suites, if there is one."""
        kin = self._kin.get((method, _setting(cell)), [])
        found = [one for one in kin if wanted(self._edits[one.index])]
        reading = cell.setting["suite_reading"]
        found.sort(key=lambda one: one.setting["suite_reading"] != reading)
        return found[0] if found else None

    def nominal(self, cell: Cell) -> Cell | None:
        """The same method in the same setting without variants; the cell itself, if it has none."""
        return self._nearest(cell, _method(cell), lambda edits: not edits.words)

    def floor(self, cell: Cell, control: str = BLIND) -> Cell | None:
        """`none` under a control, in the setting of a cell."""
        return self._nearest(cell, "none", lambda edits: edits.control == control)

    def split(self, cell: Cell, frame: pd.DataFrame) -> Iterator[tuple[Change, pd.DataFrame]]:
        """Some episodes of a cell by what is changed in them; `frame` has columns of `PAIR`."""
        edits = self._edits[cell.index]
        place = frame.set_index(["suite", "task"]).index
        dimension = self._tasks.dimension.reindex(place).to_numpy()
        for (suite, own), part in frame.groupby([frame.suite.to_numpy(), dimension]):
            words = ", ".join(filter(None, (str(own), edits.words)))
            yield Change(words, edits.severity, str(suite), edits.control), part

    @cached_property
    def all(self) -> list[tuple[Cell, Change, pd.DataFrame]]:
        """Every cell's finished episodes by what is changed; nominal ones and controls too."""
        finished = self.results.finished
        return [(c, *part) for c in self.results.cells for part in self.split(c, finished[c.index])]

    def beside(
        self, change: Change, own: pd.DataFrame, frame: pd.DataFrame
    ) -> tuple[pd.DataFrame, bool]:
        """The part of `frame` that changed episodes are held against, and whether it is of the same
        scenes: of the same suite, else of the base suite's tasks that they come from."""
        base = base_of(change.suite)
        there = frame[frame.suite == base]
        if base == change.suite:
            return there, True
        return there[there.task.isin(self._origins(base, change.suite, own))], False

    def _origins(self, base: str, suite: str, own: pd.DataFrame) -> set[int]:
        """Tasks of the base suite that a perturbed suite's come from: their names begin alike."""
        names = self._tasks.task_name
        known = names[base].to_dict() if base in names.index.unique("suite") else {}
        found = set()
        for name in names[suite][own.task.unique()]:
            of = [task for task, begin in known.items() if name.startswith(begin)]
            found |= {max(of, key=lambda task: len(known[task]))} if of else set()
        return found

    def above(self, cell: Cell, change: Change, own: pd.DataFrame, control: str = BLIND) -> Rate:
        """Success of changed episodes less that of `none` under a control; nan: it has not run."""
        floor = self.floor(cell, control)
        if floor is None:
            return Rate(math.nan)
        there = self.results.finished[floor.index]
        if (there.suite == change.suite).any():
            return difference(own, there, same=True)
        return difference(own, *self.beside(change, own, there))


def _method(cell: Cell) -> str:
    return "none" if cell.method == "none" else repr((cell.method, cell.keep, cell.options))


def _setting(cell: Cell) -> str:
    return repr({name: value for name, value in cell.setting.items() if name not in APART})
