"""The Gemma stack of PaliGemma: pi0 and pi0.5."""

from __future__ import annotations

from transformers import GemmaConfig
from transformers.models.gemma.modeling_gemma import (
    GemmaDecoderLayer,
    GemmaRMSNorm,
    GemmaRotaryEmbedding,
)

from vlaprune_bench.policies.transformer.stack import Stack


class Gemma(Stack):
    """A Gemma: norms scale by 1 + weight, the gate is a tanh GELU, few heads hold keys."""

    layer = GemmaDecoderLayer
    final_norm = GemmaRMSNorm
    rotation = GemmaRotaryEmbedding


def gemma_config(
    *,
    vocab_size: int,
    width: int,
    depth: int,
    mlp_width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> GemmaConfig:
    """transformers' configuration of a Gemma of these sizes; rotation with base 10000."""
    return GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=depth,
        intermediate_size=mlp_width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
