"""SigLIP, and what takes its patches into the language model: a projector or a connector."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from vlaprune_bench.measure.flops import vit_macs


@dataclass(frozen=True)
class SiglipShape:
    """Sizes of a tower."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    patch: int
    patches: int
    """Patches of an image."""

    @property
    def image(self) -> int:
        """Side of the image, pixels."""
        return isqrt(self.patches) * self.patch


class Attention(nn.Module):
    """Self-attention of a tower."""

    def __init__(self, c: SiglipShape, backend: str) -> None:
        super().__init__()
        self.heads, self.backend = c.heads, backend
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(c.width, c.width) for _ in range(4)
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        q, k, v = (
            proj(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.backend == "sdpa":
            out = scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers around a tanh GELU."""

    def __init__(self, c: SiglipShape) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c.width, c.mlp_width), nn.Linear(c.mlp_width, c.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, c: SiglipShape, backend: str) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(c.width, eps=1e-6)
        self.self_attn = Attention(c, backend)
        self.layer_norm2 = nn.LayerNorm(c.width, eps=1e-6)
        self.mlp = Mlp(c)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.self_attn(self.layer_norm1(x_BND))
        return x_BND + self.mlp(self.layer_norm2(x_BND))


class Siglip(nn.Module):
    """One tower: (B, 3, H, W) images in [-1, 1] to (B, patches, width); raster order."""

    def __init__(self, c: SiglipShape, attention: str) -> None:
        super().__init__()
        self.config = c
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": nn.Conv2d(3, c.width, c.patch, stride=c.patch),
                "position_embedding": nn.Embedding(c.patches, c.width),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(Block(c, attention) for _ in range(c.depth))}
        )
        self.post_layernorm = nn.LayerNorm(c.width, eps=1e-6)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        embed: Any = self.embeddings
        weight = embed["patch_embedding"].weight
        x_BND = embed["patch_embedding"](image_BCHW.to(weight.dtype)).flatten(2).transpose(1, 2)
        x_BND = x_BND + embed["position_embedding"].weight
        # the embeddings may be kept in a higher precision than what follows
        x_BND = x_BND.to(self.post_layernorm.weight)
        blocks: Any = self.encoder["layers"]
        for block in blocks:
            x_BND = block(x_BND)
        return self.post_layernorm(x_BND)

    def macs(self) -> int:
        """MAC of one image."""
        c = self.config
        return vit_macs(c.patches, 0, c.depth, c.width, c.mlp_width, 3 * c.patch**2)


class Projector(nn.Module):
    """Every patch a token (PaliGemma)."""

    side = 1

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_width, width)

    def forward(self, features_BPC: Tensor) -> Tensor:
        return self.linear(features_BPC)

    def macs(self, patches: int) -> int:
        """MAC of one image."""
        return patches * self.linear.weight.numel()


class Connector(nn.Module):
    """Every square block of patches a token (SmolVLM2's pixel shuffle)."""

    def __init__(self, vision_width: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Linear(vision_width * side**2, width, bias=False)

    def forward(self, features_BPC: Tensor) -> Tensor:
        rows = isqrt(features_BPC.shape[1]) // self.side
        blocks = features_BPC.unflatten(1, (rows, self.side, rows, self.side))
        # blocks in raster order; in a block row, column, channel
        return self.proj(blocks.transpose(2, 3).flatten(3).flatten(1, 2))

    def macs(self, patches: int) -> int:
        """MAC of one image."""
        return patches // self.side**2 * self.proj.weight.numel()


class Eyes(nn.Module):
    """A tower and what follows it, over all cameras."""

    def __init__(self, tower: Siglip, connector: Projector | Connector) -> None:
        super().__init__()
        self.tower, self.connector = tower, connector

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of a camera's tokens."""
        return (isqrt(self.tower.config.patches) // self.connector.side,) * 2

    def patches(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, V, width) embeddings of all cameras; pixels are (B, 3 cameras, H, W)."""
        return self.project(self.features(pixels_BCHW))

    @property
    def tower_widths(self) -> tuple[int, ...]:
        """Width of the one tower's outputs."""
        return (self.tower.config.width,)

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, patches of all cameras, width) outputs of the tower."""
        images = pixels_BCHW.unflatten(1, (-1, 3))
        return self.tower(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)

    def project(self, features_BPC: Tensor) -> Tensor:
        """(B, V, width) embeddings of the tower's outputs."""
        images = features_BPC.unflatten(1, (-1, self.tower.config.patches))
        weight = next(self.connector.parameters())
        tokens = self.connector(images.flatten(0, 1).to(weight.dtype))
        return tokens.unflatten(0, images.shape[:2]).flatten(1, 2)

    def macs(self, cameras: int) -> int:
        """MAC of `patches` for one sample."""
        return cameras * (self.tower.macs() + self.connector.macs(self.tower.config.patches))
