"""One LIBERO task, run as the OpenVLA and OpenVLA-OFT evaluation scripts run it.

    with LiberoTask("libero_spatial", 4, resolve_assets("auto", "real")) as env:
        observation = env.reset(trial=0)
        observation, success = env.step(action, look=True)

What the reference does and this module repeats: the environment is seeded once; every episode
begins with a hard reset (a new scene: fixtures are placed at random), then the fixed init state,
then settle steps. So which scene an episode shows depends on how many resets came before it. Here
trial k always sees what the reference shows after its (k+1)-th reset, whatever the order of trials.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self

import numpy as np

from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.environment import SeededEnvironment
from vlaprune_bench.sim.gl import choose_gl
from vlaprune_bench.sim.tasks import get_task, load_init_states
from vlaprune_bench.types import CAMERAS, OPENVLA_PROTOCOL, Observation, Protocol, UserError

ACTION_SIZE = 7


class LiberoTask:
    """One task of a suite: `reset` to a trial, then `step`.

    Nothing is loaded before the first reset, which closes the environment any other `LiberoTask` of
    this process has open: only one GL context may live. The global numpy generator is left as it
    was found.

    Attributes:
        suite: LIBERO suite.
        task: Index within the suite.
        name: LIBERO's name of the task.
        instruction: Language instruction.
        budget: Control steps an episode may take, settle steps not counted.
        n_trials: Fixed init states there are.
        gl_backend: "egl", "osmesa" or "glfw".
        init_state_hash: Of the last reset: SHA-256 (16 hex digits) of the init state's bytes.
        scene_hash: Of the last reset: SHA-256 (16 hex digits) of MuJoCo's integration state and of
            the model's body poses, after the init state was set and before settling. Equal hashes
            mean the same scene in the same state; meshes and colours are not covered.
        steps: Control steps since the last reset; negative while settling.
    """

    def __init__(
        self,
        suite: str,
        task: int,
        assets: AssetSet,
        protocol: Protocol = OPENVLA_PROTOCOL,
        render: Literal["lazy", "always"] = "lazy",
    ) -> None:
        """Look the task up; the simulator starts at the first reset.

        Args:
            suite: One of `types.SUITES`.
            task: Index within the suite, from 0.
            assets: Meshes and textures, from `resolve_assets`.
            protocol: How the evaluation is done.
            render: "lazy" renders only the steps somebody looks at; "always" renders every step
                through robosuite's own camera observables, as the reference does. Frames and states
                are the same, bit for bit.

        Raises:
            UserError: unknown suite, task or render mode, or libero or a renderer is missing.
        """
        if render not in ("lazy", "always"):
            raise UserError(f"render={render!r} is unknown: choose lazy or always.")
        self._info = get_task(suite, task)
        self._init_states = load_init_states(self._info.init_states_file)
        self._assets = assets
        self._protocol = protocol
        self._lazy = render == "lazy"
        self.suite = suite
        self.task = task
        self.name = self._info.name
        self.instruction = self._info.instruction
        self.budget = protocol.budgets[suite]
        self.n_trials = len(self._init_states)
        self.gl_backend = choose_gl()
        self.init_state_hash: str | None = None
        self.scene_hash: str | None = None
        self.steps = 0
        self._environment: SeededEnvironment | None = None
        self._ready = False

    def reset(self, trial: int) -> Observation:
        """Begin an episode: the scene and init state of `trial`, settled.

        Args:
            trial: Index of the init state, from 0. Trials may come in any order. The next one costs
                one hard reset (1 to 2 s); a later one also those in between; an earlier one begins
                again from the first.

        Returns:
            What the last settle step shows, with images.

        Raises:
            UserError: no such trial.
            RuntimeError: the placement sampler found no scene, the assets do not fit the init
                states, or the simulation became unstable.
        """
        if not 0 <= trial < self.n_trials:
            raise UserError(
                f"trial={trial} does not exist in {self.suite} task {self.task}: "
                f"choose 0 to {self.n_trials - 1}."
            )
        self._ready = False
        self._reset_scene(trial)
        settle = self._protocol.settle_steps
        self.steps = -settle
        observation = self._set_init_state(self._init_states[trial], look=settle == 0)
        self.init_state_hash = _short_hash(self._init_states[trial])
        self.scene_hash = self._hash_scene()
        self._ready = True
        for _ in range(settle):
            observation, _ = self.step(
                np.array(self._protocol.settle_action), look=self.steps == -1
            )
        return observation

    def step(self, action: np.ndarray, look: bool) -> tuple[Observation, bool]:
        """Execute one control step (25 physics substeps).

        Args:
            action: (7,) end effector displacement and gripper, each within [-1, 1].
            look: Whether images are wanted; otherwise the observation has none, and in lazy mode
                nothing is rendered.

        Returns:
            The observation after the step, and whether the task predicate is true after it.

        Raises:
            ValueError: the action is not seven finite numbers.
            RuntimeError: not reset, closed, or the simulation became unstable at this step.
        """
        environment = self._environment
        if not self._ready or environment is None or not environment.open:
            raise RuntimeError(f"{self._where()}: reset it before stepping (or it was closed).")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(
                f"{self._where()}: action at step {self.steps} must be {ACTION_SIZE} finite "
                f"numbers, got {action.tolist()}."
            )
        with environment.look(look) as frames:
            observables, _, success, _ = environment.env.step(action.tolist())
        self._check_stable()
        self.steps += 1
        return self._observation(observables, frames, look), bool(success)

    def close(self) -> None:
        """Free the simulation and its GL context; the next reset makes them anew."""
        self._ready = False
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reset_scene(self, trial: int) -> None:
        """Make sure that exactly `trial` + 1 hard resets have happened."""
        environment = self._environment
        if environment is None or not environment.open or environment.resets > trial:
            self.close()
            environment = SeededEnvironment(self._info, self._assets, self._protocol, self._lazy)
            self._environment = environment
        while environment.resets <= trial:
            environment.hard_reset(visible=environment.resets == trial)

    def _set_init_state(self, init_state: np.ndarray, look: bool) -> Observation:
        assert self._environment is not None
        env = self._environment.env
        expected = 1 + env.sim.model.nq + env.sim.model.nv
        if len(init_state) != expected:
            raise RuntimeError(
                f"{self._where()}: its init states have {len(init_state)} numbers, the model built "
                f"from {self._assets.path} takes {expected}."
            )
        with self._environment.look(look) as frames:
            observables = env.set_init_state(init_state)
        return self._observation(observables, frames, look)

    def _check_stable(self) -> None:
        """MuJoCo meets a bad state by returning to the default one and counting a warning."""
        import mujoco

        assert self._environment is not None
        data = self._environment.env.sim.data
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
        if bad or not np.isfinite(data.qpos).all() or not np.isfinite(data.qvel).all():
            self._ready = False
            raise RuntimeError(
                f"{self._where()}: the simulation became unstable at step {self.steps} "
                f"({', '.join(bad) or 'state not finite'}; negative steps are settle steps)."
            )

    def _observation(
        self, observables: dict[str, Any], frames: list[np.ndarray], look: bool
    ) -> Observation:
        images = None
        if look:
            if not self._lazy:
                frames = [observables[f"{name}_image"] for name in CAMERAS]
            images = np.stack(frames)
            if self._protocol.rotate_180:
                images = np.ascontiguousarray(images[:, ::-1, ::-1])
        return Observation(
            eef_pos=observables["robot0_eef_pos"],
            eef_quat=observables["robot0_eef_quat"],
            gripper_qpos=observables["robot0_gripper_qpos"],
            images=images,
        )

    def _hash_scene(self) -> str:
        import mujoco

        assert self._environment is not None
        sim = self._environment.env.sim
        model, data = sim.model._model, sim.data._data
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        return _short_hash(state, model.body_pos, model.body_quat)

    def _where(self) -> str:
        return f"{self.suite} task {self.task}"


def _short_hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
