"""Layers of the action expert, in the forms of the three families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from vlaprune_bench.measure.flops import DecoderShape
from vlaprune_bench.policies.transformer.stack import rotated


@dataclass(frozen=True)
class ExpertShape:
    """What tells the experts of the families apart."""

    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    depth: int
    every: int
    """Expert layer j reads layer j x `every` of the language model."""
    norm: Literal["gemma", "llama", "adaptive"]
    """Scale 1 + weight; scale weight; or scale, shift and gate from the time (pi0.5)."""
    block: Literal["all", "state", "causal"]
    """Who sees whom in the suffix: everyone everyone (pi0.5); the state itself alone (pi0); those
    up to itself (SmolVLA)."""
    cross: frozenset[int] = frozenset()
    """Expert layers without keys of their own: they read the prefix's, projected (SmolVLA)."""
    action_dim: int = 32
    state_dim: int = 32
    state_width: int = 0
    """Width of the state's token; 0: no such token."""
    steps: int = 10
    periods: tuple[float, float] = (4e-3, 4.0)
    """Shortest and longest of the time embedding."""

    @property
    def state_in_suffix(self) -> bool:
        """Whether the state is a token of the expert's own."""
        return self.block == "state"

    @property
    def layer(self) -> DecoderShape:
        """Sizes of a layer, for its cost."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return DecoderShape(self.width, self.mlp_width, query, kv)


@dataclass
class Read:
    """What one expert layer reads at every step."""

    keys_BHKd: Tensor
    values_BHKd: Tensor
    mask_B1SK: Tensor | None
    """Which keys, the suffix's own behind them, each token of the suffix sees; None: all."""
    cos_B1Sd: Tensor
    sin_B1Sd: Tensor
    """Rotation of the suffix's queries and keys."""


@dataclass
class Look:
    """Queries and keys of one expert layer at one step, rotated: for attention maps."""

    queries_BHSd: Tensor
    keys_BHKd: Tensor


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale, shift and gate of the residual branch follow from a condition."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x_BSD: Tensor, cond_1D: Tensor) -> tuple[Tensor, Tensor]:
        x = x_BSD.float()
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        scale, shift, gate = self.dense(cond_1D.to(self.dense.weight.dtype)).chunk(3, dim=-1)
        return (normed * (1 + scale.float()) + shift.float()).to(x_BSD), gate.to(x_BSD)


class GemmaNorm(GemmaRMSNorm):
    """RMS norm, scale 1 + weight."""

    def forward(self, x_BSD: Tensor, cond_1D: Tensor | None) -> tuple[Tensor, None]:
        return super().forward(x_BSD), None


class LlamaNorm(LlamaRMSNorm):
    """RMS norm, scale weight."""

    def forward(self, x_BSD: Tensor, cond_1D: Tensor | None) -> tuple[Tensor, None]:
        return super().forward(x_BSD).to(x_BSD), None


def make_norm(c: ExpertShape) -> nn.Module:
    """A norm of the expert's kind."""
    if c.norm == "adaptive":
        return AdaptiveNorm(c.width)
    return LlamaNorm(c.width, eps=1e-5) if c.norm == "llama" else GemmaNorm(c.width, eps=1e-6)


class ExpertAttention(nn.Module):
    """Queries of the suffix to the prefix, and to the suffix itself unless the layer is `cross`."""

    def __init__(self, c: ExpertShape, cross: bool, backend: str) -> None:
        super().__init__()
        self.head_dim, self.cross, self.backend = c.head_dim, cross, backend
        query, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.q_proj = nn.Linear(c.width, query, bias=False)
        self.k_proj = nn.Linear(kv if cross else c.width, kv, bias=False)
        self.v_proj = nn.Linear(kv if cross else c.width, kv, bias=False)
        self.o_proj = nn.Linear(query, c.width, bias=False)

    def split(self, x_BSH: Tensor) -> Tensor:
        """Heads in front: (B, heads, S, head_dim)."""
        return x_BSH.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x_BSD: Tensor, read: Read) -> tuple[Tensor, Look]:
        queries = rotated(self.split(self.q_proj(x_BSD)), read.cos_B1Sd, read.sin_B1Sd)
        keys, values = read.keys_BHKd, read.values_BHKd
        if not self.cross:
            own = rotated(self.split(self.k_proj(x_BSD)), read.cos_B1Sd, read.sin_B1Sd)
            keys = torch.cat([keys, own], dim=2)
            values = torch.cat([values, self.split(self.v_proj(x_BSD))], dim=2)
        out = self._attend(queries, keys, values, read.mask_B1SK)
        return self.o_proj(out.transpose(1, 2).flatten(2)), Look(queries, keys)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        if self.backend == "sdpa":
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class ExpertMlp(nn.Module):
    """Gated MLP."""

    def __init__(self, c: ExpertShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.width, c.mlp_width, bias=False)
        self.up_proj = nn.Linear(c.width, c.mlp_width, bias=False)
        self.down_proj = nn.Linear(c.mlp_width, c.width, bias=False)
        self.llama = c.norm == "llama"

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = silu(gate) if self.llama else gelu(gate, approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


class ExpertLayer(nn.Module):
    """One layer of the expert."""

    def __init__(self, c: ExpertShape, cross: bool, backend: str) -> None:
        super().__init__()
        self.input_layernorm = make_norm(c)
        self.self_attn = ExpertAttention(c, cross, backend)
        self.post_attention_layernorm = make_norm(c)
        self.mlp = ExpertMlp(c)

    def forward(self, x_BSD: Tensor, cond: Tensor | None, read: Read) -> tuple[Tensor, Look]:
        normed, gate = self.input_layernorm(x_BSD, cond)
        out, look = self.self_attn(normed, read)
        x_BSD = x_BSD + (out if gate is None else out * gate)
        normed, gate = self.post_attention_layernorm(x_BSD, cond)
        out = self.mlp(normed)
        return x_BSD + (out if gate is None else out * gate), look
