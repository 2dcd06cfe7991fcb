"""Action-aware Dynamic Pruning (ADP): static's score behind a gate on the hand's motion."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.gate import GateMemory, MotionGate
from vlaprune_bench.pruning.static import Static


@Pruner.register_subclass("adp")
@dataclass(frozen=True)
class Adp(Static):
    """Prune as `static` does while the hand moves fast, keep every token while it moves slowly.

    Source: arXiv 2509.22093. The gate is fed by observed end-effector poses, one window being the
    steps executed between two calls.
    """

    gate: MotionGate = MotionGate()
    """When to prune."""

    reads_motion = True

    def canonical(self) -> Adp:
        return replace(self, gate=self.gate.canonical(self.reading))

    def start(self) -> GateMemory:
        return GateMemory()

    def select(self, context: PruneContext, memory: GateMemory) -> Selection | None:
        if not self.gate.decide(memory, context.eef_poses, self.reading):
            return None
        return super().select(context, memory)
