"""Tasks with placements of our own, and the simulator's state as an expert sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.sim.variants.layout import Layout

DEMO_SEED = 20_000
"""Stands where a protocol's environment seed stands, so that no demonstration draws what an
evaluation draws (protocols seed with 0, 7 and 1000)."""
SHUFFLED = ("libero_object",)
"""Suites that could be learnt blind: the thing to grasp stands in one place in all tasks."""


class SampledTask(LiberoTask):
    """A task whose `reset(trial)` places everything at random, as LIBERO's own reset does.

    Any number from 0 names a placement: a function of suite, task and that number. The benchmark's
    init states are never used. Where one place would do for all tasks of a suite, objects change
    places (see `SHUFFLED`).
    """

    def __init__(self, key: TaskKey) -> None:
        variants = (Layout(kind="shuffle"),) if key.suite in SHUFFLED else ()
        protocol = replace(key.protocol, env_seed=DEMO_SEED)
        key = replace(key, protocol=protocol, scenes="fresh", variants=variants)
        super().__init__(key, start="drawn")


class World:
    """Poses read from a running task. Lengths in metres, world frame, z up."""

    def __init__(self, task: LiberoTask) -> None:
        """Look at `task`, which was reset; a later reset of the same task may reuse this."""
        self._inner: Any = task.inner
        self._model, self._data = self._inner.sim.model._model, self._inner.sim.data._data
        (robot,) = self._inner.robots
        self._site = self._model.site(robot.controller.eef_name).id
        self._fingers = robot._ref_gripper_joint_pos_indexes

    @property
    def hand(self) -> np.ndarray:
        """(3,) position between the fingertips."""
        return self._data.site_xpos[self._site].copy()

    @property
    def hand_turn(self) -> np.ndarray:
        """(3, 3) orientation of the hand; its first axis is the one the fingers open along."""
        return self._data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def width(self) -> float:
        """Distance between the fingers: 0.08 open, 0 closed."""
        left, right = self._data.qpos[self._fingers]
        return float(left - right)

    def position(self, name: str) -> np.ndarray:
        """(3,) position of an object, fixture or site."""
        if name in self._inner.obj_body_id:
            return self._data.xpos[self._inner.obj_body_id[name]].copy()
        return self._named(name).xpos.copy()

    def axes(self, name: str) -> np.ndarray:
        """(3, 3) orientation of an object, fixture or site; columns are its axes."""
        if name in self._inner.obj_body_id:
            return self._data.xmat[self._inner.obj_body_id[name]].reshape(3, 3).copy()
        return self._named(name).xmat.reshape(3, 3).copy()

    def _named(self, name: str) -> Any:
        """A site, or a body that is no object of its own."""
        is_site = name in self._inner.object_sites_dict
        return self._data.site(name) if is_site else self._data.body(name)

    def box(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, (3,) each, of an object's or body's collision geoms."""
        body = self._inner.obj_body_id.get(name)
        body = self._model.body(name).id if body is None else body
        corners = []
        for k in range(self._model.ngeom):
            root = self._model.body_weldid
            if root[self._model.geom_bodyid[k]] != root[body] or self._model.geom_group[k] != 0:
                continue
            centre, half = self._model.geom_aabb[k, :3], self._model.geom_aabb[k, 3:]
            matrix = self._data.geom_xmat[k].reshape(3, 3)
            middle, reach = self._data.geom_xpos[k] + matrix @ centre, np.abs(matrix) @ half
            corners += [middle - reach, middle + reach]
        return np.min(corners, axis=0), np.max(corners, axis=0)

    def goal(self) -> list[str]:
        """The predicate to bring about, as LIBERO writes it: ["on", "bowl_1", "plate_1"]."""
        (goal,) = self._inner.parsed_problem["goal_state"]
        return list(goal)

    def solved(self, predicate: Sequence[str] = ()) -> bool:
        """Whether a predicate is true, written as `goal` writes it; else all of the task's."""
        if predicate:
            return bool(self._inner._eval_predicate(predicate))
        return bool(self._inner._check_success())
