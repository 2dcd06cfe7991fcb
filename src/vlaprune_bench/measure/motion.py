"""How smoothly an episode was executed, from where the end effector was after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlaprune_bench.types import ACTION_OPEN, CONTROL_STEP_MS


@dataclass(frozen=True)
class Motion:
    """Columns of `EpisodeRow` of the same names."""

    path_m: float
    rms_jerk: float | None
    peak_speed: float | None
    gripper_switches: int


def describe_motion(positions: Sequence[np.ndarray], actions: Sequence[np.ndarray]) -> Motion:
    """What the arm did.

    Args:
        positions: (3,) each, metres: at the begin and after every control step, held ones too.
        actions: (7,) each: what the simulator was given; above 0 the seventh number closes.
    """
    seconds = CONTROL_STEP_MS / 1000
    path = np.reshape([*positions], (-1, 3))
    moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
    jerk = np.linalg.norm(np.diff(path, n=3, axis=0), axis=1) / seconds**3
    closes = np.array([ACTION_OPEN, *(action[6] for action in actions)]) > 0
    return Motion(
        path_m=float(moved.sum()),
        rms_jerk=float(np.sqrt(np.mean(jerk**2))) if len(jerk) else None,
        peak_speed=float(moved.max() / seconds) if len(moved) else None,
        gripper_switches=int(np.count_nonzero(closes[1:] != closes[:-1])),
    )
