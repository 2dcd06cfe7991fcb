"""The suites of LIBERO-Plus: four LIBERO suites, every task perturbed in one dimension.

    libero_plus_spatial, libero_plus_object, libero_plus_goal, libero_plus_10

10,030 tasks in upstream's order; 6,983 need LIBERO's own meshes only: camera, robot, language,
noise, and the moved objects of layout. The others (light, background, added objects) need scene
files that are in no wheel, and are refused by name. One trial a task, from the first init state.

What a task changes is written in its name; names, instructions, start poses and layouts are read
from a wheel (`wheels.LIBERO_PLUS`), whose code is not imported.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlaprune_bench.sim.pro import language_of
from vlaprune_bench.sim.suites import Reading, TaskInfo, instruction_of, libero_tasks
from vlaprune_bench.sim.variants.base import Variant, View
from vlaprune_bench.sim.variants.camera import about, product, rotate
from vlaprune_bench.sim.wheels import LIBERO_PLUS
from vlaprune_bench.types import CAMERAS

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage

SUITES = {
    "libero_plus_spatial": "libero_spatial",
    "libero_plus_object": "libero_object",
    "libero_plus_goal": "libero_goal",
    "libero_plus_10": "libero_10",
}
DIMENSIONS = ("camera", "robot", "language", "noise", "layout")
REFUSED = {
    "light": "its lamps are in scene files",
    "background": "its textures are in scene files",
    "layout": "its added objects are meshes",
}
"""Why tasks of a dimension cannot be had."""

_VIEW = re.compile(
    r"(?:_language_(?P<language>\d+))?_view_(?P<view>-?\d+_-?\d+_\d+_-?\d+_-?\d+)"
    r"_initstate_(?P<robot>\d+)(?:_noise_(?P<noise>\d+))?"
)
_OTHER = {
    "light": re.compile(r"_light_\d+"),
    "background": re.compile(r"_(table|tb)_\d+"),
    "added": re.compile(r"_add_\d+"),
    "layout": re.compile(r"(_moved)?_level\d+_sample\d+"),
}


@dataclass(frozen=True)
class PlusVariant(Variant):
    """What a task's name says is changed: an option of the task, not of the user."""

    scales: ClassVar = {"": None}

    @property
    def name(self) -> str:
        return f"libero-plus {type(self).__name__.removeprefix('Plus').lower()}"


@dataclass(frozen=True)
class PlusCamera(PlusVariant):
    """The third-person camera of every LIBERO-Plus task."""

    view: tuple[int, int, int, int, int] = (0, 0, 100, 0, 0)
    """Degrees around z, degrees around y, distance in %, degrees of the camera around z and y."""

    def edit(self, stage: Stage) -> None:
        camera = stage.model.camera(CAMERAS[0]).id
        pos, quat = plus_pose(stage.model.cam_pos[camera], stage.model.cam_quat[camera], self.view)
        stage.set("cam_pos", pos, camera)
        stage.set("cam_quat", quat, camera)


