"""The 16 suites of LIBERO-PRO: objects, places, goals or words of four LIBERO suites changed.

    libero_goal_object   other looks and sizes of the objects
    libero_goal_swap     objects at each other's places
    libero_goal_task     another goal, and its words
    libero_goal_lan      the goal in other words (and other init states than LIBERO's)

BDDL files and init states come from a wheel (`wheels.LIBERO_PRO`); meshes of `_object` from the
wheels with LIBERO's assets. Upstream's environment perturbation (`_env`) is in no wheel.
"""

from __future__ import annotations

import re
from typing import Any

from vlaprune_bench.sim.assets import INSTALL, AssetSet
from vlaprune_bench.sim.suites import Reading, TaskInfo, libero_tasks
from vlaprune_bench.sim.wheels import LIBERO_PRO
from vlaprune_bench.types import UserError

BASES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
DIMENSIONS = ("object", "swap", "task", "lan")
SUITES = tuple(f"{base}_{dimension}" for base in BASES for dimension in DIMENSIONS)

_HALF_TURN = 1.5707963267948966
_OBJECTS: dict[str, tuple[str, Any, Any]] = {
    "YellowPlate": ("GoogleScannedObject", ..., ...),
    "BlackBowl": ("GoogleScannedObject", ..., ...),
    "RedBasket": ("GoogleScannedObject", ..., ...),
    "BiggerAkitaBlackBowl": ("GoogleScannedObject", ..., ...),
    "BiggerAlphabetSoup": ("HopeBaseObject", ..., "z"),
    "RedCreamCheese": ("HopeBaseObject", (0.0, 0.0), "x"),
    "GreenButter": ("HopeBaseObject", (0.0, 0.0), "x"),
    "GreenChocolatePudding": ("HopeBaseObject", (0.0, 0.0), "x"),
    "YellowTomatoSauce": ("HopeBaseObject", ..., "z"),
    "GreenBbqSauce": ("HopeBaseObject", ..., ...),
    "BlueKetchup": ("HopeBaseObject", ..., "z"),
    "YellowMilk": ("HopeBaseObject", ..., "z"),
    "RedSaladDressing": ("HopeBaseObject", dict.fromkeys("xz", (_HALF_TURN, _HALF_TURN)), None),
    "YellowCabinet": ("WoodenCabinet", ..., ...),
    "YellowStove": ("FlatStove", ..., ...),
    "BrownRack": ("WineRack", ..., ...),
    "WhiteBottle": ("WineBottle", ..., ...),
    "YellowMokaPot": ("MokaPot", ..., ...),
}
"""LIBERO's class each object of `_object` is like, and the turns it is placed with (...: that
class's own)."""


def pro_tasks(suite: str, reading: Reading) -> tuple[TaskInfo, ...]:
    """The ten tasks of a suite, in the base suite's order.

    Args:
        suite: One of `SUITES`.
        reading: "paper": words as the BDDL file has them where they are what the suite changes, as
            its paper means; "code": words made from file names, as upstream's loader does, which
            are the base task's everywhere.

    Raises:
        UserError: the wheel is not there, or only half.
    """
    base, dimension = suite.rsplit("_", 1)
    folder = LIBERO_PRO.data()
    tasks = []
    for task in libero_tasks(base):
        bddl_file = folder / "bddl_files" / suite / f"{task.name}.bddl"
        states = folder / "init_files" / suite / f"{task.name}.pruned_init.npz"
        for file in (bddl_file, states):
            if not file.is_file():
                raise LIBERO_PRO.half(str(file))
        said = dimension in ("lan", "task") and reading == "paper"
        tasks.append(
            TaskInfo(
                suite=suite,
                index=task.index,
                name=task.name,
                instruction=language_of(bddl_file.read_text()) if said else task.instruction,
                bddl_file=bddl_file,
                init_states_file=states,
                base_suite=base,
                base_task=task.index,
                dimension=dimension,
            )
        )
    return tuple(tasks)


def language_of(bddl: str) -> str:
    """The words of a BDDL file's `:language`, as LIBERO's parser gives them: lower case, one space.

    Raises:
        UserError: it has none.
    """
    found = re.search(r"\(:language\s+([^)]*)\)", bddl)
    if found is None:
        raise UserError("a BDDL file of LIBERO-PRO or LIBERO-Plus has no (:language ...).")
    return " ".join(found[1].lower().split())


def check_objects(task: TaskInfo, assets: AssetSet) -> None:
    """Refuse assets without the objects of an `_object` task.

    Raises:
        UserError: one is missing.
    """
    if task.dimension != "object":
        return
    bddl = task.bddl_file.read_text()
    for category in map(category_of, _OBJECTS):
        named = re.search(rf"- {category}\b", bddl)
        if named and not any(assets.path.glob(f"*/**/{category}.xml")):
            raise UserError(
                f"{task.suite} task {task.index} needs LIBERO-PRO's {category}, which the "
                f"{assets.kind} assets in {str(assets.path)!r} lack: use --assets pip ({INSTALL})."
            )


def category_of(name: str) -> str:
    """LIBERO's category of a class of objects."""
    return "_".join(re.findall("[A-Z][a-z]*", name)).lower()


def register_objects() -> None:
    """Let LIBERO know the objects of the `_object` suites; call it after LIBERO was imported."""
    from libero.libero.envs import base_object, objects

    def make(name: str, like: str, rotation: Any, axis: Any) -> type:
        parent: Any = getattr(objects, like)
        category = category_of(name)

        def __init__(
            self: Any, name: str = category, obj_name: str = category, **more: Any
        ) -> None:
            parent.__init__(self, name, obj_name, **more)
            if rotation is not ...:
                self.rotation = rotation
            if axis is not ...:
                self.rotation_axis = axis

        # LIBERO tells the category by the class's name
        return type(name, (parent,), {"__init__": __init__})

    for name, (like, rotation, axis) in _OBJECTS.items():
        category = category_of(name)
        if category not in base_object.OBJECTS_DICT:
            made = base_object.register_object(make(name, like, rotation, axis))
            if like == "FlatStove":
                base_object.register_visual_change_object(made)
