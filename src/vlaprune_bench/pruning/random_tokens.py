"""Random tokens: what a method must beat to have chosen anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("random")
@dataclass(frozen=True)
class RandomTokens(ScoredPruner):
    """Keep random patches, drawn anew at every call from the call's seed alone.

    A sanity baseline without a source. Tokens leave before the language model and those that stay
    get contiguous positions, as in the published methods that prune there.
    """

    renumber_positions = True

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        import torch

        # drawn by numpy on the host: every device keeps the same tokens
        ranks = np.random.default_rng(context.seed).permutation(context.layout.n_visual)
        return torch.as_tensor(ranks).to(context.patches.device, non_blocking=True)
