"""What several methods measure: prefill attention to patches, and distances between embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vlaprune_bench.pruning.base import PruneContext
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

Criterion = Literal["last", "prefill"]


def prefill_attention(context: PruneContext, criterion: Criterion) -> Tensor:
    """Attention that visual tokens get in the layer before `context.layer`.

    Args:
        context: of a decision before a layer from 1.
        criterion: `last`: of the prefill's last row, the only one that sees everything where
            attention is causal; where every row does, there is none to single out, and this is
            `prefill`. `prefill`: mean over the rows of the prefill; placeholders, stop and masked
            tokens left out.

    Returns:
        (V,) float32, mean over heads.
    """
    import torch

    layout, device = context.layout, context.patches.device
    if criterion == "last" and context.causal:
        # filled on the device: a copy from the host would wait for it
        rows = torch.full((1,), layout.length - 1, device=device)
    else:
        every = torch.arange(layout.length, device=device)
        visual = every[layout.visual]
        if context.alive is not None:
            visual = layout.visual.start + context.alive.to(device)
        parts = [visual if part == layout.visual else every[part] for part in layout.said]
        rows = torch.cat(parts)
    return context.decoder.attention(context.layer - 1, rows).mean(0)


def cosine_distances(context: PruneContext, index: Tensor) -> Tensor:
    """1 - cosine between the projected patch embeddings of the visual tokens at `index`.

    Returns:
        (n, n) float32; n^2 x width MAC are charged to the call.
    """
    from torch.nn.functional import normalize

    directions = normalize(context.patches[index.to(context.patches.device)].float(), dim=-1)
    context.decoder.charge(len(directions) ** 2 * directions.shape[1])
    return 1 - directions @ directions.T


def check_attention_layer(layer: int, n_layers: int | None = None) -> None:
    """Refuse a `--layer` that has no layer before it, or that the model does not have.

    Raises:
        UserError: which it is.
    """
    if layer < 1:
        raise UserError(
            f"--layer is {layer}; the score is the attention of the layer before it: 1 or more."
        )
    if n_layers is not None and layer >= n_layers:
        raise UserError(f"--layer is {layer}; this model has decoder layers 0 to {n_layers - 1}.")


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of the known ones.

    Raises:
        UserError: naming key, value and what would be right.
    """
    if value not in known:
        raise UserError(f"--{key} is {value}; it must be {' or '.join(known)}.")
