"""Fixed inputs for policy calls: the same frames, state and motion on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np

from vlaprune_bench.types import OPENVLA_PROTOCOL, Observation

INSTRUCTION = "pick up the black bowl on the stove and place it on the plate"
STEPS = 8
"""Control steps between two calls, whatever the policy's chunk: a gate's window."""
PLACES = 4
"""The moving block is back where it was after so many calls."""


def observation(call: int) -> Observation:
    """What the cameras see before a call: noise, in which a block moves.

    The block changes some patches from call to call and leaves the others as they are, for methods
    that compare frames.
    """
    random = np.random.default_rng([0, call % PLACES])
    images = _scene().copy()
    left = 40 * (call % PLACES)
    images[:, 64:128, left : left + 64] = 255
    return Observation(
        eef_pos=random.normal(size=3) * 0.1,
        eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
        gripper_qpos=np.array([0.04, -0.04]),
        images=images,
    )


def poses(call: int) -> np.ndarray:
    """(STEPS + 1, 7) poses since the previous call, (1, 7) at call 0; see `Policy.act`.

    The hand moves faster at every step, so that a motion gate sees a reason to prune.
    """
    steps = np.arange(max(STEPS * (call - 1), 0), STEPS * call + 1)
    made = np.zeros((len(steps), 7))
    # the sum of steps that grow linearly, from 1 mm
    made[:, 0] = 1e-3 * steps + 3e-4 * steps * (steps + 1)
    made[:, 6] = 1.0
    return made


@cache
def _scene() -> np.ndarray:
    size = OPENVLA_PROTOCOL.camera_size
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