def plus_pose(
    pos: np.ndarray, quat: np.ndarray, view: tuple[int, int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A camera's pose as LIBERO-Plus computes it: rounded to four decimals after every move.

    Args:
        pos: (3,) metres.
        quat: (4,) wxyz.
        view: See `PlusCamera.view`.

    Returns:
        pos, quat; the quaternion of length 1, as MuJoCo's compiler makes it.
    """
    around_z, around_y, scale, turn_z, turn_y = view
    pivot = np.array([0, 0, 0.8])
    z_axis, y_axis = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)

    def rounded(values: np.ndarray) -> np.ndarray:
        # Python's rounding: numpy's is off by one in the last place of one of upstream's poses
        return np.array([round(float(value), 4) for value in values])

    def turned(axis: Any, degrees: float, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = about(axis, np.deg2rad(degrees))
        whole = product(turn, q / np.linalg.norm(q))
        return turn, rounded(whole)

    if around_y:  # positive: from x towards z
        turn, quat = turned(y_axis, -around_y, quat)
        pos = rounded(rotate(turn, pos - pivot) + pivot)
    turn, quat = turned(z_axis, around_z, quat)
    pos = rounded(rotate(turn, pos))
    if scale != 100:
        pos = rounded(pivot + (pos - pivot) * (scale / 100))
    if turn_z:
        _, quat = turned(z_axis, turn_z, quat)
    if turn_y:
        _, quat = turned(y_axis, -turn_y, quat)
    return pos, quat / np.linalg.norm(quat)


@dataclass(frozen=True)
class PlusRobot(PlusVariant):
    """One of upstream's 500 poses of the arm.

    Upstream resets the arm there, and its init state then puts the joints back: what stays is the
    controller's idea of where it should be ("code"). The pose is the start pose where "paper" is
    asked for.
    """

    pose: int = 0
    reading: Reading = "paper"

    def edit(self, stage: Stage) -> None:
        stage.arm_pose = np.array(start_poses()[self.pose])

    def start(self, stage: Stage, state: np.ndarray) -> None:
        if self.reading == "paper":
            (robot,) = stage.inner.robots
            stage.qpos(state)[robot._ref_joint_pos_indexes] = start_poses()[self.pose]


@dataclass(frozen=True)
class PlusNoise(PlusVariant):
    """One of upstream's 50 corruptions of the third-person camera."""

    number: int = 0
    """1 to 10 motion blur, 11 to 20 Gaussian blur, 21 to 30 zoom blur, 31 to 40 fog, 41 to 50
    glass; the last digit is the severity."""

    def frame(self, view: View, image: np.ndarray) -> np.ndarray:
        if view.camera != CAMERAS[0]:
            return image
        from vlaprune_bench.sim.plus_noise import corrupted

        # upstream's order: as the simulator gives it, before the policy turns it
        raw = np.ascontiguousarray(image[::-1, ::-1])
        return np.ascontiguousarray(corrupted(raw, self.number, view.rng(self))[::-1, ::-1])


@functools.cache
def plus_tasks(suite: str, reading: Reading) -> tuple[TaskInfo, ...]:
    """All tasks of a suite in upstream's order, those that cannot be had included.

    Args:
        suite: One of `SUITES`.
        reading: "paper" or "code"; see `PlusRobot`, and words: upstream makes most instructions
            from file names, so that the policy is told "view 0 0 100 0 0 initstate 1" as well.

    Raises:
        UserError: the wheel is not there, or only half.
    """
    folder = LIBERO_PLUS.data()
    base = SUITES[suite]
    bases = {task.name: task for task in libero_tasks(base)}
    longest_first = sorted(bases, key=len, reverse=True)
    tasks = []
    for index, name in enumerate(task_names(folder)[base]):
        of = bases[next(b for b in longest_first if name.startswith(b))]
        tasks.append(_task(folder, suite, index, name, of, reading))
    return tuple(tasks)


def _task(
    folder: Path, suite: str, index: int, name: str, base: TaskInfo, reading: Reading
) -> TaskInfo:
    tail = name.removeprefix(base.name)
    words = base.instruction if reading == "paper" else instruction_of(name)
    files = {"bddl_file": base.bddl_file, "init_states_file": base.init_states_file}
    view = (0, 0, 100, 0, 0)
    variants: list[Variant] = []
    found = _VIEW.fullmatch(tail)
    refused = ""
    if found is None:
        dimension = next(kind for kind, tails in _OTHER.items() if tails.fullmatch(tail))
        if dimension != "layout":
            dimension = "layout" if dimension == "added" else dimension
            refused = f"{REFUSED[dimension]} that no wheel holds"
        else:
            files = {
                "bddl_file": folder / "bddl_files" / base.suite / f"{name}.bddl",
                "init_states_file": folder / "init_files" / "libero_newobj" / base.suite
                / f"{name}.pruned_init",
            }  # fmt: skip
    else:
        view = tuple(int(part) for part in found["view"].split("_"))  # type: ignore[assignment]
        number, pose = int(found["noise"] or 0), int(found["robot"])
        dimension = "noise" if number else "language" if found["language"] else ""
        dimension = dimension or ("robot" if pose else "camera")
        if found["language"]:
            said = (
                folder
                / "bddl_files"
                / base.suite
                / f"{base.name}_language_{found['language']}.bddl"
            )
            words = language_of(_read(said))
        variants += [PlusRobot(pose=pose, reading=reading)] if pose else []
        variants += [PlusNoise(number=number)] if number else []
    return TaskInfo(
        suite=suite,
        index=index,
        name=name,
        instruction=words,
        **files,
        base_suite=base.suite,
        base_task=base.index,
        dimension=dimension,
        variants=(PlusCamera(view=view), *variants),
        max_trials=1,
        refused=refused,
    )


@functools.cache
def task_names(folder: Path) -> dict[str, list[str]]:
    """Names of upstream's tasks by LIBERO suite, in its order: one literal of a Python file."""
    tree = ast.parse(_read(folder / "benchmark" / "libero_suite_task_map.py"))
    (value,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return dict(ast.literal_eval(value))


@functools.cache
def start_poses() -> dict[int, tuple[float, ...]]:
    """(7,) joint positions, rad, of upstream's arms by their number, 1 to 500."""
    tree = ast.parse(_read(LIBERO_PLUS.data() / "envs" / "robots" / "mounted_panda.py"))
    poses = {}
    for node in tree.body:
        number = re.fullmatch(r"MountedPanda(\d+)", getattr(node, "name", ""))
        if number:
            (returned,) = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
            assert isinstance(returned, ast.Call)
            poses[int(number[1])] = tuple(float(x) for x in ast.literal_eval(returned.args[0]))
    return poses


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LIBERO_PLUS.half(str(path)) from error
