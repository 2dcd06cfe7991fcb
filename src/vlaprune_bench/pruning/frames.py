"""What changed between two frames, patch by patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaprune_bench.pruning.base import PruneContext

if TYPE_CHECKING:
    from torch import Tensor


def patch_similarity(context: PruneContext, earlier: Tensor) -> Tensor:
    """Cosine between the pixels of each patch now and in earlier frames.

    Pixels are the values 0 to 255 the vision towers see, all channels of a patch in one vector.
    Computed in float64, where products and sums of whole numbers are exact: an unchanged patch
    gives exactly 1. A patch that is all black has no direction and gives 0, as in the code of
    VLA-Cache and SpecPrune-VLA. Its products are charged to the call.

    Args:
        context: of this call.
        earlier: frames of an earlier call, shaped as `context.frames`.

    Returns:
        (V,) float64 in the order of the visual tokens.
    """
    import torch

    pairs_CTHW = torch.stack([context.frames, earlier.to(context.frames)], dim=1)
    parts = []
    for pair, (rows, columns) in zip(pairs_CTHW, context.layout.grids, strict=True):
        x_NTP = _patches(pair, rows, columns)
        gram_NTT = x_NTP @ x_NTP.transpose(1, 2)
        context.decoder.charge(gram_NTT.numel() * x_NTP.shape[2])
        lengths_N = (gram_NTT[:, 0, 0] * gram_NTT[:, 1, 1]).sqrt()
        parts.append(gram_NTT[:, 0, 1] / lengths_N.clamp(min=1.0))
    return torch.cat(parts)


def _patches(pair_T3HW: Tensor, rows: int, columns: int) -> Tensor:
    """(patches, 2, values) float64 of two frames, patches row by row."""
    height, width = pair_T3HW.shape[2] // rows, pair_T3HW.shape[3] // columns
    tiles = pair_T3HW.double().unfold(2, height, height).unfold(3, width, width)
    return tiles.permute(2, 3, 0, 1, 4, 5).reshape(rows * columns, len(pair_T3HW), -1)
