"""One LIBERO task, run as the OpenVLA and OpenVLA-OFT evaluation scripts run it.

    with LiberoTask(TaskKey("libero_spatial", 4, resolve_assets("auto", "real"))) as env:
        observation = env.reset(trial=0)
        observation, success = env.step(action, look=True)

What the reference does and this module repeats: the environment is seeded once; every episode
begins with a hard reset (a new scene: fixtures are placed at random), then the fixed init state,
then settle steps. Here trial k always sees what the reference shows after its (k+1)-th reset,
whatever the order of trials, without doing k resets (see `scenes`); and by default neither resets
nor steps go through robosuite, with equal results, bit for bit (see `fast`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from vlaprune_bench.sim.applied import Applied
from vlaprune_bench.sim.environment import SeededEnvironment, check_process
from vlaprune_bench.sim.gl import choose_gl
from vlaprune_bench.sim.memory import release_leftovers
from vlaprune_bench.sim.pro import check_objects
from vlaprune_bench.sim.scenes import SceneTable
from vlaprune_bench.sim.stepping import ReferenceSimulation, Shown, scene_hash, short_hash
from vlaprune_bench.sim.suites import Reading, load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import (
    Observation,
    SceneProtocol,
    SimPath,
    UserError,
)

if TYPE_CHECKING:
    from vlaprune_bench.sim.fast import FastSimulation

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
        instruction: Language instruction, of the last reset's trial.
        variants: What is edited of the scene: the task's own, then those asked for.
        budget: Control steps an episode may take, settle steps not counted.
        n_trials: Fixed init states there are.
        gl_backend: "egl", "osmesa" or "glfw".
        sim: How it is stepped: "fast" or "reference". A fast task whose self-check failed becomes
            a reference one.
        self_check: "passed", or what differed; None before the first reset, or where "reference"
            was asked for.
        init_state_hash: Of the last reset: SHA-256 (16 hex digits) of the init state's bytes,
            before variants edit it.
        scene_hash: Of the last reset: SHA-256 (16 hex digits) of MuJoCo's integration state and of
            the model's body poses, after the init state was set and before settling, and of what
            variants do. Equal hashes mean the same scene in the same state; meshes and colours are
            not covered.
        frames_hash: Of the last reset: SHA-256 (16 hex digits) of the first frames, settled. Covers
            meshes, colours and the renderer: another driver may draw a pixel otherwise.
        steps: Control steps since the last reset; negative while settling.
    """

    def __init__(
        self,
        key: TaskKey,
        *,
        start: Literal["fixed", "drawn"] = "fixed",
        render: Literal["lazy", "always"] = "lazy",
    ) -> None:
        """Look the task up; the simulator starts at the first reset.

        Args:
            key: Which task, on what, edited how.
            start: "fixed" starts from LIBERO's init states; "drawn", at every trial, from where its
                reset placed things.
            render: "lazy" renders only the steps somebody looks at; "always" (with
                `sim="reference"`) renders every step through robosuite's own camera observables, as
                the reference does. Frames and states are the same, bit for bit.

        Raises:
            UserError: unknown suite, task, sim, scenes, start or render mode, a variant the task
                cannot have, or libero or a renderer is missing.
        """
        for name, value, known in (
            ("sim", key.sim, get_args(SimPath)),
            ("scenes", key.scenes, get_args(SceneProtocol)),
            ("start", start, ("fixed", "drawn")),
            ("reading", key.reading, get_args(Reading)),
            ("render", render, ("lazy", "always")),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r} is unknown: choose {' or '.join(known)}.")
        if key.sim == "fast" and render == "always":
            raise UserError("render='always' is robosuite's rendering: it needs sim='reference'.")
        self._info = get_task(key.suite, key.task, key.reading)
        check_objects(self._info, key.assets)
        self._init_states = load_init_states(self._info.init_states_file)[: self._info.max_trials]
        self._assets = key.assets
        self._protocol = key.protocol
        self._scenes = key.scenes
        self._start = start
        self._applied = Applied(self._info, key.variants, key.seed)
        self.variants = self._applied.variants
        self._seed = key.seed
        self._lazy = render == "lazy"
        self.suite = key.suite
        self.task = key.task
        self.name = self._info.name
        self.instruction = self._info.instruction
        self.budget = key.protocol.budgets[self._info.base_suite]
        self.n_trials = len(self._init_states)
        self.gl_backend = choose_gl()
        self.sim: SimPath = key.sim
        self.self_check: str | None = None
        self.init_state_hash: str | None = None
        self.scene_hash: str | None = None
        self.frames_hash: str | None = None
        self.steps = 0
        self._environment: SeededEnvironment | None = None
        self._ready = False

    def reset(self, trial: int) -> Observation:
        """Begin an episode: the scene and init state of `trial`, settled.

        Args:
            trial: Index of the init state, from 0. Trials may come in any order.

        Returns:
            What the last settle step shows, with images.

        Raises:
            UserError: no such trial, or the assets lack something, are damaged or do not fit the
                init states.
            RuntimeError: the placement sampler found no scene, the simulation became unstable, no
                frame could be rendered, or this process is a fork.
        """
        settle = self._protocol.settle_steps
        self.steps = -settle
        shown = self._begin(trial, look=settle == 0)
        self._ready = True
        observation = self._observation(shown)
        for _ in range(settle):
            observation, _ = self.step(
                np.array(self._protocol.settle_action), look=self.steps == -1
            )
        assert observation.images is not None
        self.frames_hash = short_hash(observation.images)
        return observation

    def instruction_for(self, trial: int) -> str:
        """The instruction of a trial, which variants may change; no reset is needed."""
        return self._applied.words(trial)

    @property
    def inner(self) -> Any:
        """LIBERO's environment (robosuite's class), once open: to be looked at, not stepped.

        Raises:
            RuntimeError: not reset, or closed.
        """
        return self._opened().env.env

    @property
    def init_state(self) -> np.ndarray:
        """Time, qpos and qvel the last reset began from, not settled.

        Raises:
            RuntimeError: not reset, or closed.
        """
        return self._opened().init_state

    def fingerprint(self, trial: int) -> str:
        """`scene_hash` of a trial without running it; a reset must follow.

        Raises:
            As `reset`.
        """
        self._begin(trial, look=False)
        assert self.scene_hash is not None
        return self.scene_hash

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
            RuntimeError: not reset, closed, in a fork, the simulation became unstable at this step,
                or no frame could be rendered (the next reset begins anew).
        """
        check_process()
        if not self._ready or self._environment is None or not self._environment.open:
            raise RuntimeError(f"{self._where()}: reset it before stepping (or it was closed).")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(
                f"{self._where()}: action at step {self.steps} must be {ACTION_SIZE} finite "
                f"numbers, got {action.tolist()}."
            )
        wanted = look or self._applied.hold(self.steps + 1)
        try:
            shown = self._simulation.step(action, wanted)
        except BaseException:
            self.close()  # half a step is no step
            raise
        if shown.unstable:
            self._ready = False
            raise RuntimeError(
                f"{self._where()}: the simulation became unstable at step {self.steps} "
                f"({shown.unstable}; negative steps are settle steps)."
            )
        self.steps += 1
        observation = self._observation(shown)
        if wanted and not look:
            observation = replace(observation, images=None)
        return observation, shown.success

    def close(self) -> None:
        """Free the simulation and its GL context; the next reset makes them anew."""
        self._ready = False
        if self._environment is not None:
            self._environment.close()
            self._environment = None
            del self._simulation, self._table  # they hold on to the model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, trial: int, look: bool) -> Shown:
        """Put the simulation into a trial's scene and init state, not settled."""
        if trial < 0 or (trial >= self.n_trials and self._scenes != "fresh"):
            raise UserError(
                f"trial={trial} does not exist in {self.suite} task {self.task}: "
                f"choose 0 to {self.n_trials - 1}, or --scenes fresh."
            )
        check_process()
        self._ready = False
        self.frames_hash = None
        self._applied.begin(trial)
        fixed = self._start == "fixed" and trial < self.n_trials
        init_state = self._init_states[trial] if fixed else None
        try:
            if self._environment is None or not self._environment.open:
                self._open()
            assert self._environment is not None
            shown = self._simulation.reset(self._table[trial], init_state, look)
        except BaseException:
            self.close()  # half a scene is no scene
            raise
        sim, stage = self._environment.env.sim, self._environment.stage
        said = self._applied.said + stage.digest() if stage is not None else b""
        self.instruction = self.instruction_for(trial)
        self.init_state_hash = short_hash(
            self._environment.init_state if init_state is None else init_state
        )
        self.scene_hash = scene_hash(sim.model._model, sim.data._data, said)
        return shown

    def _open(self) -> None:
        """Make the environment, and see whether the fast path may be taken."""
        self.close()
        environment = SeededEnvironment(
            self._info, self._assets, self._protocol, self._lazy, self.variants, self._seed
        )
        self._environment = environment
        self._table = SceneTable(
            self.suite,
            self.task,
            self._protocol.env_seed,
            environment.draw,
            self._scenes,
            self._protocol.seed_per_trial,
        )
        self._simulation: FastSimulation | ReferenceSimulation
        self._simulation = ReferenceSimulation(environment, self._lazy)
        self._check_init_states(environment)
        if self.sim == "fast":
            from vlaprune_bench.sim.fast import FastSimulation
            from vlaprune_bench.sim.selfcheck import self_check

            release_leftovers()
            fast = FastSimulation(environment, self._protocol.camera_size)
            state = self._init_states[0] if self._start == "fixed" else None
            difference = self_check(fast, self._table[0], state)
            if difference and difference.startswith("frames") and fast.draw_everything():
                # this OpenGL puts samples together otherwise
                difference = self_check(fast, self._table[0], state)
            release_leftovers()
            self.self_check = difference or "passed"
            self._simulation = fast
            if difference:
                self.sim = "reference"
                self._open()

    def _check_init_states(self, environment: SeededEnvironment) -> None:
        model, stage = environment.env.sim.model, environment.stage
        added = 13 * len(stage.extras) if stage is not None else 0  # a free joint: 7 and 6 numbers
        expected = 1 + model.nq + model.nv - added
        if self._init_states.shape[1] != expected:
            raise UserError(
                f"init states {str(self._info.init_states_file)!r} have "
                f"{self._init_states.shape[1]} numbers, the model of {self._where()} built from "
                f"the {self._assets.kind} assets in {str(self._assets.path)!r} takes {expected}: "
                "use the files of one version of LIBERO."
            )

    def _observation(self, shown: Shown) -> Observation:
        images = None
        if shown.frames:
            images = np.stack(shown.frames)
            if self._protocol.rotate_180:
                images = np.ascontiguousarray(images[:, ::-1, ::-1])
            images = self._applied.frames(images, self.steps)
        return Observation(
            eef_pos=shown.eef_pos,
            eef_quat=shown.eef_quat,
            gripper_qpos=shown.gripper_qpos,
            images=images,
        )

    def _opened(self) -> SeededEnvironment:
        if self._environment is None or not self._environment.open:
            raise RuntimeError(f"{self._where()}: it is not open: reset it first.")
        return self._environment

    def _where(self) -> str:
        return f"{self.suite} task {self.task}"
