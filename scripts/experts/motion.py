"""Actions of the OSC_POSE controller, from where the hand is and where it should be."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

OPEN, CLOSE = -1.0, 1.0
STEP_M = 0.05
"""Displacement an action of 1 asks for."""
STEP_RAD = 0.5
GAIN = 1.6
TURN_LIMIT = 0.4
TURN_TOLERANCE = 0.03
"""Below it (rad) exactly no rotation is sent: the controller then holds what it was told last."""


def steer(way: np.ndarray, limit: float = 1.0) -> np.ndarray:
    """Translation part of an action.

    Args:
        way: (3,) where to go from here, metres.
        limit: Largest component allowed.

    Returns:
        (3,), its direction kept where the largest component is scaled down.
    """
    action = GAIN * way / STEP_M
    return action / max(1.0, float(np.abs(action).max()) / limit)


def turn(now: np.ndarray, wanted: np.ndarray, axes: tuple[float, float, float]) -> np.ndarray:
    """Rotation part of an action.

    Args:
        now: (3, 3) orientation of the hand.
        wanted: (3, 3) orientation to reach.
        axes: World axes the hand is turned about: those not zero. About the others it is let be:
            where the arm bends a little under load, correcting it would fight the controller.

    Returns:
        (3,), exactly zero where it is turned well enough.
    """
    vector = Rotation.from_matrix(wanted @ now.T).as_rotvec() * (np.array(axes) != 0.0)
    if np.linalg.norm(vector) < TURN_TOLERANCE:
        return np.zeros(3)
    return np.clip(vector / STEP_RAD, -TURN_LIMIT, TURN_LIMIT)


def rotated(base: np.ndarray, vector: tuple[float, float, float]) -> np.ndarray:
    """An orientation turned about a world axis: `vector` is axis times angle."""
    return Rotation.from_rotvec(vector).as_matrix() @ base


def funnel(distance: float, height: float, near: float = 0.012, far: float = 0.06) -> float:
    """How high above its end a descent is, at a horizontal distance from it: a smooth way in."""
    return height * float(np.clip((distance - near) / (far - near), 0.0, 1.0))
