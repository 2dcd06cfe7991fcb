"""Measures of several methods: attention in the prefill, its entropy, diversity of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vlaprune_bench.pruning.base import PruneContext
from vlaprune_bench.pruning.select import max_min

if TYPE_CHECKING:
    from torch import Tensor

Criterion = Literal["last", "prefill"]
Reading = Literal["paper", "code"]


def prefill_attention(context: PruneContext, criterion: Criterion) -> Tensor:
    """Attention that visual tokens get in the layer before `context.layer`.

    Args:
        context: of a decision before a layer from 1.
        criterion: `last`: of the prefill's last row, the only one that sees everything where
            attention is causal; where every row does, there is none to single out, and this is
            `prefill`. `prefill`: mean over the rows of the prefill; placeholders, stop and masked
            tokens left out.

    Returns:
        (V,) float32, mean over heads.
    """
    layout = context.layout
    rows = context.decoder.rows(context.layer - 1)
    if criterion == "last" and context.causal:
        rows = rows[-1:]
    else:
        rows = rows[: len(rows) - (layout.length - layout.actions.start)]
    return context.decoder.attention(context.layer - 1, rows).mean(0)


def prompt_rows(context: PruneContext, skip: int = 0) -> Tensor:
    """(T,) int64 positions of the prompt's tokens after BOS and the next `skip`."""
    import torch

    prompt = context.layout.prompt_rest
    first = min(prompt.start + skip, prompt.stop)
    return torch.arange(first, prompt.stop, device=context.patches.device)


def mean_entropy(attention_RV: Tensor) -> Tensor:
    """Entropy of each row's attention, scaled to sum to 1 over the visual tokens, mean over rows.

    Args:
        attention_RV: (R, V) attention to the visual tokens; those that are gone have 0.

    Returns:
        () float32, nats.
    """
    p_RV = attention_RV / (attention_RV.sum(1, keepdim=True) + 1e-10)
    return -(p_RV * (p_RV + 1e-10).log()).sum(1).mean()


def rms_normed(x: Tensor) -> Tensor:
    """Vectors (..., width) scaled to a root mean square of 1, without weights."""
    normed = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return normed.to(x.dtype)


def most_diverse(context: PruneContext, index: Tensor, k: int) -> Tensor:
    """The `k` of some visual tokens that differ most: greedy max-min over 1 - cosine between their
    projected patch embeddings.

    Args:
        context: of this call, which n^2 x width MAC are charged to where there is a choice.
        index: (n,) int64 visual tokens.
        k: how many of them; all where there are no more.

    Returns:
        (k,) int64 visual tokens in the order chosen.
    """
    from torch.nn.functional import normalize

    if k == 0 or k >= len(index):
        return index[:k]
    directions = normalize(context.patches[index.to(context.patches.device)].float(), dim=-1)
    context.decoder.charge(len(directions) ** 2 * directions.shape[1])
    return index[max_min(1 - directions @ directions.T, k)]
