"""Which scene an episode is: a function of suite, task, trial and the protocol's seed alone.

LIBERO places fixtures (cabinets, stoves, racks) from the global numpy generator at every reset, and
setting an init state does not put them back. Two named ways to say which placement trial k sees:

    reference   what the reference loop shows: one generator, seeded once per task environment, and
                trial k sees what its (k+1)-th reset draws. Tabulated here by drawing what the
                resets before it would draw, without building them. LeRobot's loop seeds it anew for
                each trial, by the protocol's seed plus k.
    fresh       every trial by itself: a generator seeded by suite, task, trial and the protocol's
                seed, and the first reset after that.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlaprune_bench.types import SceneProtocol

MAX_PLACEMENT_TRIES = 20
"""Placements tried for one reset before giving up (the reference tries for ever)."""


@dataclass(frozen=True)
class Scene:
    """Where the random numbers of one reset begin; the rest follows from the task."""

    random_state: tuple[Any, ...]
    """State of the legacy numpy generator at the first draw of the reset."""
    loads: int
    """Models the environment has built by then, this reset's included.

    LIBERO adds its samplers of joint positions (drawers, knobs) once more with every model it
    builds, and each of them draws at every reset: so the placement comes later and later.
    """
    trial: int = 0
    """Whose scene it is: what variants draw follows from it."""


class SceneTable:
    """The scenes of one task, trial by trial; each is drawn once."""

    def __init__(
        self,
        suite: str,
        task: int,
        seed: int,
        draw: Callable[[int], None],
        protocol: SceneProtocol,
        seed_per_trial: bool = False,
    ) -> None:
        """Draw nothing yet.

        Args:
            suite: LIBERO suite.
            task: Index within the suite.
            seed: The protocol's environment seed.
            draw: Draws from the global numpy generator what one reset draws, given the number of
                models built by then (`draw_reset`); raises robosuite's `RandomizationError` where
                the reset would.
            protocol: Which scene a trial is.
            seed_per_trial: Whether the reference seeds its generator anew for each trial.
        """
        self._name = f"{suite} task {task}"
        self._seed = seed
        self._draw = draw
        self._protocol = protocol
        self._seed_per_trial = seed_per_trial
        self._scenes: dict[int, Scene] = {}
        # the reference's generator after the scenes drawn so far, and its models
        self._random_state, self._loads = seeded_state(seed), 1

    def __getitem__(self, trial: int) -> Scene:
        """The scene of a trial; disturbs the state of the simulation `draw` looks at.

        Raises:
            RuntimeError: the placement sampler found no scene.
        """
        if self._protocol == "reference" and self._seed_per_trial:
            if trial not in self._scenes:
                # trial k's reset builds model k + 2, the first one being that of the environment
                state = seeded_state(self._seed + trial)
                self._scenes[trial], _ = self._first_valid(state, 1 + trial, trial)
        elif self._protocol == "reference":
            while trial not in self._scenes:
                drawn = len(self._scenes)
                scene, self._random_state = self._first_valid(
                    self._random_state, self._loads, drawn
                )
                self._loads = scene.loads
                self._scenes[drawn] = scene
        elif trial not in self._scenes:
            state = seeded_state(fresh_seed(self._name, trial, self._seed))
            self._scenes[trial], _ = self._first_valid(state, 1, trial)
        return self._scenes[trial]

    def _first_valid(
        self, random_state: tuple[Any, ...], loads: int, trial: int
    ) -> tuple[Scene, tuple[Any, ...]]:
        """The next reset that places everything, and the generator after it.

        A placement that fails is tried again by a whole new reset, as in the reference.
        """
        from robosuite.utils.errors import RandomizationError

        for attempt in range(1, MAX_PLACEMENT_TRIES + 1):
            scene = Scene(random_state, loads + attempt, trial)
            with global_generator(random_state) as after:
                try:
                    self._draw(scene.loads)
                    return scene, after()
                except RandomizationError:
                    random_state = after()
        raise RuntimeError(
            f"{self._name}: no placement without overlap in {MAX_PLACEMENT_TRIES} tries."
        )


def draw_reset(inner: Any, samplers: list[Any], loads: int, body_poses: Any) -> None:
    """Draw what one reset of LIBERO draws, in its order, without building a model.

    Leaves the simulation in a state of no use: joints are set and kinematics are computed, because
    things placed on a drawer's site stand where the drawn joint puts it.

    Args:
        inner: LIBERO's environment (robosuite's class), whose placement samplers are used.
        samplers: Its joint position samplers, as one model adds them.
        loads: Models built by then.
        body_poses: (positions (nbody, 3), quaternions (nbody, 4)) of the model as compiled.

    Raises:
        RandomizationError: objects would overlap (robosuite's exception).
    """
    import mujoco

    model, data = inner.sim.model._model, inner.sim.data._data
    model.body_pos[:], model.body_quat[:] = body_poses
    data.qpos[:] = model.qpos0
    for robot in inner.robots:
        np.random.randn(len(robot.init_qpos))  # noqa: NPY002 - joint noise, of scale zero in LIBERO
    for sampler in samplers * loads:
        inner.object_states_dict[sampler.name].set_joint(sampler.sample())
    mujoco.mj_kinematics(model, data)
    placements = inner.placement_initializer.sample()
    placements = inner.conditional_placement_initializer.sample(inner.sim, placements)
    inner.conditional_placement_on_objects_initializer.sample(placements)


def fresh_seed(task: str, trial: int, seed: int) -> int:
    """Seed of one trial of its own, 32 bits."""
    return int(hashlib.sha256(f"{task} trial {trial} seed {seed}".encode()).hexdigest()[:8], 16)


def seeded_state(seed: int) -> tuple[Any, ...]:
    """State of the legacy numpy generator after `np.random.seed(seed)`."""
    state = np.random.RandomState(seed).get_state(legacy=True)
    assert isinstance(state, tuple)
    return state


@contextlib.contextmanager
def global_generator(state: tuple[Any, ...]) -> Iterator[Callable[[], Any]]:
    """Set the global numpy generator, which LIBERO draws from, and put it back at the end.

    Yields:
        A function that gives the generator's state by now.
    """
    outer = np.random.get_state()  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    try:
        yield np.random.get_state
    finally:
        np.random.set_state(outer)  # noqa: NPY002
