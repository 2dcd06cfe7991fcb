"""The sweep file: a base configuration, axes and suites, expanded to cells.

    base: {trials: 50, pruner: {type: adp, keep: 0.5}}  # options of an evaluation
    suites: [libero_spatial, libero_object]
    grid: {pruner.gate.lookback: [1, 2, 3]}   # every combination of the axes here
    zip: {seed: [7, 8], max_steps: [200, 300]}  # values side by side
    cells:                                     # explicit ones, which may have axes of their own
      - {pruner: fastv, grid: {pruner.keep: [0.25, 0.5]}}
      - {pruner: {type: vla-cache}}
    baseline: true                             # `none` beside them, once for each set of episodes
    smoke: {base: {checkpoint: tiny}, grid: {pruner.gate.lookback: [1, 2]}}  # with --smoke

Keys are those of an evaluation's file, nested ones with dots. A method by its name alone has its
default options. What `smoke` says wins key by key (its `cells` replace the others).
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from vlaprune_bench.config import EvalConfig, decode, from_dict, nearest, read_yaml
from vlaprune_bench.pruning import Pruner, method_class
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.rollout.identity import what_runs
from vlaprune_bench.types import UserError

Override = dict[str, Any]
"""Dotted keys of an evaluation and their values."""


@dataclass(frozen=True)
class SweepConfig:
    """A sweep file as it stands."""

    base: dict[str, Any] = field(default_factory=dict)
    """Options every cell begins with."""
    suites: list[str] = field(default_factory=list)
    """Suites to run; empty: the base's."""
    grid: dict[str, Any] = field(default_factory=dict)
    """Axes of which every combination is run: lists of values by dotted key."""
    zip: dict[str, Any] = field(default_factory=dict)
    """Axes whose values go side by side: lists of one length."""
    cells: list[Any] = field(default_factory=list)
    """Explicit cells: options by dotted key, with `grid` and `zip` of their own."""
    baseline: bool = True
    """Whether `none` runs on every set of episodes, too."""
    smoke: dict[str, Any] = field(default_factory=dict)
    """What --smoke changes, in the keys above."""


@dataclass(frozen=True)
class Sweep:
    """A sweep, expanded."""

    name: str
    cells: list[EvalConfig]
    """What is run, each once; a baseline stands before the cells it belongs to."""
    warnings: list[str]
    """What the reader of the plan must know, as dead axes."""
    asked: int
    """Cells the file asks for, before equal ones were merged; baselines not counted."""

    @property
    def folder(self) -> Path:
        """The results folder of all cells."""
        return self.cells[0].storage.output


def load_sweep(path: Path, *, smoke: bool = False, overrides: Override | None = None) -> Sweep:
    """Read and expand a sweep file.

    Args:
        path: of the file.
        smoke: apply what the file's `smoke` changes.
        overrides: options that win over the file's in every cell.

    Raises:
        UserError: what in the file (or the overrides) is wrong.
    """
    data = read_yaml(path, "FILE")
    check_keys(data, str(path))
    config = decode(SweepConfig, data, str(path))
    if smoke:
        if not config.smoke:
            raise UserError(f"--smoke: {path} does not say what a smoke run of it is (key smoke).")
        check_keys(config.smoke, f"{path}: smoke")
        config = _with_smoke(config, str(path))
    folder = Path("results") / ("smoke" if smoke else "sweeps") / path.stem
    base = {"output": str(folder), "wandb_group": path.stem, **config.base}
    return expand(replace(config, base=base), path.stem, str(path), overrides or {})


def check_keys(data: Mapping[str, Any], source: str) -> None:
    known = [f.name for f in fields(SweepConfig)]
    for key in data:
        if key not in known:
            raise UserError(f"{source}: unknown key {key}{nearest(key, known)}.")


def _with_smoke(config: SweepConfig, source: str) -> SweepConfig:
    # its rows are not the study's: they never go into the study's folder
    config = replace(config, base={k: v for k, v in config.base.items() if k != "output"})
    changes: dict[str, Any] = {}
    smoke = decode(SweepConfig, config.smoke, f"{source}: smoke")
    for key in config.smoke:
        value = getattr(smoke, key)
        changes[key] = {**getattr(config, key), **value} if isinstance(value, dict) else value
    return replace(config, **changes)


def expand(config: SweepConfig, name: str, source: str, overrides: Override) -> Sweep:
    """From axes to cells, equal ones merged."""
    asked = [
        Asked(own | point, {*axes, *own_axes})
        for own, own_axes in _explicit(config, source)
        for point, axes in _points(config.grid, config.zip, source)
    ]
    if config.suites:
        asked = [
            replace(cell, override={"suite": suite, **cell.override})
            for suite in config.suites
            for cell in asked
        ]
    merger = Merger(config, overrides, source)
    for cell in asked:
        merger.add(cell)
    return merger.sweep(name, len(asked))


