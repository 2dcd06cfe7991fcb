"""A method around a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection, Vision, held_methods

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Wrapper(Pruner):
    """A method that holds another one as an option, and does as that one in all it leaves alone."""

    @property
    def held(self) -> Pruner:
        """The method inside."""
        (held,) = held_methods(self).values()
        return held

    @property
    def keep_ratio(self) -> float | None:
        return self.held.keep_ratio

    @property
    def layers(self) -> tuple[int, ...]:
        return self.held.layers

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return self.held.tapped_layers

    @property
    def renumber_positions(self) -> bool:
        return self.held.renumber_positions

    @property
    def keeps_cache(self) -> bool:
        return self.held.keeps_cache

    @property
    def fuses(self) -> bool:
        return self.held.fuses

    @property
    def reads_motion(self) -> bool:
        return self.held.reads_motion

    def caveat(self, checkpoint: str) -> str | None:
        return self.held.caveat(checkpoint)

    def start(self) -> Any:
        return self.held.start()

    def fuse(self, vision: Vision, memory: Any) -> tuple[Sequence[Tensor], int]:
        return self.held.fuse(vision, memory)

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        return self.held.select(context, memory)

    def finish(self, context: PruneContext, memory: Any) -> None:
        self.held.finish(context, memory)
