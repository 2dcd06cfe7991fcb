"""The action expert: denoising steps that read the prefix's keys and values and never append.

A step takes noisy actions x at time t and gives their velocity; the expert's layers attend to what
each layer of the language model kept of the prefix, so tokens that left make every step cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from vlaprune_bench.measure.flops import mlp_macs
from vlaprune_bench.policies.flow.expert_layers import (
    ExpertLayer,
    ExpertShape,
    Look,
    Read,
    make_norm,
)

WAVELENGTH = 10000.0
"""Base of the rotation, in every family."""


class Expert(nn.Module):
    """The expert with what leads into it and out of it, under their published names."""

    def __init__(self, c: ExpertShape, backend: str) -> None:
        super().__init__()
        self.config = c
        self.layers = nn.ModuleList(ExpertLayer(c, j in c.cross, backend) for j in range(c.depth))
        self.norm = make_norm(c)
        if c.state_width:
            self.state_proj = nn.Linear(c.state_dim, c.state_width)
        self.action_in_proj = nn.Linear(c.action_dim, c.width)
        self.action_out_proj = nn.Linear(c.width, c.action_dim)
        first = c.width if c.norm == "adaptive" else 2 * c.width
        stem = "time_mlp" if c.norm == "adaptive" else "action_time_mlp"
        for name, width in ((f"{stem}_in", first), (f"{stem}_out", c.width)):
            self.add_module(name, nn.Linear(width, c.width))
        # computed, not loaded: they must exist even where weights do not yet
        with torch.device("cpu"):
            self.times = nn.Buffer(time_embedding(c), persistent=False)
            frequencies = WAVELENGTH ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
            self.frequencies = nn.Buffer(frequencies, persistent=False)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        layer: Any = getattr(self, name)
        return layer(x.to(layer.weight.dtype))

    @property
    def reads(self) -> tuple[int, ...]:
        """Layers of the language model that the expert's layers read, in order."""
        return tuple(j * self.config.every for j in range(self.config.depth))

    def state_token(self, state_BS: Tensor) -> Tensor:
        """(B, width) of the padded normalised state."""
        return self._linear("state_proj", state_BS)

    def suffix(self, x_BCA: Tensor, step: int, state_BD: Tensor | None) -> tuple[Tensor, Any]:
        """The expert's input at a step, (B, S, width), and the condition of its norms."""
        time_1D = self.times[step][None]
        actions = self._linear("action_in_proj", x_BCA)
        if self.config.norm == "adaptive":
            cond = silu(self._linear("time_mlp_out", silu(self._linear("time_mlp_in", time_1D))))
            return actions, cond
        both = torch.cat([actions, time_1D.expand(*actions.shape[:2], -1).to(actions)], dim=-1)
        tokens = self._linear("action_time_mlp_out", silu(self._linear("action_time_mlp_in", both)))
        if state_BD is not None:
            tokens = torch.cat([state_BD[:, None].to(tokens), tokens], dim=1)
        return tokens, None

    def velocity(
        self,
        x_BCA: Tensor,
        step: int,
        state_BD: Tensor | None,
        reads: Sequence[Read],
        looks: dict[int, Look] | None = None,
    ) -> Tensor:
        """dx/dt at a step, (B, C, action_dim) float32.

        Args:
            x_BCA: noisy actions.
            step: number of the Euler step, from 0 (t = 1).
            state_BD: the state's token, where it is one of the suffix.
            reads: of each layer, see `reading`.
            looks: is given queries and keys by expert layer.
        """
        hidden, cond = self.suffix(x_BCA, step, state_BD)
        hidden = hidden.to(reads[0].keys_BHKd)
        for index, (layer, read) in enumerate(zip(self.layers, reads, strict=True)):
            hidden, look = layer(hidden, cond, read)
            if looks is not None:
                looks[index] = look
        normed, _ = self.norm(hidden, cond)
        return self._linear("action_out_proj", normed[:, -x_BCA.shape[1] :]).float()

    def reading(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        starts: Sequence[Tensor],
        valid: Sequence[Tensor | None],
        n_suffix: int,
    ) -> list[Read]:
        """What each layer reads at every step: made once a call.

        Args:
            keys: (B, kv heads, K, head_dim) of the prefix, rotated, one for each expert layer.
            values: likewise.
            starts: (B,) RoPE position of the suffix's first token, for each layer.
            valid: (B, K) which keys count, for each layer; None: all.
            n_suffix: tokens of the suffix.
        """
        first: Any = self.layers[0]
        dtype = first.self_attn.q_proj.weight.dtype
        made = []
        for layer, k, v, start_B, valid_BK in zip(
            self.layers, keys, values, starts, valid, strict=True
        ):
            attention: Any = layer.self_attn
            k, v = k.to(dtype), v.to(dtype)
            if attention.cross:
                # the same at every step: projected once, where the reference does it in each
                k, v = (
                    attention.split(proj(x.transpose(1, 2).flatten(2)))
                    for proj, x in ((attention.k_proj, k), (attention.v_proj, v))
                )
                start_B = torch.zeros_like(start_B)
            own = None if attention.cross else self._own_mask(n_suffix, k.device)
            mask = _mask(valid_BK, own, len(k), n_suffix, k.shape[2])
            positions_BS = start_B[:, None] + torch.arange(n_suffix, device=k.device)
            angles = (positions_BS[..., None].float() * self.frequencies).repeat(1, 1, 2)[:, None]
            made.append(Read(k, v, mask, angles.cos().to(dtype), angles.sin().to(dtype)))
        return made

    def _own_mask(self, n: int, device: torch.device) -> Tensor:
        """(S, S) who sees whom in the suffix."""
        seen = torch.ones(n, n, dtype=torch.bool, device=device)
        if self.config.block == "causal":
            return seen.tril()
        if self.config.block == "state":
            seen[0, 1:] = False
        return seen

    def visible_to_actions(
        self, valid_K: Tensor | None, n_prefix: int, n_keys: int, n_actions: int, rows: Tensor
    ) -> Tensor | None:
        """(R, n_keys) which keys of a layer some action tokens see; None: all.

        Args:
            valid_K: which of the prefix's count.
            n_prefix: keys of the prefix.
            n_keys: of the layer, the suffix's own included where it has some.
            n_actions: C.
            rows: (R,) action tokens, from 0.
        """
        n = n_actions + self.config.state_in_suffix
        own = self._own_mask(n, rows.device)[n - n_actions :] if n_keys > n_prefix else None
        mask = _mask(None if valid_K is None else valid_K[None], own, 1, n_actions, n_prefix)
        return None if mask is None else mask[0, 0, rows]

    def denoise(
        self,
        noise_BCA: Tensor,
        state_BD: Tensor | None,
        reads: Sequence[Read],
        looks: dict[int, Look] | None = None,
        look_at: int = 0,
    ) -> Tensor:
        """Actions x at t = 0 from noise at t = 1 by Euler steps, (B, C, action_dim) float32.

        `looks` is given queries and keys of step `look_at`, by expert layer.
        """
        x_BCA, dt = noise_BCA, -1.0 / self.config.steps
        for step in range(self.config.steps):
            wanted = looks if step == look_at else None
            x_BCA = x_BCA + dt * self.velocity(x_BCA, step, state_BD, reads, wanted)
        return x_BCA

    def macs(self, n_actions: int, n_keys: Sequence[int]) -> int:
        """MAC of all denoising steps and what is made once for them.

        Args:
            n_actions: C, actions of a chunk.
            n_keys: of the prefix, for each expert layer.
        """
        c = self.config
        shape, n = c.layer, n_actions + c.state_in_suffix
        once, step = 0, n_actions * 2 * c.action_dim * c.width
        if c.norm == "adaptive":
            step += 2 * c.width**2 + (2 * c.depth + 1) * 3 * c.width**2
        else:
            step += mlp_macs(n_actions, 2 * c.width, c.width, c.width)
        for j, keys in enumerate(n_keys):
            cross = j in c.cross
            attended = keys if cross else keys + n
            step += 2 * n * c.width * shape.query_width + 2 * n * attended * shape.query_width
            step += 3 * n * c.width * c.mlp_width
            if cross:
                once += 2 * keys * shape.kv_width**2
            else:
                step += 2 * n * c.width * shape.kv_width
        if c.state_in_suffix:
            once += c.state_dim * c.state_width
        return once + c.steps * step


def time_embedding(c: ExpertShape) -> Tensor:
    """(steps, width) float32: sines, then cosines, of each step's time, t = 1 at the first."""
    half = c.width // 2
    shortest, longest = c.periods
    fractions = torch.linspace(0.0, 1.0, half, dtype=torch.float64)
    periods = shortest * (longest / shortest) ** fractions
    dt = -1.0 / c.steps
    t = torch.tensor([1.0 + step * dt for step in range(c.steps)]).double()
    angles = 2.0 * math.pi * t[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def _mask(
    valid_BK: Tensor | None, own_SS: Tensor | None, batch: int, n: int, n_keys: int
) -> Tensor | None:
    """(B, 1, S, K or K + S) bool; None: everything is seen."""
    if valid_BK is None and own_SS is None:
        return None
    device = (own_SS if valid_BK is None else valid_BK).device  # type: ignore[union-attr]
    if valid_BK is None:
        valid_BK = torch.ones(batch, n_keys, dtype=torch.bool, device=device)
    prefix = valid_BK[:, None].expand(-1, n, -1)
    if own_SS is not None:
        prefix = torch.cat([prefix, own_SS.expand(batch, -1, -1)], dim=2)
    return prefix[:, None]
