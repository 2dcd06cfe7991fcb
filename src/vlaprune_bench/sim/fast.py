"""One LIBERO task, stepped without robosuite's loop: the same states and frames, bit for bit.

What is left out of a control step changes nothing that is kept: repeated position stages, name
lookups, observables at every substep, sensors, a second success check. See `controller` for the
physics, `cameras` for the frames and `SeededEnvironment.soft_reset` for the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from vlaprune_bench.sim.cameras import Cameras
from vlaprune_bench.sim.environment import SeededEnvironment
from vlaprune_bench.sim.gl import drawing
from vlaprune_bench.sim.scenes import Scene
from vlaprune_bench.sim.stage import Change
from vlaprune_bench.sim.stepping import Shown

SUBSTEPS = 25
SAMPLE_SUBSTEP = 24
"""robosuite samples its observables after this many substeps of a control step. Its clock ticks
twice at a reset (once for the reset, once for the init state), and kinematics lag the joints by one
substep; the 24th was right in 20 000 control steps."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_MODEL_FIELDS = ("body_pos", "body_quat", "site_rgba")


@dataclass(frozen=True)
class Snapshot:
    """Everything a step depends on, right after the init state was set."""

    state: np.ndarray
    """MuJoCo's integration state: time, joints, controls, warm start."""
    model: tuple[np.ndarray, ...]
    """Body poses and site colours: fixtures are placed in the model itself."""
    controller: tuple[np.ndarray, ...]
    site_flags: dict[str, dict[str, Any]]
    init_state: np.ndarray
    """Time, qpos and qvel as they were set."""
    changes: tuple[Change, ...]
    """What variants edited of the model."""


