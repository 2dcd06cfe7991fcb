"""Visual tokens that leave in training, at random, as pruning makes them leave in evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.types import TokenLayout

LEAST = 0.08
"""Smallest share of the visual tokens that stays; log-uniform from here to 1."""
AT_FIRST = 0.5
"""Chance that tokens leave before layer 0; else before one of the layers after it."""
PATTERNS = ("scattered", "blocks", "near", "cameras")


@dataclass(frozen=True)
class Leaving:
    """Which visual tokens leave, of the B samples of a batch, and where."""

    stays_BV: Tensor
    """bool."""
    layer_B: Tensor
    """int64, decoder layer before which the others leave."""
    renumber_B: Tensor
    """bool, whether tokens that stay get contiguous positions from that layer on."""

    def there(self, layer: int, layout: TokenLayout, length: int) -> Tensor:
        """(B, L) bool, tokens of the full sequence that a layer still has: no other key counts."""
        there_BL = torch.ones(len(self.stays_BV), length, dtype=torch.bool)
        there_BL[:, layout.visual] = self.stays_BV | (self.layer_B > layer)[:, None]
        return there_BL

    def positions(self, layer: int, layout: TokenLayout, length: int) -> Tensor:
        """(B, L) int64 RoPE positions at a layer; those of tokens that left mean nothing."""
        kept_L = torch.arange(length)
        # never negative: BOS or the first camera's first token stands at 0, there or not
        packed_BL = (self.there(layer, layout, length).cumsum(1) - 1).clamp(min=0)
        return torch.where(self.renumber_B[:, None], packed_BL, kept_L)

    def sees(self, layer: int, layout: TokenLayout, length: int, rule_LL: Tensor | None) -> Tensor:
        """(B, L or 1, L) bool which keys each token sees at a layer.

        Args:
            layer: decoder layer.
            layout: of the prefill.
            length: tokens of the sequence: the prefill's, and those told after it.
            rule_LL: which it sees where nothing leaves; None: all.
        """
        there_B1L = self.there(layer, layout, length)[:, None]
        return there_B1L if rule_LL is None else there_B1L & rule_LL


def draw(
    rng: np.random.Generator, batch: int, grids: tuple[tuple[int, int], ...], n_layers: int,
    share: float,
) -> Leaving:  # fmt: skip
    """Draw for every sample how many tokens stay, which, and where the others leave.

    Args:
        rng: all that is drawn comes from it.
        batch: samples.
        grids: (rows, columns) of each camera's tokens.
        n_layers: decoder layers.
        share: of the samples, those that lose tokens.
    """
    n_visual = sum(rows * columns for rows, columns in grids)
    stays_BV = np.ones((batch, n_visual), dtype=bool)
    for row in np.flatnonzero(rng.random(batch) < share):
        count = max(1, round(n_visual * LEAST ** rng.random()))
        stays_BV[row, np.argsort(pattern(rng, grids))[count:]] = False
    first_B = rng.random(batch) < AT_FIRST
    layer_B = np.where(first_B, 0, rng.integers(1, n_layers, size=batch)) if n_layers > 1 else 0
    return Leaving(
        torch.from_numpy(stays_BV),
        torch.from_numpy(np.broadcast_to(layer_B, batch).astype(np.int64)),
        torch.from_numpy(rng.random(batch) < 0.5),
    )


def pattern(rng: np.random.Generator, grids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(V,) ranks of the visual tokens, the lowest stay first, in a pattern drawn at random.

    Scattered; in blocks of 2 x 2; near a point of each frame; or mostly of some cameras.
    """
    kind = rng.choice(PATTERNS)
    parts = []
    for rows, columns in grids:
        rank = rng.random((rows, columns))
        y, x = np.mgrid[:rows, :columns]
        if kind == "blocks":
            rank = 0.1 * rank + rng.random((rows, columns))[y // 2, x // 2]
        elif kind == "near":
            away = np.hypot(y / rows - rng.random(), x / columns - rng.random())
            rank = 0.1 * rank + away
        elif kind == "cameras":
            rank = rank + rng.uniform(0.0, 2.0)
        parts.append(rank.ravel())
    return np.concatenate(parts)
