"""SparseVLM in its one-layer form: attention of the words that speak about the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import PruneContext, Pruner
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.scores import Reading

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("sparsevlm")
@dataclass(frozen=True)
class SparseVlm(FastV):
    """Before decoder layer `layer`, keep the patches that the rater tokens attend to most.

    Source: arXiv 2410.04417, in the one-layer form that papers on VLA models compare with; the
    original prunes at several layers and merges what it drops. Raters are the text tokens whose
    relevance to the image is at least the mean: the softmax over text tokens of the dot products
    between patch and text input embeddings, mean over the patches of all cameras. The score of a
    patch is the mean over raters and heads of the attention of the layer before `layer`. The best
    of each camera stay, and keep their positions. A bidirectional policy needs no other rule.
    """

    reading: Reading = "paper"
    """Text tokens that may rate: all after the patches (paper), or without the first and the last
    of them (code)."""

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        rows = self.raters(context)
        return context.decoder.attention(context.layer - 1, rows).mean(0)

    def raters(self, context: PruneContext) -> Tensor:
        """(R,) int64 positions of the rater tokens in the full sequence."""
        layout = context.layout
        # what stands before the prompt's text is BOS, which no image follows
        bos = int(layout.has_bos)
        skip = (bos, 0) if self.reading == "paper" else (bos + 1, 1)
        text = context.prompt[skip[0] : len(context.prompt) - skip[1]].float()
        context.decoder.charge(len(context.patches) * text.shape[0] * text.shape[1])
        relevance = (context.patches.float() @ text.T).softmax(-1).mean(0)
        chosen = (relevance >= relevance.mean()).nonzero()[:, 0]
        return layout.prompt_rest.start + skip[0] - bos + chosen
