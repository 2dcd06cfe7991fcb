"""Things stand elsewhere, in each other's places, or more of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import Scale, Variant
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage
    from vlaprune_bench.sim.suites import TaskInfo

_GAP_M = 0.01
"""Between the boxes around two things."""
_TRIES = 200
_DROP_M = 0.005
"""How far above the table an added object begins; it lands while the scene settles."""
_AWAY_M = 5.0
"""Where an object that has no place yet is, below and above everything."""
_ABOVE_M = 0.5
"""How far above the table a look down at it begins."""
_MORE = ("libero_object", "libero_10")
_NAMED = ("libero_object", "libero_goal")
"""Suites whose instructions name objects, not where these stand."""
_AROUND_M = 0.1
"""How far beyond the task's own regions an added object may stand."""


@Variant.register_subclass("layout")
@dataclass(frozen=True)
class Layout(Variant):
    """Objects stand elsewhere, in and around their regions or in each other's, or distractors stand
    among them."""

    scales: ClassVar = {
        "jitter": Scale("m beyond the region's edge, at most", (0.0, 0.02, 0.04, 0.06, 0.08)),
        "distractors": Scale("objects of kinds the task has not", (1, 2, 3, 4, 5)),
        "shuffle": None,
    }
    """What stands on or in something moves with it or stays; fixtures stay. Distractors are of the
    suite's other tasks, and where these have too few, of libero_object and libero_10. Shuffled are
    all that stand on the table or the floor but what the goal puts something on or into; in all
    tasks of libero_object the thing to grasp stands in one place, so that nobody has to look."""

    def check(self, task: TaskInfo) -> None:
        if self.kind == "shuffle" and task.base_suite not in _NAMED:
            raise UserError(
                f"variant layout has kind=shuffle; {task.base_suite} may say where things stand: "
                f"it is for {' and '.join(_NAMED)}."
            )

    def extras(self, task: TaskInfo) -> dict[str, str]:
        from vlaprune_bench.sim.problem import categories
        from vlaprune_bench.sim.tasks import list_tasks

        if self.kind != "distractors":
            return {}
        own = set(categories(task.bddl_file).values())
        order: dict[str, None] = {}
        for suite in (task.base_suite, *_MORE):
            there = {c for t in list_tasks(suite) for c in categories(t.bddl_file).values()}
            # by name, not by trial: they are compiled into the model
            order |= dict.fromkeys(sorted(there - own, key=lambda c: _number(f"{task.name} {c}")))
        return {f"{category}_extra": category for category in list(order)[: int(self.amount)]}

    def start(self, stage: Stage, state: np.ndarray) -> None:
        ground = Ground(stage, state)
        rng = stage.draw.rng(self.key)
        if self.kind == "jitter":
            for name, region in ground.regions.items():
                ground.move(name, region + np.outer((-1, 1), 2 * [self.amount]), rng)
        elif self.kind == "shuffle":
            ground.shuffle(rng)
        else:
            for name in stage.extras:
                ground.add(name, rng)


