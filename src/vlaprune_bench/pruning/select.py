"""From scores to tokens: camera quotas, the best of each camera, the most diverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaprune_bench.types import TokenLayout

if TYPE_CHECKING:
    from torch import Tensor


def cameras(layout: TokenLayout) -> list[slice]:
    """Each camera's patches, as indices into the visual tokens."""
    return [layout.camera(index) for index in range(len(layout.grids))]


def split_quotas(k: int, counts: Sequence[int], weights: Sequence[float] = ()) -> list[int]:
    """Share `k` kept tokens over cameras, as ADP's reference does.

    Each camera first gets round(k w); what is missing or too many is given or taken one by one,
    cameras by descending weight, the first camera first among equals. A camera never gets more
    than it has, and without a share only what the others cannot take.

    Args:
        k: tokens to keep in all, at most sum(counts).
        counts: visual tokens of each camera.
        weights: one share a camera, on any scale, not all 0; empty: equal.

    Returns:
        Tokens kept of each camera; they sum to `k`.
    """
    weights = list(weights) or [1.0] * len(counts)
    total = sum(weights)
    quotas = [min(n, round(k * w / total)) for n, w in zip(counts, weights, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -weights[i])
    while (missing := k - sum(quotas)) != 0:
        step = 1 if missing > 0 else -1
        able = [i for i in order if 0 <= quotas[i] + step <= counts[i]]
        able = [i for i in able if weights[i]] or able
        for i in able[: abs(missing)]:
            quotas[i] += step
    return quotas


def top_k_per_camera(scores_V: Tensor, layout: TokenLayout, quotas: Sequence[int]) -> Tensor:
    """Indices of the best `quotas[c]` of each camera's tokens.

    Returns:
        (sum(quotas),) int64 indices into the visual tokens, ascending.
    """
    import torch

    parts = zip(cameras(layout), quotas, strict=True)
    kept = [part.start + scores_V[part].topk(quota).indices for part, quota in parts]
    return torch.cat(kept).sort().values


def ranked(scores_V: Tensor, part: slice, there_V: Tensor | None = None) -> Tensor:
    """Visual tokens of `part` by falling score, the first among equals first.

    Args:
        scores_V: (V,) scores.
        part: some of the visual tokens, such as a camera's.
        there_V: (V,) bool: leave out the others.

    Returns:
        (n,) int64 indices into the visual tokens.
    """
    order = part.start + scores_V[part].argsort(descending=True, stable=True)
    return order if there_V is None else order[there_V[order]]


def best_of_each(scores_V: Tensor, layout: TokenLayout, k: int) -> Tensor:
    """(V,) bool: the `k` best of each camera's tokens (or all), the first among equals."""
    import torch

    best = [ranked(scores_V, part)[:k] for part in cameras(layout)]
    return mask(torch.cat(best), layout.n_visual)


def mask(index: Tensor, length: int) -> Tensor:
    """(length,) bool: True at `index`."""
    import torch

    nowhere = torch.zeros(length, dtype=torch.bool, device=index.device)
    return nowhere.index_fill_(0, index, True)


def max_min(distances: Tensor, k: int) -> Tensor:
    """Greedy max-min: `k` points far from each other (DivPrune, arXiv 2503.02175).

    The first is the point farthest from its nearest neighbour; then always the point whose nearest
    chosen one is farthest. Equal distances: the first point.

    Args:
        distances: (n, n), symmetric, 0 on the diagonal.
        k: points to choose, 0 to n.

    Returns:
        (k,) int64 indices in the order chosen, on the device of `distances`.
    """
    import numpy as np
    import torch

    # k steps of a few microseconds each: not worth a kernel launch apiece
    d = distances.float().cpu().numpy()
    # of a point's distances its own, 0, is the smallest; the next is that of its neighbour
    farness = np.partition(d, 1, axis=1)[:, 1] if len(d) > 1 else d[:, 0]
    chosen: list[int] = []
    for _ in range(k):
        chosen.append(int(farness.argmax()))
        row = d[chosen[-1]]
        farness = np.minimum(farness, row) if len(chosen) > 1 else row.copy()
        farness[chosen[-1]] = -np.inf
    return torch.tensor(chosen, dtype=torch.int64, device=distances.device)
