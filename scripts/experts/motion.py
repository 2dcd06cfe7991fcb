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
TURN_GAIN = 1.0
TURN_TOLERANCE = 0.07
"""Orientation error (rad) below which the hand counts as turned."""


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


def turn(now: np.ndarray, wanted: np.ndarray, gain: float = TURN_GAIN) -> np.ndarray:
    """Rotation part of an action: the way to an orientation, in proportion to what is missing.

    Any rotation sent makes the controller let go of the orientation it was told before, so the
    smallest error is answered: what keeps the hand's orientation is this, never the controller.

    Args:
        now: (3, 3) orientation of the hand.
        wanted: (3, 3) orientation to reach.
        gain: Share of the error an action asks to mend.

    Returns:
        (3,), its direction kept where the largest component is scaled down to `TURN_LIMIT`.
    """
    action = gain * _error(now, wanted) / STEP_RAD
    return action / max(1.0, float(np.abs(action).max()) / TURN_LIMIT)


def is_turned(now: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether the hand is turned well enough to go on."""
    return bool(np.linalg.norm(_error(now, wanted)) < TURN_TOLERANCE)


def _error(now: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(wanted @ now.T).as_rotvec()


def rotated(base: np.ndarray, vector: tuple[float, float, float]) -> np.ndarray:
    """An orientation turned about a world axis: `vector` is axis times angle."""
    return Rotation.from_rotvec(vector).as_matrix() @ base


def funnel(distance: float, height: float, near: float = 0.012, far: float = 0.06) -> float:
    """How high above its end a descent is, at a horizontal distance from it: a smooth way in."""
    return height * float(np.clip((distance - near) / (far - near), 0.0, 1.0))
