"""From episodes to cells: which episodes are one configuration, and what it is called.

A cell is a method with its options in one setting. What makes a setting, a method and a pair is
said by the columns themselves (`types.Role`). Episodes of several suites belong to one cell, though
budgets and published OpenVLA-OFT checkpoints are one per suite: see `_settings`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import What, digest, flatten
from vlaprune_bench.report.runs import read_runs
from vlaprune_bench.types import (
    DEFAULTS,
    PROTOCOLS,
    SUITES,
    EpisodeRow,
    Role,
    UserError,
    columns,
)

if TYPE_CHECKING:
    import pandas as pd

PAIR = list(columns(Role.PAIR))
"""What makes two episodes of one setting the same episode."""
SHOWN = {
    "checkpoint_hash": "checkpoint",
    "assets_hash": "assets",
    "max_steps": "budget",
    "variants": "perturbation",
    "latency": "latency_source",
}
"""Parts of a setting that are shown under another name, see `_settings`."""
SETTING = tuple(SHOWN.get(name, name) for name in columns(Role.SETTING))
"""What must agree before two methods are compared."""
USUAL = {
    "protocol": "openvla",
    "budget": "protocol",
    "scenes": "reference",
    "execute_steps": "8",
    **{
        SHOWN.get(n, n): str(v)
        for n, v in DEFAULTS[EpisodeRow].items()
        if n in columns(Role.SETTING)
    },
}
"""Parts of a setting that no title needs to say, see `usual`."""
BEGIN = ["scene_hash", "frames_hash", "instruction"]
"""Columns that agree where two episodes began alike."""
DECISIONS = ["success", "steps", "calls", "pruned_call_fraction", "visual_tokens_kept_mean"]
"""Columns of an episode that agree where all decisions do."""
TITLES = {name: name.removeprefix("libero_").capitalize() for name in SUITES}
TITLES["libero_10"] = "Long"


@dataclass(frozen=True)
class Cell:
    """A method with its options in one setting."""

    index: int
    method: str
    keep: float
    """nan: the method has none."""
    options: dict[str, Any]
    """Flat, as in `gate.lookback`; `keep` left out."""
    setting: dict[str, str]
    varying: str
    """The options in which cells of this method differ, as text."""

    @property
    def label(self) -> str:
        """Method, keep and varying options."""
        keep = "" if math.isnan(self.keep) else f" {self.keep:g}"
        return f"{self.method}{keep}" + (f" ({self.varying})" if self.varying else "")


@dataclass
class Results:
    """A results folder, read and sorted into cells."""

    place: Path
    """The folder, or the parquet file of an export."""
    episodes: pd.DataFrame
    """As `load_results` gives them, with columns `budget`, `cell` and `pair` (a number for what
    `PAIR` tells apart) added."""
    cells: list[Cell]
    runs: dict[str, str] = field(default_factory=dict)
    """Text of each `_runs/<run_id>.yaml`: command and configuration."""

    @property
    def folder(self) -> Path:
        """Where calls, configurations and videos lie."""
        return self.place.parent if self.place.is_file() else self.place

    @cached_property
    def groups(self) -> dict[int, pd.DataFrame]:
        """Episodes by index of their cell."""
        return {int(str(index)): group for index, group in self.episodes.groupby("cell")}

    @cached_property
    def finished(self) -> dict[int, pd.DataFrame]:
        """Episodes with status ok by index of their cell, each once (the first, where two runs
        measured the same), indexed by `pair`; with a column `outcome`, equal where `DECISIONS` are.
        """
        import pandas as pd

        ok = self.episodes[self.episodes.status == "ok"].drop_duplicates(["cell", "pair"])
        ok = ok[["cell", "pair", *PAIR, "episode_id", *BEGIN, *DECISIONS]]
        ok = ok.astype({"success": bool}).set_index("pair")
        numbers = ok[DECISIONS].astype(float)
        ok["outcome"] = pd.util.hash_pandas_object(numbers, index=False).to_numpy()
        groups = {int(str(index)): group for index, group in ok.groupby("cell")}
        return {cell.index: groups.get(cell.index, ok.iloc[:0]) for cell in self.cells}

    @cached_property
    def suites(self) -> list[str]:
        """The suites there are, in LIBERO's order."""
        present = set(self.episodes.suite.unique())
        return [suite for suite in SUITES if suite in present] + sorted(present - set(SUITES))

    @cached_property
    def shown_settings(self) -> list[str]:
        """The parts of the setting in which cells differ."""
        return [n for n in SETTING if len({cell.setting[n] for cell in self.cells}) > 1]

    def episodes_of(self, cell: Cell) -> pd.DataFrame:
        return self.groups[cell.index]

    def shared(self, one: Cell, other: Cell, suffix: str) -> pd.DataFrame:
        """Episodes that both cells finished.

        Returns:
            Columns of `PAIR`; success (bool), episode_id and `BEGIN` of `one`, and the same of
            `other` with the suffix.
        """
        columns = ["success", "episode_id", *BEGIN]
        own = self.finished[one.index][[*PAIR, *columns]]
        theirs = self.finished[other.index][columns]
        return own.merge(theirs, left_index=True, right_index=True, suffixes=("", suffix))

    def baseline(self, cell: Cell) -> Cell | None:
        """The cell of `none` in the same setting, where there is one."""
        same = (c for c in self.cells if c.method == "none" and c.setting == cell.setting)
        return next(same, None)


