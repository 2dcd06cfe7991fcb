"""TTF-VLA: outputs of the vision towers fused over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from vlaprune_bench.pruning.base import PruneContext, Pruner, Vision
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.options import option
from vlaprune_bench.pruning.scores import Reading, prompt_rows
from vlaprune_bench.pruning.select import best_of_each, cameras
from vlaprune_bench.types import TokenLayout, UserError

if TYPE_CHECKING:
    from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""


@dataclass
class TtfMemory:
    """What an episode's last call leaves to the next one."""

    calls: int = 0
    """Calls whose frames were seen."""
    pixels: Sequence[Tensor] = ()
    """See `Vision.pixels`."""
    features: Sequence[Tensor] = ()
    """See `Vision.features`; as they were fused."""
    relevance_V: Tensor | None = None
    """(V,) attention of the prompt to each visual token; None: no call was finished."""


@Pruner.register_subclass("ttf")
@dataclass(frozen=True)
class Ttf(Pruner):
    """Keep the vision towers' earlier output where a patch did not change and nobody looks at it.

    Source: arXiv 2508.19257. A patch's new output counts where its grey value changed by more than
    `change` since the previous call, mean over its pixels as the tower takes them (so each tower
    judges for itself), or where the prompt attended to it most in that call; else the output the
    previous call used stands, before the projector. Every `keyframe`-th call takes all anew.

    No token leaves and nothing gets cheaper: the towers must run in full to have the new outputs,
    here as in the code, which subtracts what it calls saved from its count. Calls in which outputs
    were fused are `pruned`, and `fused_patches` says how many, towers counted apart; FLOPs are of
    what ran. The code knows one camera; here `relevant` is of each. It looks at 35 text tokens at
    most, here all of the prompt count; and it recomputes all where something raises, which here
    ends the episode.
    """

    keyframe: int | None = option(None, at_least=1, published={"paper": 3, "code": 5})
    """Calls from one that takes all outputs anew to the next; by default 3, or 5 (code)."""
    change: float | None = option(None, at_least=0, published={"paper": 0.03, "code": 0.1})
    """Largest change of normalised grey at which an output may stand; by default 0.03, or 0.1."""
    relevant: int | None = option(
        None, at_least=0, count="camera", published={"paper": 70, "code": 120}
    )
    """Visual tokens of a camera that the prompt attends to most and that are taken anew; by default
    70 of 256, or 120 (code)."""
    relevance_layer: int | None = option(None, layers=True, published=15)
    """Decoder layer of that attention; by default layer 15 of 32, scaled to the model's depth."""
    reading: Reading = "paper"
    """Where the defaults come from: the paper's repository says one thing in its instructions
    (paper) and another in its code."""

    fuses = True

    def resolve(self, model: ModelShape) -> Ttf:
        if not model.shows_features:
            raise UserError(
                "--method is ttf; this policy has no outputs of vision towers that could be fused."
            )
        return Pruner.resolve(self, model)

    @property
    def layers(self) -> tuple[int, ...]:
        return ()

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        assert self.relevance_layer is not None
        return (self.relevance_layer,)

    def start(self) -> TtfMemory:
        return TtfMemory()

    def fuse(self, vision: Vision, memory: TtfMemory) -> tuple[Sequence[Tensor], int]:
        assert self.keyframe is not None
        fused, reused = [new.clone() for new in vision.features], 0
        if memory.calls % self.keyframe and memory.relevance_V is not None:
            for tower, old_CPD in enumerate(memory.features):
                stands_CP = self.stands(vision, memory, tower, memory.relevance_V)
                fused[tower][stands_CP] = old_CPD[stands_CP]
                reused += int(stands_CP.sum())
        memory.pixels, memory.features = vision.pixels, fused
        memory.calls += 1
        return fused, reused

    def stands(self, vision: Vision, memory: TtfMemory, tower: int, relevance_V: Tensor) -> Tensor:
        """(cameras, patches) bool: where a tower's earlier output stands."""
        assert self.change is not None
        assert self.relevant is not None
        side = isqrt(vision.features[tower].shape[1])
        change_CP = grey_change(vision.pixels[tower], memory.pixels[tower], side)
        relevant_V = best_of_each(relevance_V, vision.layout, self.relevant)
        return (change_CP <= self.change) & ~on_patches(relevant_V, vision.layout, side)

    def finish(self, context: PruneContext, memory: TtfMemory) -> None:
        assert self.relevance_layer is not None
        attention = context.decoder.attention(self.relevance_layer, prompt_rows(context))
        memory.relevance_V = attention.mean(0)


def grey_change(now_C3HW: Tensor, before_C3HW: Tensor, side: int) -> Tensor:
    """(cameras, side x side) float32 mean absolute change of grey in each patch, row by row."""
    import torch

    weights_311 = torch.tensor(GREY, device=now_C3HW.device)[:, None, None]
    now, before = ((weights_311 * x.float()).sum(1) for x in (now_C3HW, before_C3HW))
    tiles = (now - before).abs().unflatten(1, (side, -1)).unflatten(3, (side, -1))
    return tiles.mean((2, 4)).flatten(1)


def on_patches(which_V: Tensor, layout: TokenLayout, side: int) -> Tensor:
    """(cameras, side x side) bool: patches of the visual tokens where a (V,) bool is True; a token
    may be a block of patches."""
    import torch

    maps = []
    for part, (rows, columns) in zip(cameras(layout), layout.grids, strict=True):
        grid = which_V[part].view(rows, columns)
        grid = grid.repeat_interleave(side // rows, 0).repeat_interleave(side // columns, 1)
        maps.append(grid.flatten())
    return torch.stack(maps)
