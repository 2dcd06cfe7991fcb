"""A stack of decoder layers: what a call runs through, whatever the family.

The layers are transformers' own, under their published parameter names; which tokens run through
them, and in which order tokens leave, is in `prefill`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vlaprune_bench.measure.flops import DecoderShape

if TYPE_CHECKING:
    from vlaprune_bench.policies.transformer.cache import BatchCache, LayerCache

Sees: TypeAlias = Literal["causal", "all", "prefix"]
"""What a token may see: those up to itself; every token; or, in the first `TokenLayout.n_prefix`,
each other, and from there on those up to itself."""


class Layers(nn.Module):
    """The parameters of a decoder without its token logits, under their published names."""

    def __init__(self, c: Any, layer: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(layer(c, i) for i in range(c.num_hidden_layers))
        self.norm = norm(c.hidden_size, eps=c.rms_norm_eps)


class Stack(nn.Module):
    """Embedding, layers, final norm and rotation of a decoder; `llama` and `gemma` are two.

    A family says which classes its layers, norms and rotation are; they take what those of
    transformers' Llama take.
    """

    layer: type[nn.Module]
    final_norm: type[nn.Module]
    rotation: type[nn.Module]

    def __init__(self, config: Any, attention: str, sees: Sees = "all") -> None:
        """
        Args:
            config: transformers' configuration of the family.
            attention: "sdpa" or "eager".
            sees: which tokens a token may see.
        """
        super().__init__()
        c = config
        c._attn_implementation = attention
        self.attention = attention
        self.sees: Sees = sees
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
        self.model = Layers(c, self.layer, self.final_norm)
        # its frequencies are computed, not loaded: they must exist even where weights do not yet
        with torch.device("cpu"):
            self.rotary = self.rotation(c)

    @property
    def causal(self) -> bool:
        """Whether a token sees only those up to itself."""
        return self.sees == "causal"

    def embed(self, ids_BT: Tensor) -> Tensor:
        return self.model.embed_tokens(ids_BT)

    def norm(self, hidden_BND: Tensor) -> Tensor:
        """States after the final norm."""
        return self.model.norm(hidden_BND)

    def block(self, layer: int) -> Any:
        """One layer, with `input_layernorm` and `self_attn`'s `q_proj` and `k_proj`."""
        return self.model.layers[layer]

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
            visible_BNK: which keys each token sees, at least one; None: all, or in a causal stack
                those of the tokens up to itself (one lone token sees every key).
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
            hidden_BND = self.block(index)(
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
        return rotated(queries_NHd, cos_1Nd[0, :, None], sin_1Nd[0, :, None])


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` with RoPE applied in split halves, as transformers does it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
