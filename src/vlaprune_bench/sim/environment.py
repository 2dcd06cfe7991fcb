"""LIBERO's environment, made and reset as the reference does, with a random generator of its own.

Which scene a reset shows depends on the state of the generator and on how many models the
environment has built, so resets here are given a `scenes.Scene`, or go on where the last one ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.damage import blaming
from vlaprune_bench.sim.gl import drawing
from vlaprune_bench.sim.look import dress
from vlaprune_bench.sim.package import import_libero, quiet
from vlaprune_bench.sim.pro import register_objects
from vlaprune_bench.sim.problem import with_objects
from vlaprune_bench.sim.scenes import (
    MAX_PLACEMENT_TRIES,
    Scene,
    draw_reset,
    global_generator,
    seeded_state,
)
from vlaprune_bench.sim.stage import Stage
from vlaprune_bench.sim.suites import TaskInfo
from vlaprune_bench.sim.variants.base import Draw, Variant
from vlaprune_bench.types import CAMERAS, EvalProtocol

T = TypeVar("T")

# robosuite never makes its GL context current: with two alive, one draws into the other.
_live: weakref.ref[SeededEnvironment] | None = None
_process: int | None = None
"""Id of the process that made the first one: GL contexts do not survive a fork."""


class SeededEnvironment:
    """A LIBERO environment, seeded once; making one closes the one this process had before.

    Attributes:
        env: LIBERO's `ControlEnv`.
        stage: Puts the task's variants in place at every reset; None where it has none.
        init_state: Time, qpos and qvel that were set last.
        open: False once closed.
    """

    init_state: np.ndarray

    def __init__(
        self,
        info: TaskInfo,
        assets: AssetSet,
        protocol: EvalProtocol,
        lazy: bool,
        variants: Sequence[Variant] = (),
        seed: int = 0,
    ) -> None:
        """Make the environment and seed it, as the reference does once per task.

        Args:
            info: The task.
            assets: Meshes and textures.
            protocol: Seed and camera size are read from it.
            lazy: Render with `look` only; otherwise robosuite's camera observables render at every
                step.
            variants: What is edited at every reset, in this order.
            seed: Of the variants' randomness.

        Raises:
            UserError: libero or a renderer is missing, or the assets lack what the task needs or
                are damaged.
            RuntimeError: the placement sampler found no scene, or this process is the fork of one
                that has made environments.
        """
        global _live, _process
        check_process()
        _process = os.getpid()
        _close_live()
        self._envs = import_libero()
        if info.dimension == "object":
            register_objects()
        self._info = info
        self._name = f"{info.suite} task {info.index}"
        self._assets = assets
        self._protocol = protocol
        self._lazy = lazy
        self._looking = False
        self._frames: list[np.ndarray] = []
        self._compiled: dict[str, np.ndarray] = {}
        self._random = seeded_state(protocol.env_seed)
        self._variant_seed = seed
        extras = {k: v for variant in variants for k, v in variant.extras(info).items()}
        self._problem = with_objects(info.bddl_file, extras) if extras else info.bddl_file
        self.stage = Stage(variants, tuple(extras)) if variants else None
        self._point_at_assets()
        with quiet(), self._watch_compiled(), blaming(assets, self._name):
            self.env = self._place(self._make)
        self._random = seeded_state(protocol.env_seed)
        inner = self.env.env
        self._samplers = list(inner.object_property_initializers)
        self._flags_at_start = self.site_flags()
        self._trial = 0
        if self.stage is not None:
            self._reset_internal = inner._reset_internal
            inner._reset_internal = self._staged_reset
        self.open = True
        _live = weakref.ref(self)
        _close_at_exit()

    def hard_reset(self, scene: Scene | None = None, visible: bool = True) -> None:
        """Reset as the reference does: build the model anew and place everything at random.

        Args:
            scene: What to place; by default the environment's generator goes on.
            visible: False where nobody will look: no GL context is made then, and MuJoCo's warm
                start differs in its last bits.

        Raises:
            UserError: the assets lack what the task needs by now, or are damaged.
            RuntimeError: the placement sampler found no scene.
        """
        inner = self.env.env
        self._point_at_assets()
        if scene is not None:
            self._random = scene.random_state
            self._trial = scene.trial
            # the model built now adds its samplers once more
            inner.object_property_initializers = self._samplers * (scene.loads - 1)
        # robosuite's own camera observables want their context at every reset
        inner.has_offscreen_renderer = visible or not self._lazy
        try:
            with quiet(), blaming(self._assets, self._name):
                self._place(inner.reset)
        except BaseException:
            self.close()  # half a scene is no scene
            raise

    def soft_reset(self, scene: Scene) -> None:
        """Reset to a scene, keeping the model: all a hard reset does but building it.

        The simulation ends up in the state a hard reset leaves, bit for bit.
        """
        inner = self.env.env
        sim = inner.sim
        self._trial = scene.trial
        if self.stage is not None:
            self.stage.undo()
        for name, value in self._compiled.items():
            getattr(sim.model._model, name)[:] = value
        self.set_site_flags(self._flags_at_start)
        inner.object_property_initializers = self._samplers * scene.loads
        inner.has_offscreen_renderer = False
        sim.reset()
        sim.forward()  # robosuite does so with a new model,
        sim.forward()  # and again with a new GL context; each moves the warm start
        with global_generator(scene.random_state), quiet():
            inner._reset_internal()
        sim.forward()
        inner.visualize(vis_settings=dict.fromkeys(inner._visualizations, False))
        inner._get_observations(force_update=True)

    def set_init_state(self, state: np.ndarray | None) -> Any:
        """Set a trial's init state after its reset, as the variants want it.

        Args:
            state: (1 + nq + nv,) time, qpos and qvel; None: where the reset placed things.

        Returns:
            robosuite's observables.
        """
        if state is None:
            state = self.env.get_sim_state()
        if self.stage is not None:
            state = self.stage.start(state)
        self.init_state = state
        return self.env.set_init_state(state)

    def draw(self, loads: int) -> None:
        """`scenes.draw_reset` for this task, for a `SceneTable`; a reset must follow."""
        poses = self._compiled["body_pos"], self._compiled["body_quat"]
        draw_reset(self.env.env, self._samplers, loads, poses)

    def site_flags(self) -> dict[str, dict[str, Any]]:
        """Which sites of objects (a stove's burner) are shown: LIBERO keeps this in Python."""
        inner = self.env.env
        return {
            name: dict(inner.get_object(name).object_properties["vis_site_names"])
            for name in inner.visualization_sites_list
        }

    def set_site_flags(self, flags: dict[str, dict[str, Any]]) -> None:
        """Put back what `site_flags` gave."""
        for name, shown in flags.items():
            self.env.env.get_object(name).object_properties["vis_site_names"].update(shown)

    @contextlib.contextmanager
    def look(self, wanted: bool) -> Iterator[list[np.ndarray]]:
        """Collect the frames of the step taken inside the block.

        Yields:
            A list which holds, after the step, the frames of `types.CAMERAS` as rendered (rows from
            the bottom up); it stays empty unless `wanted`, and in an environment that is not lazy.
        """
        self._looking = wanted and self._lazy
        self._frames = []
        try:
            yield self._frames
        finally:
            self._looking = False

    def close(self) -> None:
        """Free the simulation and its GL context."""
        if self.open:
            self.open = False
            if os.getpid() == _process:  # a fork has but a copy
                self.env.close()

    def _make(self) -> Any:
        size = self._protocol.camera_size
        env = self._envs.env_wrapper.ControlEnv(
            bddl_file_name=str(self._problem),
            camera_heights=size,
            camera_widths=size,
            camera_names=list(CAMERAS),
            use_camera_obs=not self._lazy,
            has_offscreen_renderer=not self._lazy,
            ignore_done=True,  # the budget is the caller's; robosuite would stop at 1000 steps
        )
        if self._lazy:
            env.env.add_observable(self._camera_observable(env.env))
        return env

    def _staged_reset(self) -> None:
        """robosuite's reset of a model that is there, the trial's variants put in place first."""
        assert self.stage is not None
        info = self._info
        draw = Draw(self._variant_seed, info.suite, info.index, self._trial)
        self.stage.open(self.env.env, draw)
        self._reset_internal()

    @contextlib.contextmanager
    def _watch_compiled(self) -> Iterator[None]:
        """Note what a reset changes in the model, as compiled: LIBERO resets while it is made."""
        domain = self._envs.bddl_base_domain.BDDLBaseDomain
        reset_internal = domain._reset_internal

        def watched(inner: Any) -> None:
            model = inner.sim.model._model
            self._compiled = {
                name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "site_rgba")
            }
            reset_internal(inner)

        domain._reset_internal = watched
        try:
            yield
        finally:
            domain._reset_internal = reset_internal

    def _camera_observable(self, inner: Any) -> Any:
        """An observable that renders both cameras, only while somebody looks.

        robosuite samples its observables once a control step, at a substep that depends on the time
        since they were made and reset. An observable of our own, made before the first reset, runs
        by the same clock, so that our frames are taken just where the reference takes its own.
        """
        from robosuite.utils.observables import Observable, sensor

        size = self._protocol.camera_size

        @sensor(modality="image")
        def cameras(_cache: Any) -> np.ndarray:
            if self._looking:
                with drawing(inner.sim._render_context_offscreen):
                    self._frames[:] = [
                        inner.sim.render(camera_name=name, width=size, height=size)
                        for name in CAMERAS
                    ]
            return np.zeros(1)

        return Observable(
            name="vlaprune_cameras", sensor=cameras, sampling_rate=inner.control_freq, active=False
        )

    @contextlib.contextmanager
    def _dressed(self) -> Iterator[None]:
        """Models built inside the block look as the assets' own `look.xml` wants them to."""
        domain = self._envs.bddl_base_domain.BDDLBaseDomain
        load_model = domain._load_model

        def dressed(inner: Any) -> None:
            load_model(inner)
            dress(inner.model.root, self._assets.path)

        domain._load_model = dressed
        try:
            yield
        finally:
            domain._load_model = load_model

    def _place(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until the placement sampler succeeds, as the reference does.

        The generator goes on between tries. Every other exception passes.
        """
        from robosuite.utils.errors import RandomizationError

        for _ in range(MAX_PLACEMENT_TRIES):
            with global_generator(self._random) as after, self._dressed():
                try:
                    return attempt()
                except RandomizationError:
                    pass  # objects would overlap: draw again
                finally:
                    self._random = after()
            gc.collect()  # the failed try's GL context must be gone before the next is made
        raise RuntimeError(
            f"{self._name}: no placement without overlap in {MAX_PLACEMENT_TRIES} tries."
        )

    def _point_at_assets(self) -> None:
        import libero.libero

        libero.libero._assets_path_cache = str(self._assets.path)


def check_process() -> None:
    """Refuse to go on in a fork: its GL context may draw anything, or hang.

    Raises:
        RuntimeError: this process is the fork of one that has made environments.
    """
    if _process not in (None, os.getpid()):
        raise RuntimeError(
            f"the simulator was opened in process {_process} and cannot go on in its fork "
            f"{os.getpid()}: fork before it is opened, or start processes with `spawn`."
        )


def _close_live() -> None:
    """Close the environment this process has open, if any, so that no GL context lives."""
    environment = _live() if _live is not None else None
    if environment is not None:
        environment.close()
    # Contexts and simulations refer to each other; one that nobody closed must go now, not later.
    gc.collect()


@functools.cache
def _close_at_exit() -> None:
    """Called once a context was made, so that it runs before robosuite ends the EGL display."""
    atexit.register(_close_live)
