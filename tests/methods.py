"""Registered methods, set up for the embedded checkpoints, and shapes of models."""

from dataclasses import replace

from vlaprune_bench.pruning import BudgetPruner, Pruner, methods
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.schedule import Schedule


def shape(n_layers: int = 32, cameras: int = 1, side: int = 16) -> ModelShape:
    """A model of that depth; by default that of the published ones."""
    return ModelShape(n_layers, ((side, side),) * cameras)


def tiny(name: str, keep: float = 0.25) -> Pruner:
    """The method at `keep`, with layers that a model of four has."""
    if name == "gated":
        return Gated(tiny("fastv", keep))
    if name == "schedule":
        first, second = keep + (1 - keep) * 2 / 3, keep + (1 - keep) / 3
        return Schedule(FastV(first, layer=1), later_layers=(2, 3), later_keeps=(second, keep))
    made = methods()[name]()
    return replace(made, keep=keep) if isinstance(made, BudgetPruner) else made
