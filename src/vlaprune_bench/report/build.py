"""A whole report: the tables of a folder in their order, and its warnings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlaprune_bench.report.caveats import caveats
from vlaprune_bench.report.cells import Results, read
from vlaprune_bench.report.compare import (
    Pairs,
    discordant_table,
    paired_table,
    pairs,
    trials_table,
)
from vlaprune_bench.report.decide import Decision, Evidence, decisions
from vlaprune_bench.report.noise import Noise, noise
from vlaprune_bench.report.overview import Overview
from vlaprune_bench.report.published_match import match_tables
from vlaprune_bench.report.robustness import Robustness
from vlaprune_bench.report.sweeps import Axis, axes, sweep_table
from vlaprune_bench.report.table import Table
from vlaprune_bench.report.waiting import Waiting

MARGIN = 0.05
"""Default margin of non-inferiority, fraction."""


@dataclass
class Report:
    """Everything there is to say about a results folder, worked out when asked for."""

    results: Results
    margin: float = MARGIN

    @cached_property
    def overview(self) -> Overview:
        return Overview(self.results)

    @cached_property
    def pairs(self) -> list[Pairs]:
        return pairs(self.results)

    @cached_property
    def axes(self) -> list[Axis]:
        return axes(self.results)

    @cached_property
    def paired(self) -> Table:
        return paired_table(self.results, self.pairs, self.margin, self.noise)

    @cached_property
    def noise(self) -> Noise:
        return noise(self.results)

    @cached_property
    def decisions(self) -> list[Decision]:
        """The page at the top."""
        return decisions(
            Evidence(
                self.results,
                self.pairs,
                self.paired,
                self.overview.cost,
                self.noise,
                self.sweeps,
                self.margin,
            )
        )

    @cached_property
    def discordant(self) -> Table:
        return discordant_table(self.results, self.pairs)

    @cached_property
    def trials(self) -> Table:
        return trials_table(self.results, self.pairs)

    @cached_property
    def robustness(self) -> Robustness:
        return Robustness(self.results, self.pairs)

    @cached_property
    def waiting(self) -> Waiting:
        return Waiting(self.results, self.pairs)

    @cached_property
    def sweeps(self) -> list[Table]:
        """A table for every option that varies, in the order of `axes`."""
        return [sweep_table(self.overview, axis) for axis in self.axes]

    @cached_property
    def beside(self) -> list[Table]:
        """Published rows beside ours, where any match."""
        return match_tables(self.overview)

    @cached_property
    def warnings(self) -> list[str]:
        found = caveats(self.results, self.pairs, self.overview.absent)
        return [*found, *self.robustness.warnings]

    def tables(self, per_task: bool = False, per_episode: bool = False) -> list[Table]:
        """All tables that have rows.

        Args:
            per_task: with the breakdown by task.
            per_episode: with the episodes that only one of two methods solved.
        """
        found = [self.overview.success, self.overview.cost]
        if per_task:
            found.append(self.overview.tasks)
        found += [self.paired, self.noise.table]
        if per_episode:
            found.append(self.discordant)
        found += [
            *self.waiting.tables,
            *self.robustness.tables,
            self.trials,
            *self.sweeps,
            *self.beside,
        ]
        return [table for table in found if table.rows]


def load(place: Path, margin: float = MARGIN) -> Report:
    """Read a results folder, or what was exported of one.

    Raises:
        UserError: it holds no episodes.
    """
    return Report(read(place), margin)