@cache
def base_of(suite: str) -> str:
    """The LIBERO suite that a suite comes from; itself where it is none that is known here."""
    try:
        return What(suite=suite).base_suite
    except UserError:
        return suite


def usual(name: str, setting: Mapping[str, Any]) -> bool:
    """Whether a part of a setting is what it mostly is: a call of `openvla` gives one action."""
    if name == "execute_steps" and setting["policy"] == "openvla":
        return setting[name] == "1"
    return USUAL.get(name) == setting[name]


def read(place: Path) -> Results:
    """Read a results folder, or what was exported of one: a folder, or its parquet file.

    Raises:
        UserError: it holds no episodes, or none that can be read.
    """
    from vlaprune_bench.store import load_results

    episodes = load_results(place)
    if not len(episodes):
        raise UserError(f"{place} holds no episodes that can be read: its files are damaged.")
    results = gather(episodes, place)
    results.runs = read_runs(results.folder)
    return results


def gather(
    episodes: pd.DataFrame, place: Path = Path(), runs: dict[str, str] | None = None
) -> Results:
    """Sort episodes into cells.

    Args:
        episodes: as `store.load_results` gives them.
        place: where they are from.
        runs: configuration texts by run id.
    """
    episodes = episodes.reset_index(drop=True)
    setting = _settings(episodes)
    episodes["budget"] = setting["budget"]
    kinds = setting.join(episodes[[*columns(Role.METHOD), "keep"]])
    number = kinds.groupby(list(kinds), dropna=False).ngroup()
    distinct = kinds.assign(number=number).drop_duplicates("number")
    made = [_cell(row) for row in distinct.to_dict("records")]
    order = sorted(range(len(made)), key=lambda k: _rank(made[k]))
    episodes["pair"] = episodes.groupby(PAIR).ngroup()
    episodes["cell"] = number.map({int(distinct.number.iloc[k]): i for i, k in enumerate(order)})
    return Results(place, episodes, _name([made[k] for k in order]), runs or {})


def _settings(episodes: pd.DataFrame) -> pd.DataFrame:
    """Columns of `SETTING` as text: what must agree, in words.

    A budget is `protocol` where it is the suite's. A checkpoint and an asset set have their names,
    with the hash where one name stands for several; checkpoints that are one for each suite are
    `one per suite`.
    """
    import pandas as pd

    found = {name: episodes[name] for name in columns(Role.SETTING)}
    found["max_steps"] = pd.Series(_budgets(episodes), episodes.index)
    found["checkpoint_hash"] = _families(episodes, _named(episodes, "checkpoint"))
    found["assets_hash"] = _named(episodes, "assets")
    found["variants"] = _named(episodes, "perturbation", "variants")
    found["latency"] = _named(episodes, "latency_source", "latency")
    return pd.DataFrame(
        {SHOWN.get(name, name): values.astype(str) for name, values in found.items()}
    )


