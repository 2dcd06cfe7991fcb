"""No visual token at all: the floor every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection


@Pruner.register_subclass("blind")
@dataclass(frozen=True)
class Blind(Pruner):
    """Keep no visual token: what the policy does from its prompt and the robot's state alone.

    A baseline without a source. Where it solves a task, seeing is not what solves it, and no
    pruning of that task's images can be told from none. Every visual token leaves before the
    language model and the others get contiguous positions: the sequence is that of a prompt without
    an image. The vision towers still run, and count: it is a floor of success, not of cost.
    """

    renumber_positions = True

    @property
    def keep_ratio(self) -> float | None:
        return 0.0

    def select(self, context: PruneContext, memory: Any) -> Selection:
        import torch

        return Selection(torch.empty(0, dtype=torch.int64, device=context.patches.device))
