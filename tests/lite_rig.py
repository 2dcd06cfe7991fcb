"""LIBERO scenes to try things in: load, let settle, move by hand or by gripper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.lite.build import MARKER
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.types import OPENVLA_PROTOCOL

if TYPE_CHECKING:
    from vlaprune_bench.sim.environment import SeededEnvironment

STEP = 25
"""Physics steps of 2 ms in a control step."""

STAY = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
"""The action that holds still with an open gripper."""

GROUND = {
    "floor": 0.0,
    "kitchen_table": 0.9,
    "living_room_table": 0.4368,
    "study_table": 0.8851,
    "main_table": 0.9,
}
"""Height (m) of the surface a task happens on."""


@contextmanager
def loaded(folder: Path, suite: str, task: int) -> Iterator[Scene]:
    """A task with the assets in `folder`, in the scene of trial 0; nothing renders."""
    from vlaprune_bench.sim.environment import SeededEnvironment
    from vlaprune_bench.sim.tasks import get_task

    kind = "lite" if (folder / MARKER).is_file() else "real"
    assets = AssetSet(kind=kind, path=folder, hash="")
    info = get_task(suite, task)
    environment = SeededEnvironment(info, assets, OPENVLA_PROTOCOL, lazy=True)
    try:
        yield Scene(environment, suite, task)
    finally:
        environment.close()


def move(
    env: Any, goal: Callable[[dict[str, np.ndarray]], np.ndarray], grip: float, steps: int
) -> dict[str, np.ndarray]:
    """Steer the gripper to `goal(observables)`; stops within 6 mm, or after `steps`."""
    observed = env.env._get_observations()
    for _ in range(steps):
        error = goal(observed) - observed["robot0_eef_pos"]
        if np.linalg.norm(error) < 0.006:
            break
        step = 1.6 * error / 0.05
        step /= max(1.0, np.abs(step).max())
        observed, *_ = env.step([*step, 0.0, 0.0, 0.0, grip])
    return observed


@dataclass
class Rest:
    """Where objects lie once they have settled."""

    names: list[str]
    moved: np.ndarray
    """Horizontal way from the init state, metres."""
    upright: np.ndarray
    """Cosine of the angle between where up was and where it is."""
    speed: np.ndarray
    """Way over the last 0.1 s, metres."""
    lowest: np.ndarray
    """Height of the lowest touchable point above the ground."""
    position: np.ndarray


class Scene:
    """A loaded task; `env` is LIBERO's environment."""

    def __init__(self, environment: SeededEnvironment, suite: str, task: int) -> None:
        from vlaprune_bench.sim.scenes import SceneTable
        from vlaprune_bench.sim.suites import load_init_states
        from vlaprune_bench.sim.tasks import get_task

        seed = OPENVLA_PROTOCOL.env_seed
        self.table = SceneTable(suite, task, seed, environment.draw, "reference")
        self.environment = environment
        self.env = environment.env
        self.inner = self.env.env
        self.states = load_init_states(get_task(suite, task).init_states_file)
        self.model = self.env.sim.model._model
        self.data = self.env.sim.data._data
        self.names = list(self.inner.objects_dict)
        self.bodies = [self.inner.obj_body_id[name] for name in self.names]
        self.ground = GROUND[self.inner.workspace_name]

    def freeze_robot(self) -> None:
        """Make the arm too stiff to move, so that physics alone acts on the objects."""
        for k in range(self.model.njnt):
            if self.model.joint(k).name.startswith(("robot", "gripper")):
                self.model.dof_damping[self.model.jnt_dofadr[k]] = 1e5

    def start(self, trial: int) -> None:
        """Place the fixtures as trial `trial` sees them, then set its init state."""
        self.environment.soft_reset(self.table[trial])
        self.env.set_init_state(self.states[trial])
        self.data.ctrl[:] = 0
        self.data.qfrc_applied[:] = 0

    def run(self, control_steps: int) -> None:
        import mujoco

        mujoco.mj_step(self.model, self.data, nstep=STEP * control_steps)

    def settle(self, trial: int, control_steps: int = 30) -> Rest:
        self.start(trial)
        before, up = self._poses()
        self.run(control_steps - 2)
        late, _ = self._poses()
        self.run(2)
        after, up_after = self._poses()
        return Rest(
            names=self.names,
            moved=np.linalg.norm(after[:, :2] - before[:, :2], axis=1),
            upright=np.einsum("nk,nk->n", up, up_after),
            speed=np.linalg.norm(after - late, axis=1),
            lowest=np.array([self.lowest(body) for body in self.bodies]) - self.ground,
            position=after,
        )

    def _poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions, and the world's up axis in each object's frame."""
        return self.data.xpos[self.bodies].copy(), self.data.xmat[self.bodies][:, 6:9].copy()

    def geoms(self, body: int) -> list[int]:
        """Touchable geoms of a body and of those fixed to it."""
        root = self.model.body_weldid
        return [
            k
            for k in range(self.model.ngeom)
            if root[self.model.geom_bodyid[k]] == root[body] and self.model.geom_group[k] == 0
        ]

    def lowest(self, body: int) -> float:
        heights = []
        for k in self.geoms(body):
            up = np.abs(self.data.geom_xmat[k].reshape(3, 3)[2])
            size = self.model.geom_size[k]
            heights.append(self.data.geom_xpos[k][2] - up @ size)
        return float(min(heights))

    def holds(self, goal: list[str]) -> bool:
        self.env.sim.forward()
        return bool(self.inner._eval_predicate(goal))


def achieve(scene: Scene, goal: list[str]) -> bool:
    """Set joints, or put an object down, so that one predicate of the goal holds.

    Returns:
        Whether it still holds after the scene has settled again.
    """
    if len(goal) == 2:
        turn_joint(scene, goal)
        return scene.holds(goal)
    return put_down(scene, goal)


def turn_joint(scene: Scene, goal: list[str]) -> None:
    """Move every joint of a fixture, or of the drawer a region lies in, to the end that does it."""
    name = goal[1]
    sites = scene.inner.object_sites_dict
    joints = sites[name].joints if name in sites else scene.inner.get_object(name).joints
    for end in (0, 1):
        for joint in joints:
            k = scene.model.joint(joint).id
            scene.data.qpos[scene.model.jnt_qposadr[k]] = scene.model.jnt_range[k][end]
            scene.data.qvel[scene.model.jnt_dofadr[k]] = 0
        if scene.holds(goal):
            return
    raise AssertionError(f"no end of {joints} makes {goal} hold")


def put_down(scene: Scene, goal: list[str]) -> bool:
    """Try places at the target until the object, released there, makes the predicate hold."""
    kind, name, target = goal
    body = scene.inner.obj_body_id[name]
    joint = scene.model.body_jntadr[body]
    place = slice(scene.model.jnt_qposadr[joint], scene.model.jnt_qposadr[joint] + 7)
    saved = scene.data.qpos.copy()
    centre, matrix, heights = _target(scene, kind, target)
    rivals = [g[1] for g in scene.inner.parsed_problem["goal_state"] if g[-1] == target]
    aside = 0.042 * (2 * rivals.index(name) - len(rivals) + 1)
    ever = False
    # things too tall for what they go into are tried lying down as well
    leans = (0.0, np.pi / 2) if kind == "in" else (0.0,)
    for lean, (x, y), turn in itertools.product(leans, _OFFSETS, (0.0, np.pi / 2)):
        scene.data.qpos[:], scene.data.qvel[:] = saved, 0
        yaw = np.arctan2(matrix[1, 0], matrix[0, 0]) + turn
        pose = np.array([*centre, *_turned(yaw, lean, saved[place][3:])])
        pose[:2] += matrix[:2, :2] @ (x + aside, y)
        height = _free_height(scene, body, place, pose, heights, inside=kind == "in")
        if height is None:
            continue
        pose[2] = height
        scene.data.qpos[place] = pose
        for _ in range(20):
            scene.run(1)
            now = scene.holds(goal)
            ever |= now
        if now:
            return True
    assert ever, f"{name} could nowhere be put so that {goal} held, even for a moment"
    return False


def _free_height(
    scene: Scene, body: int, place: slice, pose: np.ndarray, heights: np.ndarray, inside: bool
) -> float | None:
    """The last free height on the way down, from the top or from the one nearest the middle."""
    geoms = set(scene.geoms(body))

    def free(k: int) -> bool:
        pose[2] = heights[k]
        scene.data.qpos[place] = pose
        return not _pressed(scene, geoms)

    count = len(heights)
    starts = sorted(range(count), key=lambda k: abs(k - count // 2)) if inside else [count - 1]
    k = next((k for k in starts if free(k)), None)
    while k is not None and k > 0 and free(k - 1):
        k -= 1
    return None if k is None else float(heights[k])


_OFFSETS = [(x, y) for x in (0.0, 0.02, -0.02, 0.04, -0.04) for y in (0.0, 0.02, -0.02, 0.04)]


def _turned(yaw: float, lean: float, quat: np.ndarray) -> np.ndarray:
    """An object's upright orientation, leant towards its side and then turned."""
    from scipy.spatial.transform import Rotation

    up = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()[2]
    stand = Rotation.from_euler("x", 0.0 if up[2] > 0.5 else np.pi / 2)  # z-up or y-up
    turned = Rotation.from_euler("z", yaw) * Rotation.from_euler("y", lean) * stand
    return turned.as_quat()[[3, 0, 1, 2]]


