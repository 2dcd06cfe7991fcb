"""Experts for drawers and knobs, and experts in sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experts.motion import CLOSE, rotated, steer
from experts.skills import Expert, Grasping, Grip
from experts.world import World

YAW_RAD = 0.05
"""How far ahead of the hand's yaw the wanted one is while a knob is turned."""


class Pull(Grasping):
    """Pull a drawer by its handle, straight back."""

    def __init__(self, world: World, grip: Grip, by: float, home: np.ndarray) -> None:
        """Pull a site of the drawer `by` metres from where it is now."""
        super().__init__(world, grip, home)
        self.place = self.target + by * self._back

    def _move(self, world: World) -> np.ndarray:
        self.holding = True
        if self._lost(world):
            return self._enter(self._approach, world)
        left = (self.place - self.target) @ self._back
        if left < 0.0 or self._steps > 100:
            return self._enter(self._release, world)
        way = self._back * (left + 0.03)
        return self._action(world, steer(way, 0.7), CLOSE)


class TurnKnob(Grasping):
    """Turn what is gripped about the vertical until a predicate holds."""

    def __init__(self, world: World, grip: Grip, until: Sequence[str], home: np.ndarray) -> None:
        super().__init__(world, grip, home)
        self._until = until

    def _wanted(self, world: World) -> np.ndarray:
        if not self.holding:
            return self._turned
        since = world.hand_turn @ self._turned.T
        yaw = np.arctan2(since[1, 0], since[0, 0]) + YAW_RAD
        return rotated(self._turned, (0.0, 0.0, float(yaw)))

    def _move(self, world: World) -> np.ndarray:
        self.holding = self.near = True
        if world.solved(self._until) or self._steps > 100:
            return self._enter(self._release, world)
        way = self.target + self._offset - world.hand
        return self._action(world, steer(way, 0.3), CLOSE)


class Series:
    """One expert after another; each is made when its turn comes."""

    def __init__(self, world: World, makers: list[Callable[[World], Expert]]) -> None:
        self._expert, self._makers = makers[0](world), makers[1:]
        self._show()

    def act(self, world: World) -> np.ndarray:
        """(7,) action for the state of now."""
        if self._expert.done and self._makers:
            self._expert = self._makers.pop(0)(world)
        action = self._expert.act(world)
        self._show()
        return action

    def _show(self) -> None:
        self.target, self.place = self._expert.target, self._expert.place
        self.holding, self.near = self._expert.holding, self._expert.near
        self.done = self._expert.done and not self._makers
