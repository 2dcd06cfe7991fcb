"""The Llama of Prismatic models, run layer by layer so that tokens can leave on the way.

The layers are transformers' own; everything around them (sequence, positions, pruning) is here.
Attention is bidirectional, as OpenVLA-OFT's parallel decoding needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from vlaprune_bench.measure.flops import DecoderShape, llm_prefill_macs
from vlaprune_bench.types import TokenLayout

CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
)
"""Keys of text_config that shape the computation; the rest is serialisation noise."""


def llama_config(text_config: dict[str, Any], attention: str) -> LlamaConfig:
    """The Llama a checkpoint's `text_config` describes; absent keys are those of Llama 2 7B."""
    known = {key: text_config[key] for key in CONFIG_KEYS if text_config.get(key) is not None}
    rope = {"rope_type": "default", **(text_config.get("rope_scaling") or {})}
    rope["rope_theta"] = text_config.get("rope_theta", 10000.0)
    config = LlamaConfig(**known, rope_parameters=rope)
    config._attn_implementation = attention
    return config


@dataclass
class Prefill:
    """What came out of the decoder layers."""

    hidden_BND: Tensor
    """States after the final norm, of the tokens that were left."""
    tokens_per_layer: list[int]
    kept_V: Tensor | None
    """Visual tokens (indices into all of them) that reached the last layer; None: all."""


