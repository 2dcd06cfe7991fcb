"""Turning scores into indices: camera quotas and top-k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


def split_quotas(k: int, counts: Sequence[int], weights: Sequence[float] = ()) -> list[int]:
    """Share `k` kept tokens over cameras, as ADP's reference does.

    Each camera first gets round(k w); what is missing or too many is given or taken one by one,
    cameras by descending weight, the first camera first among equals. A camera never gets more
    than it has.

    Args:
        k: tokens to keep in all, at most sum(counts).
        counts: visual tokens of each camera.
        weights: one share a camera, any positive scale; empty: equal.

    Returns:
        Tokens kept of each camera; they sum to `k`.

    Raises:
        UserError: as many weights as cameras are needed.
    """
    weights = list(weights) or [1.0] * len(counts)
    if len(weights) != len(counts):
        raise UserError(
            f"--camera-split has {len(weights)} shares; this policy has {len(counts)} cameras."
        )
    total = sum(weights)
    quotas = [min(n, round(k * w / total)) for n, w in zip(counts, weights, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -weights[i])
    while (missing := k - sum(quotas)) != 0:
        for i in order:
            step = (missing > 0) - (missing < 0)
            if 0 <= quotas[i] + step <= counts[i] and missing != 0:
                quotas[i] += step
                missing -= step
    return quotas


def top_k_per_camera(scores: Tensor, counts: Sequence[int], quotas: Sequence[int]) -> Tensor:
    """Indices of the best `quotas[c]` of each camera's tokens.

    Args:
        scores: (V,) scores, cameras one after the other.
        counts: tokens of each camera.
        quotas: how many of them to keep.

    Returns:
        (sum(quotas),) int64 indices into the V tokens, ascending.
    """
    import torch

    kept, start = [], 0
    for count, quota in zip(counts, quotas, strict=True):
        kept.append(scores[start : start + count].topk(quota).indices + start)
        start += count
    return torch.cat(kept).sort().values


def max_min(distances: Tensor, k: int) -> Tensor:
    """Greedy max-min: `k` points far from each other (DivPrune, arXiv 2503.02175).

    The first is the point farthest from its nearest neighbour; then always the point whose nearest
    chosen one is farthest. Equal distances: the first point.

    Args:
        distances: (n, n), symmetric, 0 on the diagonal.
        k: points to choose, 1 to n.

    Returns:
        (k,) int64 indices in the order chosen, on the device of `distances`.
    """
    import numpy as np
    import torch

    # k steps of a few microseconds each: not worth a kernel launch apiece
    d = distances.float().cpu().numpy()
    # of a point's distances its own, 0, is the smallest; the next is that of its neighbour
    nearest = np.partition(d, 1, axis=1)[:, 1] if len(d) > 1 else d[:, 0]
    chosen = [int(nearest.argmax())]
    to_chosen = d[chosen[0]].copy()
    for _ in range(k - 1):
        to_chosen[chosen[-1]] = -np.inf
        chosen.append(int(to_chosen.argmax()))
        np.minimum(to_chosen, d[chosen[-1]], out=to_chosen)
    return torch.tensor(chosen, device=distances.device)
