"""Between the robot's units and the model's [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlaprune_bench.types import Observation, UserError

EPSILON = 1e-8
"""Added to a range by OpenVLA-OFT, in both directions (OpenVLA: nothing)."""
SIZES = {"action": 7, "proprio": 8}
"""Numbers in LIBERO's action and in `robot_state`."""


@dataclass(frozen=True)
class Bounds:
    """1st and 99th percentile of a quantity in the training data."""

    low: np.ndarray
    high: np.ndarray
    mask: np.ndarray
    """Dimensions that are normalised; the others pass as they are."""
    epsilon: float = EPSILON
    """Added to the range `high` - `low`."""

    @classmethod
    def read(
        cls, statistics: dict[str, Any], key: str, quantity: str, epsilon: float = EPSILON
    ) -> Bounds:
        """Take q01 and q99 of `quantity` ("action" or "proprio") from a dataset's statistics.

        Raises:
            UserError: they are not there, or not as many finite numbers as LIBERO's quantity has,
                q01 at most q99.
        """
        where = f"dataset statistics: {key}.{quantity}"
        entry = statistics.get(quantity, {})
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {entry}; it must be a mapping with q01 and q99.")
        missing = [name for name in ("q01", "q99") if name not in entry]
        if missing:
            raise UserError(
                f"{where} has no {' and no '.join(missing)}; both percentiles are needed to "
                "normalise."
            )
        size = SIZES[quantity]
        low, high = (_numbers(entry[name], f"{where}.{name}", size) for name in ("q01", "q99"))
        flags = entry.get("mask", [True] * size)
        if not isinstance(flags, list) or [type(flag) for flag in flags] != [bool] * size:
            raise UserError(f"{where}.mask is {flags}; it must be {size} times true or false.")
        mask = np.asarray(flags, dtype=bool)
        if (low > high)[mask].any():
            raise UserError(f"{where}: q01 is {low.tolist()}, above q99 {high.tolist()}.")
        return cls(low, high, mask, epsilon)

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """Robot units to [-1, 1], clipped."""
        scaled = 2.0 * (x - self.low) / (self.high - self.low + self.epsilon) - 1.0
        return np.clip(np.where(self.mask, scaled, x), -1.0, 1.0)

    def unnormalize(self, x: np.ndarray) -> np.ndarray:
        """[-1, 1] to robot units: 0.5 (x + 1) (q99 - q01 + epsilon) + q01; not clipped."""
        scaled = 0.5 * (x + 1.0) * (self.high - self.low + self.epsilon) + self.low
        return np.where(self.mask, scaled, x)


def _numbers(values: Any, where: str, size: int) -> np.ndarray:
    """(size,) float64 finite numbers.

    Raises:
        UserError: they are something else.
    """
    numbers = values if isinstance(values, list) else []
    if not all(isinstance(x, int | float) and abs(x) < 1e30 for x in numbers):
        numbers = []
    if len(numbers) != size:
        raise UserError(f"{where} is {values}; it must be {size} finite numbers.")
    return np.asarray(numbers, dtype=np.float64)


def robot_state(observation: Observation) -> np.ndarray:
    """The proprioceptive input of OpenVLA-OFT.

    Returns:
        (8,) float64: end-effector position (m), its orientation as axis-angle (rad), two gripper
        joint positions (m).
    """
    return np.concatenate(
        [observation.eef_pos, axis_angle(observation.eef_quat), observation.gripper_qpos]
    )


def axis_angle(quat: np.ndarray) -> np.ndarray:
    """Axis times angle (rad) of a unit quaternion xyzw, the angle in [0, 2 pi].

    q and -q are one rotation but give two vectors here. The model was trained on what the
    simulator's quaternion gives; choosing the shorter rotation breaks it.
    """
    w = float(np.clip(quat[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if sine < 1e-8:
        return np.zeros(3)
    return np.asarray(quat[:3]) * (2.0 * np.arccos(w) / sine)


def to_gripper_command(actions: np.ndarray) -> np.ndarray:
    """Map the last column from the data's 0 (closed) .. 1 (open) to LIBERO's +1 (close) / -1."""
    actions = actions.copy()
    actions[..., -1] = -np.sign(2.0 * actions[..., -1] - 1.0)
    return actions
