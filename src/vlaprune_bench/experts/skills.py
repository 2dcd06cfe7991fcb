"""State machines that bring a goal about: pick and place.

An expert decides from what can be seen (poses and finger width); what it remembers is only what the
fingers were doing, so that a policy without memory can imitate it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vlaprune_bench.experts.motion import CLOSE, OPEN, funnel, rotated, steer, turn
from vlaprune_bench.experts.world import World

ARRIVED_M = 0.007
STALLED_M = 0.0004
"""Finger motion in a step that counts as none."""
CLOSE_STEPS = 10
RELEASE_STEPS = 6
RETREAT_STEPS = 10
SLIPPED_M = 0.03
STRIDE_M = 0.06


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
    """How an object is taken hold of."""

    name: str
    offset: tuple[float, float, float]
    """From the object's position to the fingertips' (turned with `rotate`'s yaw)."""
    rotate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Turn of the hand away from how it hangs at the start: world axis times angle."""
    lift: float = 0.06
    """Height above the grasp before moving sideways."""
    slide: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From the grasp to where the fingers go in; they move to the grasp while they close."""
    hover: float = 0.10


@dataclass(frozen=True)
class Put:
    """Where an object is put down."""

    name: str
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From the place's position to the object's when it is let go."""
    carry: float = 1.03
    """Least height of the fingertips on the way."""
    rotate: tuple[float, float, float] | None = None
    """Turn of the hand on the way (None: as gripped)."""
    near: float = 0.012
    far: float = 0.08
    """Horizontal distances between which the hand descends."""


class PickPlace:
    """Take hold of an object and put it down somewhere."""

    def __init__(self, world: World, grip: Grip, put: Put) -> None:
        self.grip, self.put = grip, put
        home = world.hand_turn
        self._pick_turn = rotated(home, grip.rotate)
        yaw = (0.0, 0.0, grip.rotate[2])
        self._offset = rotated(np.eye(3), yaw) @ grip.offset
        self._slide = rotated(np.eye(3), yaw) @ grip.slide
        self._put_turn = rotated(home, put.rotate) if put.rotate else self._pick_turn
        self.target, self.place = world.position(grip.name), world.position(put.name)
        self.holding = self.near = self.done = False
        self._stage = self._approach
        self._steps = 0
        self._width = world.width
        self._held = np.zeros(3)
        self._grasp = np.zeros(3)
        self._trail: list[np.ndarray] = []

    def act(self, world: World) -> np.ndarray:
        """(7,) action for the state of now."""
        self.target, self.place = world.position(self.grip.name), world.position(self.put.name)
        action = self._stage(world)
        self._steps += 1
        self._width = world.width
        return action

    def _enter(self, stage) -> None:  # type: ignore[no-untyped-def]
        self._stage, self._steps, self._trail = stage, 0, []

    def _approach(self, world: World) -> np.ndarray:
        grip = self.grip
        goal = self.target + self._offset + self._slide
        way = goal - world.hand
        across = float(np.hypot(*way[:2]))
        self.holding, self.near = False, across < 0.03
        turning = turn(world.hand_turn, self._pick_turn, grip.rotate)
        if np.linalg.norm(way) < ARRIVED_M and not turning.any():
            self._grasp = world.hand
            self._enter(self._close)
            return self._close(world)
        way[2] += max(funnel(across, grip.hover), 0.04 if turning.any() else 0.0)
        limit = 1.0 if way[2] < -0.05 or across > 0.05 else 0.5
        return np.array([*steer(way, limit), *turning, OPEN])

    def _close(self, world: World) -> np.ndarray:
        self.near = True
        still = abs(world.width - self._width) < STALLED_M
        if self._steps >= CLOSE_STEPS and still:
            self._held = world.hand - self.target
            self._enter(self._carry)
            return self._carry(world)
        way = self.target + self._offset - world.hand if any(self.grip.slide) else np.zeros(3)
        return np.array([*steer(way, 0.3), 0.0, 0.0, 0.0, CLOSE])

    def _carry(self, world: World) -> np.ndarray:
        put, hand = self.put, world.hand
        offset = hand - self.target
        self.holding = True
        if np.linalg.norm(offset - self._held) > SLIPPED_M or world.width < 0.001:
            self._enter(self._approach)  # lost it: open and take it again
            return self._approach(world)
        end = self.place + put.offset + offset
        way = end - hand
        across = float(np.hypot(*way[:2]))
        carry = max(put.carry, self._grasp[2] + self.grip.lift + 0.01)
        way[2] += funnel(across, max(carry - end[2], 0.0), put.near, put.far)
        way[:2] *= min(1.0, STRIDE_M / max(across, STRIDE_M))  # so that rising keeps up
        # straight up first, as long as it is still above the place it was taken from
        lifted = (hand[2] - self._grasp[2]) / self.grip.lift
        if lifted < 1.0 and np.hypot(*(hand - self._grasp)[:2]) < 0.04:
            way[:2] *= max(0.0, (lifted - 0.7) / 0.3)
            way[2] = carry - hand[2]
        turning = turn(world.hand_turn, self._put_turn, put.rotate or (0.0, 0.0, 0.0))
        self.near = across < 0.03
        self._trail.append(hand)
        stalled = len(self._trail) > 3 and np.linalg.norm(hand - self._trail[-4]) < 0.004
        there = np.linalg.norm(end - hand) < ARRIVED_M
        if there or (stalled and np.linalg.norm(end - hand) < 0.03):
            self._enter(self._release)
            return self._release(world)
        limit = 0.5 if across < 0.03 and way[2] > -0.06 else 1.0
        return np.array([*steer(way, limit), *turning, CLOSE])

    def _release(self, world: World) -> np.ndarray:
        self.near, self.holding = True, False
        if self._steps < RELEASE_STEPS:
            return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, OPEN])
        self.near = False
        self.done = self._steps >= RELEASE_STEPS + RETREAT_STEPS
        return np.array([0.0, 0.0, 0.8, 0.0, 0.0, 0.0, OPEN])
