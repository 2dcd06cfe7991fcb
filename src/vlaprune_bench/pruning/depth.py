"""Layer options: published layers on models of another depth, and their checks."""

from __future__ import annotations

from collections.abc import Iterable

from vlaprune_bench.types import UserError

PUBLISHED_DEPTH = 32
"""Decoder layers of the 7B models that papers name layers of."""


def scale_layers(layers: Iterable[int], n_layers: int) -> tuple[int, ...]:
    """Layers at the same relative depth of a model with `n_layers`, rounded up, each once.

    With 32 layers they are what they were.
    """
    scaled = {min(-(-layer * n_layers // PUBLISHED_DEPTH), n_layers - 1) for layer in layers}
    return tuple(sorted(scaled))


def check_layers(key: str, layers: tuple[int, ...], n_layers: int | None = None) -> None:
    """Refuse layers that do not ascend, or that the model does not have.

    Args:
        key: of the option, as on the command line.
        layers: its value.
        n_layers: decoder layers of the model; None: not known yet.

    Raises:
        UserError: which it is.
    """
    named = " ".join(map(str, layers))
    if list(layers) != sorted(set(layers)) or min(layers, default=0) < 0:
        raise UserError(f"--{key} is {named}; the layers must be 0 or more and ascend.")
    if n_layers is not None and max(layers, default=0) >= n_layers:
        raise UserError(f"--{key} is {named}; this model has decoder layers 0 to {n_layers - 1}.")