class LlamaStack(nn.Module):
    """The parameters of a Llama without its token logits."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(c, i) for i in range(c.num_hidden_layers))
        self.norm = LlamaRMSNorm(c.hidden_size, eps=c.rms_norm_eps)


class LanguageModel(nn.Module):
    """Embedding, layers and final norm of a Llama, under its published parameter names."""

    def __init__(self, text_config: dict[str, Any], attention: str) -> None:
        super().__init__()
        c = llama_config(text_config, attention)
        self.width = c.hidden_size
        self.n_layers = c.num_hidden_layers
        self.heads = c.num_attention_heads
        self.kv_heads = c.num_key_value_heads
        head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        self.shape = DecoderShape(
            c.hidden_size, c.intermediate_size, self.heads * head_dim, self.kv_heads * head_dim
        )
        self.model = LlamaStack(c)
        # its frequencies are computed, not loaded: they must exist even where weights do not yet
        with torch.device("cpu"):
            self.rotary = LlamaRotaryEmbedding(c)

    def embed(self, ids_BT: Tensor) -> Tensor:
        return self.model.embed_tokens(ids_BT)

    def run_layers(self, hidden_BND: Tensor, positions_N: Tensor, layers: Iterable[int]) -> Tensor:
        """Hidden states after the given layers, every token seeing every token.

        Args:
            hidden_BND: states before the first of the layers.
            positions_N: RoPE position of each token.
            layers: indices of the layers to run.
        """
        rotation = self.rotary(hidden_BND, positions_N[None])
        for index in layers:
            hidden_BND = self.model.layers[index](
                hidden_BND, position_embeddings=rotation, is_causal=False
            )
        return hidden_BND

    def prefill(
        self,
        sequence_BLD: Tensor,
        layout: TokenLayout,
        select: Callable[[int], Tensor | None],
        select_at: Iterable[int] = (),
        renumber: bool = False,
    ) -> Prefill:
        """Run all layers; visual tokens leave the tensors where `select` says so.

        Args:
            sequence_BLD: input embeddings of the full sequence.
            layout: what stands where in it.
            select: called with a layer's index before that layer; returns ascending indices into
                all visual tokens, a subset of those still there, or None to keep what there is.
            select_at: layers before which `select` is called, ascending.
            renumber: give the tokens that stay contiguous positions; else they keep their own.

        Raises:
            ValueError: `select_at` names a layer there is not.
        """
        device = sequence_BLD.device
        hidden_BND, kept_V = sequence_BLD, None
        alive_N = torch.arange(layout.length, device=device)
        positions_N = alive_N
        borders = set(select_at)
        if beyond := [k for k in borders if not 0 <= k < self.n_layers]:
            raise ValueError(f"no decoder layer {beyond}: there are 0 to {self.n_layers - 1}")
        tokens_per_layer: list[int] = []
        # segments between decisions share their tokens, hence their rotation
        starts = sorted({0, *borders})
        for start, end in zip(starts, [*starts[1:], self.n_layers], strict=True):
            chosen_V = select(start) if start in borders else None
            if chosen_V is not None:
                kept_V = chosen_V
                stay_N = _sequence_positions(chosen_V.to(device), layout)
                # `alive_N` is sorted and contains `stay_N`: this finds their rows without a sync
                rows = torch.searchsorted(alive_N, stay_N)
                hidden_BND, alive_N = hidden_BND[:, rows], stay_N
                positions_N = torch.arange(len(alive_N), device=device) if renumber else alive_N
            hidden_BND = self.run_layers(hidden_BND, positions_N, range(start, end))
            tokens_per_layer += [len(alive_N)] * (end - start)
        return Prefill(self.model.norm(hidden_BND), tokens_per_layer, kept_V)


def _sequence_positions(kept_V: Tensor, layout: TokenLayout) -> Tensor:
    """Positions, in the full sequence, of what is left with `kept_V` of the visual tokens."""
    before = torch.arange(layout.visual.start, device=kept_V.device)
    after = torch.arange(layout.visual.stop, layout.length, device=kept_V.device)
    return torch.cat([before, layout.visual.start + kept_V, after])


class CallDecoder:
    """The language model as a pruning method sees it during one call (`pruning.base.Decoder`).

    Counts in `macs` whatever it computes for the method.
    """

    def __init__(self, model: LanguageModel, sequence_BLD: Tensor, layout: TokenLayout) -> None:
        self.n_layers = model.n_layers
        self.macs = 0
        self._model = model
        self._sequence_BLD = sequence_BLD
        self._layout = layout

    def probe(self, depth: int) -> Tensor:
        """States of the unpruned sequence, proprio left out, after `depth` layers (see Decoder)."""
        full = self._layout
        layout = replace(full, has_proprio=False)
        x_BLD = self._sequence_BLD[:1]
        hidden_BPD = torch.cat(
            [x_BLD[:, : full.proprio.start], x_BLD[:, full.proprio.stop :]], dim=1
        )
        if depth:
            positions = torch.arange(layout.length, device=hidden_BPD.device)
            hidden_BPD = self._model.run_layers(hidden_BPD, positions, range(depth))
            self.macs += llm_prefill_macs([layout.length] * depth, self._model.shape)
        bos = slice(0, layout.visual.start)
        parts = (layout.visual, bos, layout.prompt_rest, layout.stop)
        return torch.cat([hidden_BPD[0, part] for part in parts])

    def mean_query_key(self, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Mean of q k^T / sqrt(head_dim) over heads and queries, for each key (see Decoder).

        The mean over query rows commutes with q_proj, and the keys' projection is applied to the
        one resulting query instead: exact in real numbers, 2 d^2 + V d MAC instead of
        (2 V + T) d^2 or so. Computed in float32.
        """
        model = self._model
        block: Any = model.model.layers[layer]
        q_proj, k_proj = block.self_attn.q_proj, block.self_attn.k_proj
        normed_T, normed_V = (block.input_layernorm(x).float() for x in (queries, keys))
        q_1H = _affine(q_proj, normed_T.mean(0, keepdim=True))
        q_HW = q_1H.view(model.heads, -1)
        # query heads that share a key head see the same keys, so their queries add up
        q_1K = q_HW.unflatten(0, (model.kv_heads, -1)).sum(1).view(1, -1)
        scores_1V = (q_1K @ k_proj.weight.float()) @ normed_V.T
        if k_proj.bias is not None:
            scores_1V = scores_1V + q_1K @ k_proj.bias.float()
        shape = model.shape
        self.macs += shape.width * (shape.query_width + shape.kv_width + len(keys))
        return scores_1V[0] / (model.heads * q_HW.shape[-1] ** 0.5)


def _affine(linear: nn.Linear, x: Tensor) -> Tensor:
    bias = None if linear.bias is None else linear.bias.float()
    return nn.functional.linear(x, linear.weight.float(), bias)
