"""The Llama of Prismatic models: parameters under their published names, layers run by index.

The layers are transformers' own; what runs through them, and in which order tokens leave, is in
`decoder`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    rotate_half,
)

from vlaprune_bench.measure.flops import DecoderShape
from vlaprune_bench.policies.prismatic.cache import BatchCache, LayerCache

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


class LlamaStack(nn.Module):
    """The parameters of a Llama without its token logits."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(c, i) for i in range(c.num_hidden_layers))
        self.norm = LlamaRMSNorm(c.hidden_size, eps=c.rms_norm_eps)


class LanguageModel(nn.Module):
    """Embedding, layers, final norm and (where wanted) token logits of a Llama."""

    def __init__(
        self,
        text_config: dict[str, Any],
        attention: str,
        *,
        causal: bool = False,
        logits: bool = False,
    ) -> None:
        """
        Args:
            text_config: of a checkpoint's config.json.
            attention: "sdpa" or "eager".
            causal: whether a token sees only those before it, or all.
            logits: whether to hold `lm_head`.
        """
        super().__init__()
        c = llama_config(text_config, attention)
        self.attention = attention
        self.causal = causal
        self.width = c.hidden_size
        self.vocab_size = c.vocab_size
        self.n_layers = c.num_hidden_layers
        self.heads = c.num_attention_heads
        self.kv_heads = c.num_key_value_heads
        self.head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        self.shape = DecoderShape(
            c.hidden_size,
            c.intermediate_size,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        )
        self.model = LlamaStack(c)
        if logits:
            self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        # its frequencies are computed, not loaded: they must exist even where weights do not yet
        with torch.device("cpu"):
            self.rotary = LlamaRotaryEmbedding(c)

    @property
    def logit_macs(self) -> int:
        """MAC of the logits of one token."""
        return self.width * self.vocab_size

    def embed(self, ids_BT: Tensor) -> Tensor:
        return self.model.embed_tokens(ids_BT)

    def run_layers(
        self,
        hidden_BND: Tensor,
        positions_BN: Tensor,
        layers: Iterable[int],
        cache: LayerCache | BatchCache | None = None,
        visible_BNK: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the given layers.

        Args:
            hidden_BND: states before the first of the layers.
            positions_BN: RoPE position of each token; (N,) where all samples have the same.
            layers: indices of the layers to run.
            cache: is given each layer's keys and values, and may add those of other tokens.
            visible_BNK: which keys each token sees; None: all, or in a causal model those of the
                tokens up to itself (one lone token sees every key).
        """
        n = hidden_BND.shape[1]
        rotation = self.rotary(hidden_BND, torch.atleast_2d(positions_BN))
        is_causal = self.causal and n > 1 and visible_BNK is None
        if is_causal and self.attention == "eager":  # its kernel masks nothing by itself
            visible_BNK = torch.ones(1, n, n, dtype=torch.bool, device=hidden_BND.device).tril()
        mask = None
        if visible_BNK is not None:
            mask = torch.zeros(visible_BNK.shape, dtype=hidden_BND.dtype, device=hidden_BND.device)
            mask = mask.masked_fill_(~visible_BNK, float("-inf"))[:, None]
        for index in layers:
            hidden_BND = self.model.layers[index](
                hidden_BND,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=cache,
                is_causal=is_causal and mask is None,
            )
        return hidden_BND

    def rotate(self, queries_NHd: Tensor, positions_N: Tensor) -> Tensor:
        """Queries (or keys) with RoPE applied, as the layers do it."""
        cos_1Nd, sin_1Nd = self.rotary(queries_NHd, positions_N[None])
        cos_N1d, sin_N1d = cos_1Nd[0, :, None], sin_1Nd[0, :, None]
        return queries_NHd * cos_N1d + rotate_half(queries_NHd) * sin_N1d
