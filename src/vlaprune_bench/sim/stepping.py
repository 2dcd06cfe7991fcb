"""What a simulated step shows, and the reference way of stepping: robosuite's own loop."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlaprune_bench.sim.environment import SeededEnvironment
from vlaprune_bench.sim.gl import drawing
from vlaprune_bench.sim.scenes import Scene
from vlaprune_bench.types import CAMERAS


@dataclass
class Shown:
    """What one step shows, whichever way it was made."""

    eef_pos: np.ndarray
    eef_quat: np.ndarray
    gripper_qpos: np.ndarray
    frames: list[np.ndarray] = field(default_factory=list)
    """Of each camera, rows from the bottom up; empty where nobody looks."""
    success: bool = False
    unstable: str | None = None
    """Why the simulation can no longer be trusted."""


class ReferenceSimulation:
    """robosuite's stepping, with hard resets."""

    def __init__(self, environment: SeededEnvironment, lazy: bool) -> None:
        self.environment = environment
        self._lazy = lazy

    def reset(self, scene: Scene, init_state: np.ndarray | None, look: bool) -> Shown:
        """Begin a trial: its scene by a hard reset, then its init state, not settled yet."""
        self.environment.hard_reset(scene)
        with self._drawing(), self.environment.look(look) as frames:
            observables = self.environment.set_init_state(init_state)
        return self._shown(observables, frames, look)

    def step(self, action: np.ndarray, look: bool) -> Shown:
        """One control step.

        Raises:
            RuntimeError: nothing could be rendered.
        """
        with self._drawing(), self.environment.look(look) as frames:
            observables, _, success, _ = self.environment.env.step(action.tolist())
        shown = self._shown(observables, frames, look)
        shown.success = bool(success)
        shown.unstable = unstable(self.environment.env.sim.data)
        return shown

    def _drawing(self) -> contextlib.AbstractContextManager[None]:
        """Where robosuite renders at every step, it does so without making its context current."""
        if self._lazy:
            return contextlib.nullcontext()
        return drawing(self.environment.env.sim._render_context_offscreen)

    def _shown(self, observables: dict[str, Any], frames: list[np.ndarray], look: bool) -> Shown:
        if look and not self._lazy:
            frames = [observables[f"{name}_image"] for name in CAMERAS]
        return Shown(
            eef_pos=observables["robot0_eef_pos"],
            eef_quat=observables["robot0_eef_quat"],
            gripper_qpos=observables["robot0_gripper_qpos"],
            frames=frames,
        )


def unstable(data: Any) -> str | None:
    """Why a state stepped by MuJoCo is bad, if it is.

    MuJoCo meets a bad state by returning to the default one and counting a warning.
    """
    import mujoco

    bad = [
        kind.name
        for kind in (
            mujoco.mjtWarning.mjWARN_BADQPOS,
            mujoco.mjtWarning.mjWARN_BADQVEL,
            mujoco.mjtWarning.mjWARN_BADQACC,
            mujoco.mjtWarning.mjWARN_BADCTRL,
        )
        if data.warning[kind].number
    ]
    if bad:
        return ", ".join(bad)
    if not np.isfinite(data.qpos).all() or not np.isfinite(data.qvel).all():
        return "state not finite"
    return None


def scene_hash(model: Any, data: Any, variants: bytes = b"") -> str:
    """SHA-256 (16 hex digits) of MuJoCo's integration state and of the model's body poses.

    Args:
        model: MuJoCo's.
        data: MuJoCo's.
        variants: What variants say of themselves; nothing where there are none.
    """
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    said = [np.frombuffer(variants, np.uint8)] if variants else []
    return short_hash(state, model.body_pos, model.body_quat, *said)


def short_hash(*arrays: np.ndarray) -> str:
    """SHA-256 of the arrays' bytes, 16 hex digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
