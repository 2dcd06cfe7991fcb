"""The Llama stack of Prismatic models and of SmolVLM2."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from vlaprune_bench.policies.transformer.stack import Sees, Stack

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


class LanguageModel(Stack):
    """A Llama, with its token logits where wanted."""

    layer = LlamaDecoderLayer
    final_norm = LlamaRMSNorm
    rotation = LlamaRotaryEmbedding

    def __init__(
        self,
        text_config: dict[str, Any],
        attention: str,
        *,
        sees: Sees = "all",
        logits: bool = False,
    ) -> None:
        """
        Args:
            text_config: of a checkpoint's config.json.
            attention: "sdpa" or "eager".
            sees: which tokens a token may see.
            logits: whether to hold `lm_head`.
        """
        super().__init__(llama_config(text_config, attention), attention, sees)
        if logits:
            self.lm_head = nn.Linear(self.width, self.vocab_size, bias=False)

    @property
    def logit_macs(self) -> int:
        """MAC of the logits of one token."""
        return self.width * self.vocab_size