@dataclass
class Merger:
    """Makes evaluations of what a file asks for, each once."""

    config: SweepConfig
    overrides: Override
    source: str
    made: dict[str, EvalConfig] = field(default_factory=dict)
    """Cells by what they run."""
    first: dict[str, Override] = field(default_factory=dict)
    """How the file asks for it the first time."""
    merged: Counter[tuple[str, frozenset[str]]] = field(default_factory=Counter)
    """Cells that are equal to one before, by method and the axes in which they seem to differ."""
    dead: dict[str, str] = field(default_factory=dict)
    """Axis keys that a method does not have, with that method's name."""
    alive: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def add(self, cell: Asked) -> None:
        """Make a cell, and the baseline that stands before it."""
        data, lacking = cell.build(self.config.base, self.overrides, self.source)
        built = from_dict(data, self.source)
        method, key = built.what.pruner.name, what_runs(built)
        self.dead |= dict.fromkeys(lacking, method)
        self.alive |= cell.axes - set(lacking)
        self.folders.add(str(built.storage.output))
        if self.config.baseline:
            none = built.but(pruner=NoPruning())
            self.made.setdefault(what_runs(none), none)
        if (first := self.first.setdefault(key, cell.override)) is not cell.override:
            differ = {k for k in cell.axes if first.get(k) != cell.override.get(k)}
            self.merged[method, frozenset(differ)] += 1
        self.made.setdefault(key, built)

    def sweep(self, name: str, asked: int) -> Sweep:
        """All cells.

        Raises:
            UserError: an axis that no method has, or several results folders.
        """
        for axis in self.dead.keys() - self.alive:
            raise UserError(
                f"{self.source}: axis {axis} is an option of no method here, as {self.dead[axis]}."
            )
        if len(self.folders) > 1:
            folders = ", ".join(sorted(self.folders))
            raise UserError(f"output is {folders}; a sweep has one results folder.")
        return Sweep(name, list(self.made.values()), list(_dead(self.merged)), asked)


def _dead(merged: Mapping[tuple[str, frozenset[str]], int]) -> Iterator[str]:
    for (method, keys), count in merged.items():
        if method == "none":
            continue  # nobody expects options of the baseline
        cells = f"{count} cell{'s' * (count > 1)}"
        if keys:
            yield (
                f"dead axis: {' and '.join(sorted(keys))} changes nothing for {method} in {cells}, "
                "merged into equal ones"
            )
        else:
            yield f"{method} is asked for more than once with the same options: {cells} merged"


@dataclass(frozen=True)
class Asked:
    """A cell as the file asks for it."""

    override: Override
    axes: set[str]
    """The keys among them that come from axes."""

    def build(
        self, base: Mapping[str, Any], overrides: Override, source: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Plain data of the evaluation, and axes its method does not have."""
        data: dict[str, Any] = {}
        lacking = []
        # a method before its options, whichever axis comes first
        own = sorted(self.override.items(), key=lambda item: item[0].count("."))
        for key, value in [*base.items(), *own, *overrides.items()]:
            path = key.split(".")
            of_method = key in self.axes and path[0] == "pruner" and len(path) > 1
            if of_method and not has_option(data.get("pruner", {}), path[1:]):
                lacking.append(key)
                continue
            _put(data, path, value, source)
        return data, lacking


def _put(data: dict[str, Any], path: Sequence[str], value: Any, source: str) -> None:
    """Set a dotted key in nested data."""
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UserError(f"{source}: {'.'.join(path)}: {key} is {data}, which has no options.")
    # a method by its name alone
    if path == ["pruner"] and isinstance(value, str):
        value = {"type": value}
    data[path[-1]] = copy.deepcopy(value)


def has_option(pruner: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a method (as plain data) has an option, perhaps one of a part of it."""
    if not isinstance(pruner, Mapping):
        raise UserError(f"pruner is {pruner}; it must be a method's name, or a mapping with type.")
    part: Any = method_class(pruner.get("type", "none"))()
    data: Any = pruner
    for name in path:
        if not is_dataclass(part) or name not in {f.name for f in fields(part)}:
            return False
        part = getattr(part, name)
        data = data.get(name) if isinstance(data, Mapping) else None
        if isinstance(part, Pruner) and isinstance(data, Mapping) and "type" in data:
            part = method_class(data["type"])()
    return True


def _explicit(config: SweepConfig, source: str) -> Iterator[tuple[Override, set[str]]]:
    """The explicit cells with their own axes; one empty cell where there are none."""
    for number, entry in enumerate(config.cells or [{}]):
        where = f"{source}: cells[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {entry}; it must be a mapping of options.")
        own = {key: value for key, value in entry.items() if key not in ("grid", "zip")}
        for point, axes in _points(entry.get("grid", {}), entry.get("zip", {}), where):
            yield own | point, axes


def _points(
    grid: Mapping[str, Any], side_by_side: Mapping[str, Any], source: str
) -> list[tuple[Override, set[str]]]:
    """Every combination of the grid's axes with every row of the zipped ones."""
    for kind, axes in (("grid", grid), ("zip", side_by_side)):
        if not isinstance(axes, Mapping):
            raise UserError(f"{source}: {kind} is {axes}; it must be a mapping of axes to lists.")
        for key, values in axes.items():
            if not isinstance(values, list) or not values:
                raise UserError(
                    f"{source}: {kind}: {key} is {values}; it must be a list of values."
                )
    lengths = {key: len(values) for key, values in side_by_side.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{source}: the lists of zip are of different lengths: {lengths}.")
    rows = [
        dict(zip(side_by_side, row, strict=True))
        for row in zip(*side_by_side.values(), strict=True)
    ]
    keys = {*grid, *side_by_side}
    return [
        ({**dict(zip(grid, point, strict=True)), **row}, keys)
        for row in rows or [{}]
        for point in itertools.product(*grid.values())
    ]
