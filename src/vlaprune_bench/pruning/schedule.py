"""A keep schedule over decoder layers, around any method that scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner, Selection
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gated import has_gate
from vlaprune_bench.pruning.options import option, wrong
from vlaprune_bench.pruning.wrapper import Wrapper
from vlaprune_bench.types import UserError


@Pruner.register_subclass("schedule")
@dataclass(frozen=True)
class Schedule(Wrapper):
    """Prune as `scorer` does, and again before later decoder layers, down to smaller shares.

    Stepwise dropping as PyramidDrop (arXiv 2410.17247) does it, with the score of any method that
    has one: a score that depends on the layer, such as attention, is taken anew before each.
    `scorer` with its own keep (and layer) is the first step; the shares are of all visual tokens.
    """

    scorer: Pruner = FastV(keep=0.7)
    """The method that scores; its options stand beside these."""
    later_layers: tuple[int, ...] = option((9, 15), layers=True)
    """Decoder layers before which more tokens leave, ascending, after the scorer's own."""
    later_keeps: tuple[float, ...] = (0.5, 0.3)
    """Share of all visual tokens left at each of them, descending, at most the scorer's keep."""

    def __post_init__(self) -> None:
        if not isinstance(self.scorer, ScoredPruner) or has_gate(self.scorer):
            why = "put gated around schedule" if has_gate(self.scorer) else "it has no score"
            raise UserError(f"--scorer is {self.scorer.name}; {why}.")
        layers, keeps = self.layers, (self.scorer.keep, *self.later_keeps)
        if not self.later_layers or sorted(set(layers)) != list(layers):
            said = f"the layers must ascend from above {self.scorer.layers[-1]}"
            raise wrong("later_layers", self.later_layers, said)
        if len(self.later_keeps) != len(self.later_layers):
            said = f"there are {len(self.later_layers)} layers, each needs one share"
            raise wrong("later_keeps", self.later_keeps, said)
        if sorted(keeps, reverse=True) != list(keeps) or keeps[-1] <= 0:
            said = f"the shares must be above 0 and descend from the scorer's {keeps[0]:g}"
            raise wrong("later_keeps", self.later_keeps, said)
        super().__post_init__()

    @property
    def steps(self) -> dict[int, ScoredPruner]:
        """The method asked before each layer."""
        assert isinstance(self.scorer, ScoredPruner)
        later = zip(self.later_layers, self.later_keeps, strict=True)
        first: dict[int, ScoredPruner] = dict.fromkeys(self.scorer.layers, self.scorer)
        return first | {k: replace(self.scorer.at_layer(k), keep=keep) for k, keep in later}

    @property
    def keep_ratio(self) -> float | None:
        return self.later_keeps[-1]

    @property
    def layers(self) -> tuple[int, ...]:
        return (*self.scorer.layers, *self.later_layers)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return tuple(sorted({tap for step in self.steps.values() for tap in step.tapped_layers}))

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        return self.steps[context.layer].select(context, memory)
