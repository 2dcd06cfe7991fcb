"""State machines that bring a goal about: take hold of something, then move it.

An expert decides from what can be seen (poses and finger width); what it remembers is only what it
was about to do and what the fingers were doing, so that a policy without memory can imitate it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from experts.motion import CLOSE, OPEN, funnel, is_turned, rotated, steer, turn
from experts.world import World

ARRIVED_M = 0.007
STUCK_M, STUCK_STEP_M = 0.012, 0.0008
"""So near, a hand that hardly moves in a step has arrived as well: far out, the arm lags."""
STALLED_M = 0.0004
"""Finger motion in a step that counts as none."""
CLOSE_STEPS = 10
RELEASE_STEPS = 6
RETREAT_STEPS = 10
SLIPPED_M = 0.03
STRIDE_M = 0.06
"""Horizontal way an action looks ahead at most, so that rising keeps up with it."""
UP = (0.0, 0.0, 1.0)
Vector = tuple[float, float, float]


class Expert(Protocol):
    """Brings about one task's goal."""

    target: np.ndarray
    """(3,) the thing to grasp."""
    place: np.ndarray
    """(3,) where it goes."""
    holding: bool
    near: bool
    """Whether something delicate happens, worth more frames."""
    done: bool

    def act(self, world: World) -> np.ndarray:
        """(7,) action for the state of now."""
        ...


@dataclass(frozen=True)
class Grip:
    """How a thing is taken hold of."""

    name: str
    """An object or a site."""
    offset: Vector
    """From its position to the fingertips' (turned with `rotate`'s yaw)."""
    rotate: Vector = (0.0, 0.0, 0.0)
    """Turn of the hand away from how it hangs at the start: world axis times angle."""
    back: Vector = UP
    """Unit vector to where the hand comes from."""
    hover: float = 0.10
    """How far back it comes in at."""
    slide: Vector = (0.0, 0.0, 0.0)
    """From the grasp to where the fingers go in; they move to the grasp while they close."""
    out: Vector = (0.0, 0.0, 0.0)
    """Way to go with it before anything else."""
    lift: float = 0.06
    """Height above the grasp before moving sideways; 0: it is dragged."""


@dataclass(frozen=True)
class Put:
    """Where an object is put down."""

    name: str
    offset: Vector = (0.0, 0.0, 0.0)
    """From the place's position to the object's when it is let go."""
    carry: float = 1.03
    """Least height of the fingertips on the way."""
    near: float = 0.012
    far: float = 0.08
    """Horizontal distances between which the hand descends."""
    hold: bool = False
    """Never let go: the goal is reached while it is held."""


