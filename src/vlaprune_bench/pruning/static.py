"""ADP's score at every call, without its gate: the trade-off baseline of the ADP repository."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any, Literal

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

Reading = Literal["paper", "code"]


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

    qk_layer: int = 0
    """Decoder layer whose queries and keys score the patches; that many layers run first."""
    reading: Reading = "paper"
    """Where paper and code differ: the number kept is rounded down (paper) or rounded (code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qk_layer < 0:
            raise UserError(f"--qk-layer is {self.qk_layer}; it must be 0 or more.")
        if self.reading not in ("paper", "code"):
            raise UserError(f"--reading is {self.reading}; it must be paper or code.")

    @property
    def renumber_positions(self) -> bool:
        return True

    def check(self, n_layers: int) -> None:
        # the reference's sweep asks for the layer after the last one, fails, and runs unpruned
        if self.qk_layer >= n_layers:
            raise UserError(
                f"--qk-layer is {self.qk_layer}; this model has decoder layers 0 to {n_layers - 1}."
            )

    def budget(self, n_visual: int) -> int:
        wanted = self.keep * n_visual
        return max(1, floor(wanted + 1e-9) if self.reading == "paper" else round(wanted))

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        states = context.decoder.probe(self.qk_layer)
        n_visual = context.layout.n_visual
        return context.decoder.mean_query_key(
            self.qk_layer, queries=states[n_visual:], keys=states[:n_visual]
        )
