"""Multiply-adds (MAC) of each component from its shapes alone; a MAC is two FLOP.

Matrix products and convolutions are counted, as torch's own counter does; norms, activations,
softmax and rotary embeddings, which are linear in the tokens, are not. Attention is counted in full
(n^2) even where a causal mask hides half of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class DecoderShape:
    """Widths of one gated decoder layer (Llama)."""

    width: int
    """d: width of the residual stream."""
    mlp_width: int
    """m: width between gate/up and down."""
    query_width: int
    """Query heads x head dimension; equals d in Llama 2."""
    kv_width: int
    """Key/value heads x head dimension; below `query_width` with grouped heads."""


def mlp_macs(rows: int, *widths: int) -> int:
    """MAC of `rows` inputs through linear layers of the given successive widths."""
    return rows * sum(a * b for a, b in pairwise(widths))


def decoder_layer_macs(n: int, shape: DecoderShape, n_keys: int | None = None) -> int:
    """MAC of one decoder layer over `n` tokens that attend to `n_keys` (None: to each other).

    The usual `4 n d^2 + 2 n^2 d + 3 n d m` (q, k, v, o; scores and values; gate, up, down) where
    all heads have their own keys and values; grouped heads make k and v cheaper. `n_keys` differs
    from `n` in decode steps and where keys and values are reused.
    """
    projections = 2 * n * shape.width * (shape.query_width + shape.kv_width)
    attention = 2 * n * (n if n_keys is None else n_keys) * shape.query_width
    return projections + attention + 3 * n * shape.width * shape.mlp_width


def llm_prefill_macs(
    tokens_per_layer: Sequence[int],
    shape: DecoderShape,
    keys_per_layer: Sequence[int] | None = None,
) -> int:
    """MAC of a prefill.

    Args:
        tokens_per_layer: tokens layer i computes.
        shape: of a layer.
        keys_per_layer: tokens whose keys layer i attends to; None: those it computes.
    """
    keys = tokens_per_layer if keys_per_layer is None else keys_per_layer
    return sum(
        decoder_layer_macs(n, shape, n_keys)
        for n, n_keys in zip(tokens_per_layer, keys, strict=True)
    )


def vit_macs(
    patches: int, prefix: int, depth: int, width: int, mlp_width: int, patch_values: int
) -> int:
    """MAC of one image through a vision transformer.

    Args:
        patches: patch tokens.
        prefix: class and register tokens beside them.
        depth: blocks that run.
        width: token width.
        mlp_width: hidden width of a block's MLP.
        patch_values: numbers in one patch (channels x height x width).
    """
    n = patches + prefix
    block = 4 * n * width * width + 2 * n * n * width + 2 * n * width * mlp_width
    return patches * patch_values * width + depth * block


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOP of what runs inside with torch.utils.flop_counter.

    Fused attention is switched to its plain form meanwhile, because the counter has no formula for
    the fused CPU kernel and would report 0 for it. Slow: never time what runs inside.

    Yields:
        The counter; `get_total_flops()` gives its reading.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
