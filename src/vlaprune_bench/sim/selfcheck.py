"""Is the fast path equal to robosuite's stepping on this machine? A few steps of both, compared."""

from __future__ import annotations

import numpy as np

from vlaprune_bench.sim.fast import FastSimulation
from vlaprune_bench.sim.scenes import Scene
from vlaprune_bench.sim.stepping import ReferenceSimulation, Shown

ACTIONS = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0],
        [0.7, -0.4, -0.9, 0.0, 0.0, 0.0, 1.0],
        [-0.3, 0.8, -1.0, 0.5, -0.8, 0.6, 1.0],
        [0.9, 0.2, -0.6, -0.7, 0.3, -1.0, -1.0],
    ]
)


def self_check(fast: FastSimulation, scene: Scene, init_state: np.ndarray | None) -> str | None:
    """Run the same steps by robosuite and by the fast path; a reset must follow.

    The bits of both depend on compiled code and on the BLAS of the machine, which nobody can test
    beforehand everywhere. Takes about 0.3 s, most of it for the one pair of frames.

    Args:
        fast: The fast path.
        scene: A scene to begin from.
        init_state: An init state to begin from; None: where the reset places things.

    Returns:
        None where all agrees bit for bit, else what differs first.
    """
    snapshot = fast.build(scene, init_state)
    reference = ReferenceSimulation(fast.environment, lazy=True)
    last = len(ACTIONS) - 1
    wanted = [(reference.step(a, look=k == last), fast.state()) for k, a in enumerate(ACTIONS)]
    fast.restore(snapshot)
    for k, action in enumerate(ACTIONS):
        shown = fast.step(action, look=k == last)
        what = _difference(shown, fast.state(), *wanted[k])
        if what is not None:
            return f"{what} after control step {k + 1}"
    return None


def _difference(
    shown: Shown, state: np.ndarray, wanted: Shown, wanted_state: np.ndarray
) -> str | None:
    if not np.array_equal(state, wanted_state):
        return f"simulator state differs by {np.abs(state - wanted_state).max():.1e}"
    for name in ("eef_pos", "eef_quat", "gripper_qpos"):
        if not np.array_equal(getattr(shown, name), getattr(wanted, name)):
            return f"{name} differs"
    if shown.success != wanted.success:
        return "success differs"
    for frame, wanted_frame in zip(shown.frames, wanted.frames, strict=True):
        if not np.array_equal(frame, wanted_frame):
            return f"frames differ in {(frame != wanted_frame).any(axis=-1).sum()} pixels"
    return None
