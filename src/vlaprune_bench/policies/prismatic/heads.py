"""What stands around the language model: projectors into it, and the two kinds of action head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlaprune_bench.measure.flops import mlp_macs


class Projector(nn.Module):
    """Patch features to the language model's width, through a layer of 4x the vision width."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.widths = (vision_width, 4 * vision_width, width, width)
        self.fc1, self.fc2, self.fc3 = _linears(*self.widths)
        self.act = nn.GELU()

    def forward(self, features_BVC: Tensor) -> Tensor:
        return self.fc3(self.act(self.fc2(self.act(self.fc1(features_BVC)))))

    def macs(self, rows: int) -> int:
        return mlp_macs(rows, *self.widths)


class ProprioProjector(nn.Module):
    """The normalised robot state to one token."""

    def __init__(self, proprio_dim: int, width: int) -> None:
        super().__init__()
        self.widths = (proprio_dim, width, width)
        self.fc1, self.fc2 = _linears(*self.widths)
        self.act = nn.GELU()

    def forward(self, proprio_BP: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(proprio_BP)))

    def macs(self) -> int:
        return mlp_macs(1, *self.widths)


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(LayerNorm x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class ActionMLP(nn.Module):
    """The regression network of OpenVLA-OFT: one action from the states of its tokens."""

    def __init__(self, width: int, action_dim: int, blocks: int = 2) -> None:
        super().__init__()
        self.widths = (width * action_dim, *[width] * (blocks + 1), action_dim)
        self.layer_norm1 = nn.LayerNorm(width * action_dim)
        self.fc1 = nn.Linear(width * action_dim, width)
        self.relu = nn.ReLU()
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, x_BCD: Tensor) -> Tensor:
        x_BCD = self.relu(self.fc1(self.layer_norm1(x_BCD)))
        for block in self.mlp_resnet_blocks:
            x_BCD = block(x_BCD)
        return self.fc2(self.layer_norm2(x_BCD))


class L1Head(nn.Module):
    """States of the action tokens, (B, chunk x action_dim, width), to (B, chunk, action_dim)."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = ActionMLP(width, action_dim)

    def forward(self, hidden_BAD: Tensor) -> Tensor:
        return self.model(hidden_BAD.unflatten(1, (-1, self.action_dim)).flatten(2))

    def macs(self, chunk: int) -> int:
        return mlp_macs(chunk, *self.model.widths)


@dataclass(frozen=True)
class ActionTokens:
    """Actions as tokens: the last ids of the vocabulary stand for bins of [-1, 1]."""

    vocabulary: int
    """Ids of the tokeniser; the embedding has more rows, padded to a round number."""
    bins: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> ActionTokens:
        """The action tokens of a checkpoint; absent keys of config.json are those of OpenVLA 7B."""
        rows = config.get("text_config", {}).get("vocab_size", 32064)
        return cls(rows - config.get("pad_to_multiple_of", 64), config.get("n_action_bins", 256))

    def actions(self, tokens_A: Tensor, logits_A: Tensor) -> np.ndarray:
        """Normalised actions of predicted tokens.

        Token `vocabulary` - 1 - i is bin i. There are `bins` edges from -1 to 1, hence one bin
        centre fewer, and ids beyond either end count as the last bin there (arXiv 2406.09246).

        Args:
            tokens_A: predicted ids.
            logits_A: their logits.

        Returns:
            (A,) float64 bin centres; NaN where the logit is not finite.
        """
        edges = np.linspace(-1.0, 1.0, self.bins)
        centers = (edges[:-1] + edges[1:]) / 2.0
        index_A = self.vocabulary - 1 - tokens_A.cpu().numpy()
        actions_A = centers[np.clip(index_A, 0, len(centers) - 1)]
        return np.where(torch.isfinite(logits_A).cpu().numpy(), actions_A, np.nan)


def _linears(*widths: int) -> list[nn.Linear]:
    return [nn.Linear(a, b) for a, b in pairwise(widths)]
