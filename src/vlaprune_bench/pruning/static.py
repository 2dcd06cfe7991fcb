"""ADP's score at every call, without its gate: the trade-off baseline of the ADP repository."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner
from vlaprune_bench.pruning.options import option
from vlaprune_bench.pruning.scores import Reading

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("static")
@dataclass(frozen=True)
class Static(ScoredPruner):
    """Keep the patches most similar to the instruction at layer `qk_layer`, at every call.

    The score of a patch is the mean over heads and text tokens of q k^T / sqrt(d), without RoPE
    and without softmax (arXiv 2509.22093). The reference runs the whole model as a probe when
    `qk_layer` > 0; here only `qk_layer` layers run, and their cost is part of the call.
    Tokens leave before decoder layer 0 and those that stay get contiguous positions, as in the
    reference.
    """

    # the reference's sweep asks for the layer after the last one, fails, and runs unpruned
    qk_layer: int = option(0, layers=True)
    """Decoder layer whose queries and keys score the patches; that many layers run first."""
    reading: Reading = "paper"
    """Where paper and code differ: the number kept is rounded down (paper) or rounded (code)."""

    renumber_positions = True

    def budget(self, n_visual: int) -> int:
        wanted = self.keep * n_visual
        return max(1, floor(wanted + 1e-9) if self.reading == "paper" else round(wanted))

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        states = context.decoder.probe(self.qk_layer)
        n_visual = context.layout.n_visual
        return context.decoder.mean_query_key(
            self.qk_layer, queries=states[n_visual:], keys=states[:n_visual]
        )