def _target(scene: Scene, kind: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and orientation of a region or object, and the heights to try, rising."""
    if name in scene.inner.object_sites_dict:
        k = scene.model.site(name).id
        centre, matrix = scene.data.site_xpos[k].copy(), scene.data.site_xmat[k].reshape(3, 3)
        reach = float(np.abs(matrix[2]) @ scene.model.site_size[k])
        parent = getattr(scene.inner.object_sites_dict[name], "parent_name", None)
        if parent is not None:  # regions are turned in odd ways: take the furniture's own yaw
            matrix = scene.data.xmat[scene.inner.obj_body_id[parent]].reshape(3, 3)
        # "in" counts from 1 cm below the region
        low, high = (-reach - 0.03, reach + 0.15) if kind == "on" else (-reach - 0.009, reach)
    else:
        body = scene.inner.obj_body_id[name]
        centre, matrix = scene.data.xpos[body].copy(), scene.data.xmat[body].reshape(3, 3)
        low, high = -0.02, 0.25
    return centre, matrix.copy(), centre[2] + np.arange(low, high, 0.002)


def _pressed(scene: Scene, geoms: set[int]) -> bool:
    """Whether the object is pushed into something by more than a tenth of a millimetre."""
    scene.env.sim.forward()
    return any(
        contact.dist < -1e-4 and not {contact.geom1, contact.geom2}.isdisjoint(geoms)
        for contact in scene.data.contact
    )