class Ground:
    """Where the objects of an init state stand, seen from above."""

    def __init__(self, stage: Stage, state: np.ndarray) -> None:
        self._stage, self._inner = stage, stage.inner
        self._qpos = stage.qpos(state)
        waiting = set(stage.extras)
        for name in waiting:
            self._qpos[self._joint(name)][2] = -_AWAY_M
        self._look()  # where things are at the init state; setting it computes all of this again
        things = [*self._inner.objects_dict, *self._inner.fixtures_dict]
        boxes = {name: self._box(name) for name in things if name not in waiting}
        self._boxes = {name: box for name, box in boxes.items() if box is not None}
        self.regions = self._regions(waiting)

    def move(self, name: str, area: np.ndarray, rng: np.random.Generator) -> None:
        """Move an object, and what stands on it, to a free place whose middle is in `area`; it
        stays where it is if there is none."""
        old, group = self._boxes[name], self._standing_on(name)
        middle = self._xy(name)
        others = {n: box for n, box in self._boxes.items() if n not in group}
        touching = {n for n, box in others.items() if _overlap(old, box, 0)}
        for _ in range(_TRIES):
            shift = rng.uniform(*area) - middle
            moved = [self._boxes[n] + shift for n in group]
            free = not any(
                _overlap(box, other, _GAP_M)
                for n, other in others.items()
                if n not in touching
                for box in moved
            )
            if free:
                for n, box in zip(group, moved, strict=True):
                    self._boxes[n] = box
                    self._qpos[self._joint(n)][:2] += shift
                return

    def shuffle(self, rng: np.random.Generator) -> None:
        """Let objects change places, with what stands on them, all orders without overlap alike.

        Raises:
            RuntimeError: none was found; that they stand as they did is one.
        """
        goals = self._inner.parsed_problem["goal_state"]
        regions = self._inner.parsed_problem["regions"]
        places = {regions.get(goal[-1], {}).get("target", goal[-1]) for goal in goals}
        names = [name for name in self.regions if name not in places]
        middles = np.array([self._xy(name) for name in names])
        groups = [self._standing_on(name) for name in names]
        staying = [n for n in self._boxes if not any(n in group for group in groups)]
        touched = {(n, m) for n, m in combinations(self._boxes, 2) if self._touch(n, m)}
        for _ in range(_TRIES):
            shifts = middles[rng.permutation(len(names))] - middles
            boxes = {n: self._boxes[n] for n in staying}
            for group, shift in zip(groups, shifts, strict=True):
                boxes |= {n: self._boxes[n] + shift for n in group}
            if not any(
                _overlap(boxes[n], boxes[m], 0) and (n, m) not in touched
                for n, m in combinations(self._boxes, 2)
            ):
                for group, shift in zip(groups, shifts, strict=True):
                    for n in group:
                        self._qpos[self._joint(n)][:2] += shift
                self._boxes = boxes
                return
        raise RuntimeError(f"no order of {', '.join(names)} without overlap in {_TRIES} tries")

    def _touch(self, one: str, other: str) -> bool:
        return _overlap(self._boxes[one], self._boxes[other], 0)

    def add(self, name: str, rng: np.random.Generator) -> None:
        """Put an extra object on a free place near the others.

        Raises:
            RuntimeError: there is none.
        """
        everywhere = np.array(list(self.regions.values()))
        area = np.array([everywhere[:, 0].min(0), everywhere[:, 1].max(0)])
        area += np.outer((-1, 1), 2 * [_AROUND_M])
        joint = self._joint(name)
        self._qpos[joint] = [0, 0, _AWAY_M, *_turned(self._inner.get_object(name))]
        self._look()
        low, high = self._span(name)
        for _ in range(_TRIES):
            place = rng.uniform(*area)
            box = np.array([low[:2], high[:2]]) + place
            if not any(_overlap(box, other, _GAP_M) for other in self._boxes.values()):
                self._boxes[name] = box
                height = self._height(place) + _DROP_M - (low[2] - _AWAY_M)
                self._qpos[joint][:3] = [*place, height]
                return
        raise RuntimeError(f"no free place for {name} in {_TRIES} tries")

    def _look(self) -> None:
        """Compute where things are now."""
        import mujoco

        self._stage.data.qpos[:] = self._qpos
        mujoco.mj_kinematics(self._stage.model, self._stage.data)

    def _height(self, place: np.ndarray) -> float:
        """How high the table or the floor is at a free place: the first thing below that is fixed
        to the world; an arm may hang above."""
        import mujoco

        model, data = self._stage.model, self._stage.data
        groups = np.array([1, 1, 0, 0, 0, 0], np.uint8)  # the floor is in the second
        down, hit = np.array([0.0, 0, -1]), np.full(1, -1, np.int32)
        height = float(self._inner.workspace_offset[2]) + _ABOVE_M
        while True:
            start = np.array([*place, height])
            height -= float(mujoco.mj_ray(model, data, start, down, groups, 1, -1, hit)) + 1e-6
            assert hit[0] >= 0, place
            if model.body_weldid[model.geom_bodyid[hit[0]]] == 0:
                return height

    def _regions(self, waiting: set[str]) -> dict[str, np.ndarray]:
        """World rectangles, (low, high) x (x, y), of objects placed on the table or the floor."""
        inner, found = self._inner, {}
        problem = inner.parsed_problem
        for predicate, name, *where in problem["initial_state"]:
            region = problem["regions"].get(where[0]) if where else None
            if predicate != "on" or region is None or name not in inner.objects_dict:
                continue
            if region["target"] in inner.objects_dict or name in waiting or not region["ranges"]:
                continue
            if region["target"] in inner.obj_body_id and "table" not in region["target"]:
                continue  # on a fixture
            low_x, low_y, high_x, high_y = np.array(region["ranges"][0], dtype=float)
            offset = np.array(inner.workspace_offset[:2], dtype=float)
            found[name] = np.array([(low_x, low_y), (high_x, high_y)]) + offset
        return found

    def _standing_on(self, name: str) -> list[str]:
        """The object, and those the problem puts on or into it."""
        group = [name]
        for predicate, thing, *where in self._inner.parsed_problem["initial_state"]:
            target = where[0] if where else ""
            carrier = self._inner.parsed_problem["regions"].get(target, {}).get("target", target)
            if predicate in ("on", "in") and carrier in group and thing in self._boxes:
                group.append(thing)
        return group

    def _joint(self, name: str) -> slice:
        joint = self._stage.model.joint(self._inner.get_object(name).joints[-1])
        start = int(joint.qposadr[0])
        return slice(start, start + 7)

    def _xy(self, name: str) -> np.ndarray:
        return self._qpos[self._joint(name)][:2].copy()

    def _box(self, name: str) -> np.ndarray | None:
        """(low, high) x (x, y) around a thing's geoms, or None where it has none."""
        low, high = self._span(name)
        return np.array([low[:2], high[:2]]) if np.isfinite(low).all() else None

    def _span(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, (3,), around a thing's geoms; infinite where it has none."""
        model, data = self._stage.model, self._stage.data
        root = self._inner.obj_body_id[name]
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            while body not in (0, root):
                body = int(model.body_parentid[body])
            if body != root:
                continue
            middle, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
            turn = data.geom_xmat[geom].reshape(3, 3)
            at, reach = data.geom_xpos[geom] + turn @ middle, np.abs(turn) @ half
            low, high = np.minimum(low, at - reach), np.maximum(high, at + reach)
        return low, high


def _number(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _overlap(one: np.ndarray, other: np.ndarray, gap: float) -> bool:
    return bool((one[0] < other[1] + gap).all() and (other[0] < one[1] + gap).all())


def _turned(thing: Any) -> np.ndarray:
    """(4,) wxyz: how LIBERO stands an object up, in the middle of the turns it draws."""
    from vlaprune_bench.sim.variants.camera import about, product

    turns = thing.rotation
    turns = turns if isinstance(turns, dict) else {thing.rotation_axis: turns}
    quat = np.array([1.0, 0, 0, 0])
    for axis, angles in turns.items():
        unit = tuple(float(axis == name) for name in "xyz")
        quat = product(about(unit, float(np.mean(angles))), quat)  # type: ignore[arg-type]
    return quat
