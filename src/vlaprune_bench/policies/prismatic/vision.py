"""DINOv2 (with registers) and SigLIP towers, and their fusion into patch features.

Parameter names are timm's, so that published checkpoints load as they are. Only what runs exists
here: patch features leave after the block of index depth - 2, without the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vlaprune_bench.measure.flops import vit_macs
from vlaprune_bench.types import UserError


@dataclass(frozen=True)
class ViTConfig:
    """Shape of one tower."""

    depth: int
    """Blocks stored; depth - 1 of them run."""
    embed_dim: int
    num_heads: int
    mlp_ratio: float
    registers: int = 0
    """Register tokens; with any, a class token stands before them (DINOv2)."""
    layer_scale: bool = False
    patch: int = 14
    image: int = 224

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.registers + 1 if self.registers else 0

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return (self.image // self.patch,) * 2


TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": ViTConfig(
        24, 1024, 16, 4.0, registers=4, layer_scale=True
    ),
    "vit_so400m_patch14_siglip_224": ViTConfig(27, 1152, 16, 3.7362),
}
"""The towers of published checkpoints, by timm model id; `mlp_ratio` gives SigLIP's 4304."""


def tower_configs(config: dict[str, Any]) -> list[ViTConfig]:
    """Shapes of the towers a checkpoint's config.json asks for, DINOv2 first.

    Raises:
        UserError: a model id we do not know, or not exactly two of them.
    """
    ids = config.get("timm_model_ids", [])
    unknown = [i for i in ids if i not in TOWERS]
    if len(ids) != 2 or unknown:
        raise UserError(
            f"config.json: timm_model_ids is {ids}; supported is a DINOv2 and a SigLIP tower: "
            f"{list(TOWERS)}."
        )
    overrides = config.get("timm_model_kwargs") or [{}, {}]
    sizes = config.get("image_sizes") or [224, 224]
    return [
        replace(TOWERS[name], image=size, **kwargs)
        for name, size, kwargs in zip(ids, sizes, overrides, strict=True)
    ]


class Attention(nn.Module):
    """Self-attention with one fused qkv projection."""

    def __init__(self, width: int, heads: int, backend: str) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHNd, k_BHNd, v_BHNd = qkv.unbind(0)
        if self.backend == "sdpa":
            out_BHNd = scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd)
        else:
            scores = q_BHNd @ k_BHNd.transpose(-1, -2) * q_BHNd.shape[-1] ** -0.5
            out_BHNd = scores.softmax(-1, dtype=torch.float32).to(v_BHNd.dtype) @ v_BHNd
        return self.proj(out_BHNd.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.empty(width))

    def forward(self, x_BND: Tensor) -> Tensor:
        return x_BND * self.scale_factor


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x_BND)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, c: ViTConfig, backend: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(c.embed_dim, eps=1e-6)
        self.attn = Attention(c.embed_dim, c.num_heads, backend)
        self.ls1 = LayerScale(c.embed_dim) if c.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(c.embed_dim, eps=1e-6)
        self.mlp = Mlp(c.embed_dim, c.mlp_dim)
        self.ls2 = LayerScale(c.embed_dim) if c.layer_scale else nn.Identity()

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.ls1(self.attn(self.norm1(x_BND)))
        return x_BND + self.ls2(self.mlp(self.norm2(x_BND)))


class PatchEmbed(nn.Module):
    def __init__(self, c: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, c.embed_dim, c.patch, stride=c.patch)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.proj(image_BCHW).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """One tower: (B, 3, H, W) normalised images to (B, patches, width) features."""

    def __init__(self, c: ViTConfig, attention: str) -> None:
        super().__init__()
        self.config = c
        self.patch_embed = PatchEmbed(c)
        self.pos_embed = nn.Parameter(torch.empty(1, c.grid[0] * c.grid[1], c.embed_dim))
        if c.registers:
            self.cls_token = nn.Parameter(torch.empty(1, 1, c.embed_dim))
            self.reg_token = nn.Parameter(torch.empty(1, c.registers, c.embed_dim))
        self.blocks = nn.ModuleList(Block(c, attention) for _ in range(c.depth - 1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x_BND = self.patch_embed(image_BCHW) + self.pos_embed
        if self.config.registers:
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x_BND = torch.cat([prefix.expand(len(x_BND), -1, -1), x_BND], dim=1)
        for block in self.blocks:
            x_BND = block(x_BND)
        return x_BND[:, self.config.prefix :]

    def macs(self) -> int:
        """MAC of one image."""
        c = self.config
        patches = c.grid[0] * c.grid[1]
        return vit_macs(patches, c.prefix, len(self.blocks), c.embed_dim, c.mlp_dim, 3 * c.patch**2)


class VisionBackbone(nn.Module):
    """Both towers on every camera's image; channels side by side, cameras along the tokens."""

    def __init__(self, config: dict[str, Any], attention: str) -> None:
        super().__init__()
        dino, siglip = tower_configs(config)
        for tower in (dino, siglip):
            if tower.embed_dim % tower.num_heads:
                raise UserError(
                    f"config.json: a tower's embed_dim is {tower.embed_dim}; it must be a multiple "
                    f"of its num_heads, {tower.num_heads}."
                )
        if dino.grid != siglip.grid or dino.image != siglip.image:
            raise UserError(
                f"config.json: image_sizes is {config.get('image_sizes')}; "
                "both towers must see images and patches of one size."
            )
        self.grid = dino.grid
        self.image_size = dino.image
        self.tower_widths = (dino.embed_dim, siglip.embed_dim)
        self.width = sum(self.tower_widths)
        self.featurizer = ViT(dino, attention)
        self.fused_featurizer = ViT(siglip, attention)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Patch features.

        Args:
            pixels_BCHW: (B, 6 x cameras, H, W); per camera 3 DINOv2 then 3 SigLIP channels.

        Returns:
            (B, cameras x patches, width).
        """
        batch, channels = pixels_BCHW.shape[:2]
        images = pixels_BCHW.unflatten(1, (channels // 6, 6)).flatten(0, 1)
        features = [self.featurizer(images[:, :3]), self.fused_featurizer(images[:, 3:])]
        return torch.cat(features, dim=-1).unflatten(0, (batch, -1)).flatten(1, 2)

    def macs(self, cameras: int) -> int:
        """MAC of both towers over all cameras."""
        return cameras * (self.featurizer.macs() + self.fused_featurizer.macs())
