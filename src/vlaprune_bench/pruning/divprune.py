"""DivPrune: keep patches that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import BudgetPruner, PruneContext, Pruner
from vlaprune_bench.pruning.scores import most_diverse
from vlaprune_bench.pruning.select import cameras

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("divprune")
@dataclass(frozen=True)
class DivPrune(BudgetPruner):
    """Keep the most diverse patches: greedy max-min over 1 - cosine of projected embeddings.

    Source: arXiv 2503.02175. It starts with the patch farthest from its nearest neighbour and then
    adds the one whose nearest kept patch is farthest. The paper has one image; here each camera is
    one, with its share of the tokens. They leave before the language model, and those that stay
    get contiguous positions, as in the reference. The instruction plays no part.
    """

    renumber_positions = True

    def choose(self, context: PruneContext, memory: Any, quotas: Sequence[int]) -> Tensor:
        import torch

        tokens = torch.arange(context.layout.n_visual, device=context.patches.device)
        parts = zip(cameras(context.layout), quotas, strict=True)
        kept = [most_diverse(context, tokens[part], quota) for part, quota in parts]
        return torch.cat(kept).sort().values
