"""FastV: after the first layers, keep the patches that get the most attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner
from vlaprune_bench.pruning.options import option
from vlaprune_bench.pruning.scores import prefill_attention

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("fastv")
@dataclass(frozen=True)
class FastV(ScoredPruner):
    """Before decoder layer `layer`, keep the patches the layer before attends to most.

    Source: arXiv 2403.06764, whose layer is 2; its ports to VLA models use 3. The score of a patch
    is the attention of the prefill's last row, mean over heads. A bidirectional policy
    (OpenVLA-OFT) has no row that sees more than the others: there it is the mean over the rows
    before the action placeholders, and the best of each camera stay. Tokens that stay keep their
    positions. Layer 0 has no attention before it and is refused; what drops tokens before the
    model is another method.
    """

    layer: int = option(3, at_least=1, layers=True)
    """Decoder layer before which tokens leave, from 1; the score comes from the one before it."""

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return (self.layer - 1,)

    def at_layer(self, layer: int) -> FastV:
        return replace(self, layer=layer)

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        return prefill_attention(context, "last")
