"""A motion gate around any method."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import GateMemory, MotionGate
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

READING = "paper"
"""Whose reading of the gate this is."""


@dataclass
class GatedMemory:
    """One episode's gate, and what the method inside remembers."""

    inner: Any
    gate: GateMemory = field(default_factory=GateMemory)


@Pruner.register_subclass("gated")
@dataclass(frozen=True)
class Gated(Pruner):
    """Prune as `inner` does while the hand moves fast, keep every token while it moves slowly.

    ADP's gate (arXiv 2509.22093, the paper's reading of it) around another method. The gate decides
    once per call; the method inside is asked where the gate says prune, and sees the end of every
    call, so that what it remembers goes on.
    """

    inner: Pruner = FastV()
    """The method inside; its options stand beside the gate's."""
    gate: MotionGate = MotionGate()
    """When to prune."""

    def __post_init__(self) -> None:
        if isinstance(self.inner, NoPruning):
            raise UserError("--inner is none; a gate needs a method that prunes.")
        if has_gate(self.inner):
            raise UserError(f"--inner is {self.inner.name}; it has a gate of its own.")

    @property
    def keep_ratio(self) -> float | None:
        return self.inner.keep_ratio

    @property
    def layers(self) -> tuple[int, ...]:
        return self.inner.layers

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return self.inner.tapped_layers

    @property
    def keeps_cache(self) -> bool:
        return self.inner.keeps_cache

    @property
    def renumber_positions(self) -> bool:
        return self.inner.renumber_positions

    def check(self, n_layers: int) -> None:
        self.inner.check(n_layers)

    def fit(self, n_layers: int) -> Gated:
        return replace(self, inner=self.inner.fit(n_layers))

    def without_unread(self) -> Gated:
        gate = self.gate.without_unread(READING)
        return replace(self, inner=self.inner.without_unread(), gate=gate)

    def start(self) -> GatedMemory:
        return GatedMemory(self.inner.start())

    def select(self, context: PruneContext, memory: GatedMemory) -> Tensor | Selection | None:
        if context.layer == self.layers[0]:
            self.gate.decide(memory.gate, context.eef_poses, READING)
        return self.inner.select(context, memory.inner) if memory.gate.state else None

    def finish(self, context: PruneContext, memory: GatedMemory) -> None:
        self.inner.finish(context, memory.inner)


def has_gate(pruner: Pruner) -> bool:
    """Whether the method decides by a motion gate of its own."""
    return any(isinstance(getattr(pruner, f.name), MotionGate) for f in fields(pruner))
