"""A method around a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection, held_methods


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
    def reads_motion(self) -> bool:
        return self.held.reads_motion

    def start(self) -> Any:
        return self.held.start()

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        return self.held.select(context, memory)

    def finish(self, context: PruneContext, memory: Any) -> None:
        self.held.finish(context, memory)