class Grasping:
    """Comes to a thing and closes the fingers on it; what follows is `_move`."""

    def __init__(self, world: World, grip: Grip, home: np.ndarray) -> None:
        """Begin from wherever the hand is; `home` is its orientation at the episode's start."""
        self.grip = grip
        self._turned = rotated(home, grip.rotate)
        yaw = rotated(np.eye(3), (0.0, 0.0, grip.rotate[2]))
        self._offset, self._slide = yaw @ grip.offset, yaw @ grip.slide
        self._back = np.array(grip.back)
        self.target = self.place = world.position(grip.name)
        self.holding = self.near = self.done = False
        self._stage: Callable[[World], np.ndarray] = self._approach
        self._steps = 0
        self._width = world.width
        self._grasp = self._held = self._before = np.zeros(3)

    def act(self, world: World) -> np.ndarray:
        """(7,) action for the state of now."""
        self.target = world.position(self.grip.name)
        action = self._stage(world)
        self._steps += 1
        self._width = world.width
        return action

    def _enter(self, stage: Callable[[World], np.ndarray], world: World) -> np.ndarray:
        self._stage, self._steps = stage, 0
        return stage(world)

    def _wanted(self, world: World) -> np.ndarray:
        """(3, 3) orientation to turn to, or to keep."""
        return self._turned

    def _action(self, world: World, move: np.ndarray, fingers: float) -> np.ndarray:
        return np.array([*move, *turn(world.hand_turn, self._wanted(world)), fingers])

    def _approach(self, world: World) -> np.ndarray:
        way = self.target + self._offset + self._slide - world.hand
        across = float(np.linalg.norm(way - self._back * (way @ self._back)))
        self.holding, self.near = False, across < 0.03
        turned = is_turned(world.hand_turn, self._turned)
        far, moved = np.linalg.norm(way), np.linalg.norm(world.hand - self._before)
        self._before = world.hand
        arrived = far < ARRIVED_M or (far < STUCK_M and moved < STUCK_STEP_M)
        if arrived and turned:
            self._grasp = world.hand
            return self._enter(self._close, world)
        stay = 0.0 if turned else 0.4 * self.grip.hover
        way += self._back * max(funnel(across, self.grip.hover), stay)
        limit = 1.0 if way[2] < -0.05 or across > 0.05 else 0.5
        return self._action(world, steer(way, limit), OPEN)

    def _close(self, world: World) -> np.ndarray:
        self.near = True
        still = abs(world.width - self._width) < STALLED_M
        if self._steps >= CLOSE_STEPS and still:
            self._held = world.hand - self.target
            return self._enter(self._move, world)
        way = self.target + self._offset - world.hand if any(self.grip.slide) else np.zeros(3)
        return self._action(world, steer(way, 0.3), CLOSE)

    def _move(self, world: World) -> np.ndarray:
        raise NotImplementedError

    def _lost(self, world: World) -> bool:
        """Whether the thing is no longer where the fingers took it."""
        moved = np.linalg.norm(world.hand - self.target - self._held)
        return bool(moved > SLIPPED_M) or world.width < 0.001

    def _release(self, world: World) -> np.ndarray:
        self.near, self.holding = self._steps < RELEASE_STEPS, False
        if self._steps < RELEASE_STEPS:
            return self._action(world, np.zeros(3), OPEN)
        self.done = self._steps >= RELEASE_STEPS + RETREAT_STEPS
        return self._action(world, 0.8 * self._back, OPEN)


class PickPlace(Grasping):
    """Take hold of an object and put it down somewhere."""

    def __init__(self, world: World, grip: Grip, put: Put, home: np.ndarray) -> None:
        super().__init__(world, grip, home)
        self.put = put
        self.place = world.position(put.name)
        self._trail: list[np.ndarray] = []

    def act(self, world: World) -> np.ndarray:
        """(7,) action for the state of now."""
        self.place = world.position(self.put.name)
        return super().act(world)

    def _move(self, world: World) -> np.ndarray:
        put, hand = self.put, world.hand
        self.holding = True
        if self._steps == 0:
            self._trail = []
        if self._lost(world):
            return self._enter(self._approach, world)  # open and take it again
        end = self.place + put.offset + hand - self.target
        across = float(np.hypot(*(end - hand)[:2]))
        self.near = across < 0.03
        self._trail.append(hand)
        if put.hold:
            self.done = world.solved()
        elif self._arrived(end, hand):
            return self._enter(self._release, world)
        way = self._way(end, hand, across)
        limit = 0.5 if across < 0.03 and way[2] > -0.06 else 1.0
        return self._action(world, steer(way, limit), CLOSE)

    def _arrived(self, end: np.ndarray, hand: np.ndarray) -> bool:
        """At the end, or close to it and stopped by something."""
        far = np.linalg.norm(end - hand)
        stalled = len(self._trail) > 3 and np.linalg.norm(hand - self._trail[-4]) < 0.004
        return bool(far < ARRIVED_M or (stalled and far < 0.03))

    def _way(self, end: np.ndarray, hand: np.ndarray, across: float) -> np.ndarray:
        """Out, up, over and down."""
        lift, out = self.grip.lift, np.array(self.grip.out)
        risen, gone = hand[2] - self._grasp[2], hand - self._grasp
        if out.any() and risen < 0.05 and gone @ out < 0.8 * (out @ out):
            return self._grasp + 1.2 * out - hand
        carry = max(self.put.carry, self._grasp[2] + lift + 0.01) if lift else self._grasp[2]
        way = end - hand
        way[2] += funnel(across, max(carry - end[2], 0.0), self.put.near, self.put.far)
        way[:2] *= min(1.0, STRIDE_M / max(across, STRIDE_M))
        # straight up as long as it is still above the place it was taken from
        if risen < lift and np.hypot(*(gone - out)[:2]) < 0.04:
            way[:2] *= max(0.0, (risen / lift - 0.7) / 0.3) if lift else 0.0
            way[2] = carry - hand[2]
        return way