class FastSimulation:
    """Steps the simulation of a `SeededEnvironment` that is reset softly."""

    def __init__(self, environment: SeededEnvironment, size: int) -> None:
        """Make cameras and compile the controller (seconds, once per machine; then cached).

        Args:
            environment: Just made, with lazy rendering.
            size: Side of the square frames, pixels.
        """
        # imports robosuite, which must not happen before a renderer was chosen
        from robosuite.utils import control_utils

        from vlaprune_bench.sim import controller

        self.environment = environment
        self._control, self._robosuite = controller, control_utils
        self._inner = inner = environment.env.env
        self._model, self._data = inner.sim.model._model, inner.sim.data._data
        self._cameras = Cameras(inner, size)
        self._arm = controller.make_arm(inner)
        (robot,) = inner.robots
        self._hand = self._model.body(robot.robot_model.eef_name).id
        self._fingers = robot._ref_gripper_joint_pos_indexes
        self._snapshots: dict[int, Snapshot] = {}
        self._looks_at_state = False
        inner.check_contact = ContactCheck(inner)

    def reset(self, scene: Scene, init_state: np.ndarray | None, look: bool) -> Shown:
        """Begin a trial: its scene, then its init state, not settled yet.

        The first time the scene is built (some 10 ms), then it is restored from a snapshot.

        Returns:
            What is seen at the init state.
        """
        if scene.trial not in self._snapshots:
            self._snapshots[scene.trial] = self.build(scene, init_state)
        self.restore(self._snapshots[scene.trial])
        for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
            stage(self._model, self._data)  # what is seen now, and nothing a step depends on
        return self.show(look)

    def build(self, scene: Scene, init_state: np.ndarray | None) -> Snapshot:
        """Reset as robosuite does and take a snapshot; robosuite may go on from here as well."""
        stage = self.environment.stage
        self.environment.soft_reset(scene)
        self.environment.set_init_state(init_state)
        self._control.read_state(self._arm, self._inner.robots[0])
        return Snapshot(
            state=self.state(),
            model=tuple(getattr(self._model, name).copy() for name in _MODEL_FIELDS),
            controller=tuple(array.copy() for array in self._arm.state()),
            site_flags=self.environment.site_flags(),
            init_state=self.environment.init_state,
            changes=stage.changes if stage is not None else (),
        )

    def state(self) -> np.ndarray:
        """MuJoCo's integration state of now."""
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot (some 10 microseconds)."""
        if self.environment.stage is not None:
            self.environment.stage.redo(snapshot.changes)
        mujoco.mj_setState(self._model, self._data, snapshot.state, _STATE)
        for name, value in zip(_MODEL_FIELDS, snapshot.model, strict=True):
            getattr(self._model, name)[:] = value
        for array, value in zip(self._arm.state(), snapshot.controller, strict=True):
            array[...] = value
        self.environment.set_site_flags(snapshot.site_flags)
        self.environment.init_state = snapshot.init_state
        self._cameras.forget()
        self._looks_at_state = False  # robosuite's controller begins with what it saw at the reset

    def draw_everything(self) -> bool:
        """Draw every frame anew from now on; whether that is a change."""
        return self._cameras.draw_everything()

    def step(self, action: np.ndarray, look: bool) -> Shown:
        """One control step: 25 physics substeps, the observation taken after the 24th.

        Args:
            action: (7,) float64, finite.
            look: Whether to render.

        Raises:
            RuntimeError: nothing could be rendered.
        """
        arm, advance = self._arm, self._control.advance
        fingers = float(np.sign(action[6]))
        stable = self._control.begin(arm, self._looks_at_state)
        self._looks_at_state = True
        self._set_goal(action[:6])
        stable = stable and advance(arm, fingers, SAMPLE_SUBSTEP, True)
        if not stable:
            return self.show(look=False, unstable="state not finite")
        shown = self.show(look)
        stable = advance(arm, fingers, SUBSTEPS - SAMPLE_SUBSTEP, False)
        if not (stable and np.isfinite(arm.qpos).all() and np.isfinite(arm.qvel).all()):
            shown.unstable = "state not finite"
            return shown
        shown.success = bool(self._inner._check_success())
        self._inner._post_process()
        return shown

    def show(self, look: bool, unstable: str | None = None) -> Shown:
        """What the observables read from the simulation now."""
        data = self._data
        return Shown(
            eef_pos=self._arm.site_pos.copy(),
            eef_quat=data.xquat[self._hand][[1, 2, 3, 0]],
            gripper_qpos=data.qpos[self._fingers],
            frames=self._frames() if look else [],
            unstable=unstable,
        )

    def _frames(self) -> list[np.ndarray]:
        with drawing(self._inner.sim._render_context_offscreen):
            return self._cameras.frames()

    def _set_goal(self, action: np.ndarray) -> None:
        """robosuite's `set_goal`, by its own functions (once a control step)."""
        arm, osc = self._arm, self._inner.robots[0].controller
        change = osc.scale_action(action)
        if not all(math.isclose(turn, 0.0) for turn in change[3:]):
            arm.goal_mat[:] = self._robosuite.set_goal_orientation(change[3:], arm.mat)
        arm.goal_pos[:] = self._robosuite.set_goal_position(change[:3], arm.pos)


class ContactCheck:
    """LIBERO's `check_contact` by geom numbers instead of names, which it looks up per contact."""

    def __init__(self, inner: Any) -> None:
        self._model, self._data = inner.sim.model._model, inner.sim.data._data
        self._ids = inner.sim.model._geom_name2id
        self._members: dict[str, np.ndarray] = {}

    def __call__(self, model_1: Any, model_2: Any) -> bool:
        """Whether any contact geom of one object touches one of the other."""
        in_1, in_2 = self._geoms(model_1), self._geoms(model_2)
        one, other = self._data.contact.geom.T
        return bool(((in_1[one] & in_2[other]) | (in_2[one] & in_1[other])).any())

    def _geoms(self, model: Any) -> np.ndarray:
        """(ngeom,) bool: the contact geoms of an object."""
        if model.name not in self._members:
            member = np.zeros(self._model.ngeom, dtype=bool)
            member[[self._ids[name] for name in model.contact_geoms if name in self._ids]] = True
            self._members[model.name] = member
        return self._members[model.name]
