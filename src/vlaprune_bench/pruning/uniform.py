"""Evenly spaced tokens: the other sanity baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.pruning.base import PruneContext, Pruner, ScoredPruner

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("uniform")
@dataclass(frozen=True)
class Uniform(ScoredPruner):
    """Keep patches evenly spaced on each camera's grid, the same at every call.

    A sanity baseline without a source. The order in which patches fill the grid is that of ordered
    dithering (Bayer, 1973): a half is a checkerboard, a quarter every other patch both ways, and
    any number in between spreads as evenly. Positions as in `random`.
    """

    renumber_positions = True

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        import torch

        ranks = np.concatenate([dither_rank(*grid).ravel() for grid in context.layout.grids])
        return torch.as_tensor(-ranks).to(context.patches.device, non_blocking=True)


def dither_rank(rows: int, columns: int) -> np.ndarray:
    """(rows, columns) int64: smaller numbers fill the grid first; all of them differ."""
    y, x = np.mgrid[:rows, :columns]
    rank = np.zeros_like(y)
    for bit in range(max(rows, columns, 2).bit_length()):
        # the lowest bit of the coordinates is the highest of the rank
        rank = 4 * rank + 2 * ((x ^ y) >> bit & 1) + (y >> bit & 1)
    return rank
