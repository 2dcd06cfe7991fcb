"""Average pooling of the patch grid: plain down-sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.select import cameras

if TYPE_CHECKING:
    from torch import Tensor


@Pruner.register_subclass("downsample")
@dataclass(frozen=True)
class Downsample(Pruner):
    """Average-pool the projected patches of each camera over blocks of `pool` x `pool`.

    The baseline of VTC-Bench (arXiv 2510.07143), which finds that it beats many published methods.
    There the image is made smaller; here the patch embeddings are averaged, so that the vision
    towers, which know one size only, stay as they are. Where `pool` does not divide a side, the
    side is cut into round(side / pool) parts that differ by at most one patch, so no patch is left
    out and none counts as much as a whole block: 16 x 16 patches become 5 x 5 with `pool` 3. The
    pooled tokens get contiguous positions, as those of a smaller image would.
    """

    pool: Literal[2, 3, 4] = 2
    """Side of the blocks, patches: keeps 1/4, 1/9 or 1/16 of the tokens."""

    renumber_positions = True

    @property
    def keep_ratio(self) -> float | None:
        return 1 / self.pool**2

    def select(self, context: PruneContext, memory: Any) -> Selection:
        import torch

        layout, width = context.layout, context.patches.shape[1]
        index: list[int] = []
        values: list[Tensor] = []
        for part, (rows, columns) in zip(cameras(layout), layout.grids, strict=True):
            blocks = context.patches[part].view(rows, columns, width)
            for side, dim in ((rows, 0), (columns, 1)):
                parts = blocks.split(cut(side, self.pool), dim)
                blocks = torch.stack([block.mean(dim) for block in parts], dim)
            values.append(blocks.flatten(0, 1))
            # a pooled token stands where the patch in the middle of its block stood
            y, x = (middles(cut(side, self.pool)) for side in (rows, columns))
            index += [part.start + columns * row + column for row in y for column in x]
        index_K = torch.tensor(index).to(context.patches.device, non_blocking=True)
        return Selection(index_K, torch.cat(values))


def cut(side: int, pool: int) -> list[int]:
    """Lengths of round(side / pool) parts of `side` that differ by at most one, longest first."""
    n = max(1, round(side / pool))
    return [side // n + (i < side % n) for i in range(n)]


def middles(lengths: list[int]) -> list[int]:
    """Index of the element in the middle of each of consecutive parts."""
    return [sum(lengths[:i]) + length // 2 for i, length in enumerate(lengths)]
