"""A motion gate around any method."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import GateMemory, MotionGate
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.wrapper import Wrapper
from vlaprune_bench.types import UserError

READING = "paper"
"""Whose reading of the gate this is."""


@dataclass
class GatedMemory:
    """One episode's gate, and what the method inside remembers."""

    inner: Any
    gate: GateMemory = field(default_factory=GateMemory)


@Pruner.register_subclass("gated")
@dataclass(frozen=True)
class Gated(Wrapper):
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
        super().__post_init__()
        if isinstance(self.inner, NoPruning):
            raise UserError("--inner is none; a gate needs a method that prunes.")
        if self.inner.fuses:
            raise UserError(
                f"--inner is {self.inner.name}; it drops no tokens that a gate could hold back."
            )
        if has_gate(self.inner):
            raise UserError(f"--inner is {self.inner.name}; it has a gate of its own.")

    def canonical(self) -> Gated:
        return replace(self, inner=self.inner.canonical(), gate=self.gate.canonical(READING))

    reads_motion = True

    def start(self) -> GatedMemory:
        return GatedMemory(super().start())

    def select(self, context: PruneContext, memory: GatedMemory) -> Selection | None:
        if context.layer == self.layers[0]:
            self.gate.decide(memory.gate, context.eef_poses, READING)
        return super().select(context, memory.inner) if memory.gate.state else None

    def finish(self, context: PruneContext, memory: GatedMemory) -> None:
        super().finish(context, memory.inner)


def has_gate(pruner: Pruner) -> bool:
    """Whether the method decides by a motion gate of its own."""
    return any(isinstance(getattr(pruner, f.name), MotionGate) for f in fields(pruner))