def _named(episodes: pd.DataFrame, name: str, what: str | None = None) -> pd.Series:
    """Names, with the hash beside those that stand for more than one."""
    hashes = episodes[what].map(digest) if what else episodes[f"{name}_hash"].astype(str)
    many = hashes.groupby(episodes[name]).transform("nunique") > 1
    return episodes[name].mask(many, episodes[name] + " " + hashes.str[:6])


def _budgets(episodes: pd.DataFrame) -> list[str]:
    """`protocol` where an episode had its protocol's budget, else the number of steps."""
    kinds = episodes[["protocol", "suite", "max_steps"]].drop_duplicates()
    names = {
        (protocol, suite, steps): "protocol"
        if protocol in PROTOCOLS and PROTOCOLS[protocol].budgets.get(base_of(suite)) == steps
        else f"{steps} steps"
        for protocol, suite, steps in kinds.itertuples(index=False)
    }
    keys = zip(episodes.protocol, episodes.suite, episodes.max_steps, strict=True)
    return [names[key] for key in keys]


def _families(episodes: pd.DataFrame, checkpoint: pd.Series) -> pd.Series:
    """The checkpoint, or `one per suite` where that tells the same and no suite had two."""
    place = [episodes.policy, episodes.assets_hash]
    many = checkpoint.groupby(place).transform("nunique") > 1
    per_suite = checkpoint.groupby([*place, episodes.suite]).transform("nunique")
    clash = (per_suite > 1).groupby(place).transform("any")
    return checkpoint.mask(many & ~clash, "one per suite")


def _cell(row: Mapping[Hashable, Any]) -> Cell:
    keep = math.nan if row["keep"] is None else float(row["keep"])
    options = flatten(json.loads(row["method_options"]))
    options.pop("keep", None)
    return Cell(0, row["method"], keep, options, {n: row[n] for n in SETTING}, "")


def _rank(cell: Cell) -> tuple[Any, ...]:
    """Settings apart; `none` first, then by method, keep falling, options rising."""
    keep = math.inf if math.isnan(cell.keep) else cell.keep
    options = [sortable(value) for _, value in sorted(cell.options.items())]
    return list(cell.setting.values()), cell.method != "none", cell.method, -keep, options


def sortable(value: Any) -> tuple[str, Any]:
    """A key that orders numbers as numbers and anything else by its text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("", value) if number else ("text", str(value))


def differing(cells: list[Cell]) -> list[str]:
    """Names of the options that are not the same in all these cells."""
    names = sorted({name for cell in cells for name in cell.options})
    return [n for n in names if len({repr(cell.options.get(n)) for cell in cells}) > 1]


def short_names(names: list[str]) -> dict[str, str]:
    """Each option's last name, where no other option ends alike: `gate.lookback` is `lookback`."""
    last = [name.rpartition(".")[2] for name in names]
    return {n: tail if last.count(tail) == 1 else n for n, tail in zip(names, last, strict=True)}


def _name(cells: list[Cell]) -> list[Cell]:
    """Number the cells and give each the options its method's cells differ in."""
    named = []
    for index, cell in enumerate(cells):
        names = differing([c for c in cells if c.method == cell.method])
        short = short_names(names)
        text = ", ".join(f"{short[n]}={cell.options[n]}" for n in names if n in cell.options)
        named.append(Cell(index, cell.method, cell.keep, cell.options, cell.setting, text))
    return named


def mean_over_calls(episodes: pd.DataFrame, column: str) -> float:
    """The mean over calls of what episodes give as means over their own; nan: none does."""
    known = episodes[(episodes.calls > 0) & episodes[column].notna()]
    if known.empty:
        return math.nan
    return float((known[column].astype(float) * known.calls).sum() / known.calls.sum())
