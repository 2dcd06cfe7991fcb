"""No pruning: the baseline every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner


@Pruner.register_subclass("none")
@dataclass(frozen=True)
class NoPruning(Pruner):
    """Keep every visual token; same attention backend as the pruned runs."""

    def select(self, context: PruneContext, memory: Any) -> None:
        return None
