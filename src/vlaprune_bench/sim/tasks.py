"""The tasks of every suite: LIBERO's five, and the perturbed ones of LIBERO-PRO and LIBERO-Plus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from vlaprune_bench.sim import plus, pro
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.digests import check_task
from vlaprune_bench.sim.suites import Reading, TaskInfo, libero_tasks
from vlaprune_bench.sim.variants.base import Variant
from vlaprune_bench.types import (
    OPENVLA_PROTOCOL,
    SUITES,
    EvalProtocol,
    SceneProtocol,
    SimPath,
    UserError,
)


def known_suites() -> tuple[str, ...]:
    """Every suite there is, whether its data is installed or not."""
    return (*SUITES, *pro.SUITES, *plus.SUITES)


def base_suite(suite: str) -> str:
    """The LIBERO suite a suite comes from; itself for LIBERO's own. No data is needed.

    Raises:
        UserError: no such suite.
    """
    if suite in pro.SUITES:
        return suite.rsplit("_", 1)[0]
    if suite in SUITES or suite in plus.SUITES:
        return plus.SUITES.get(suite, suite)
    near = get_close_matches(str(suite), known_suites(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"suite={suite!r} is unknown; {hint}there are: {', '.join(known_suites())}.")


def list_tasks(suite: str, reading: Reading = "paper") -> tuple[TaskInfo, ...]:
    """The tasks of `suite` in its own order, those that cannot be had included.

    Raises:
        UserError: no such suite, or its data is not installed.
    """
    if suite in pro.SUITES:
        return pro.pro_tasks(suite, reading)
    if suite in plus.SUITES:
        return plus.plus_tasks(suite, reading)
    return libero_tasks(base_suite(suite))


def select_tasks(
    suite: str,
    dimension: str | None = None,
    base_tasks: Sequence[int] = (),
    tasks: Sequence[int] = (),
) -> tuple[int, ...]:
    """Indices of the tasks of a suite that are asked for and can be had, ascending.

    Args:
        suite: Any suite.
        dimension: Only tasks perturbed in it; None: any.
        base_tasks: Only tasks that come from these of the base suite; empty: from any.
        tasks: Only these; empty: any. One that cannot be had, or is not of the dimension or of the
            base tasks, is an error.

    Raises:
        UserError: what is asked for is not there.
    """
    listed = list_tasks(suite)
    _check_dimension(suite, dimension, listed)
    highest = max(task.base_task for task in listed)
    for base in base_tasks:
        if not 0 <= base <= highest:
            raise UserError(f"--base-tasks has {base}; {suite} comes from tasks 0 to {highest}.")

    def fits(task: TaskInfo) -> bool:
        from_these = not base_tasks or task.base_task in base_tasks
        return dimension in (None, task.dimension) and from_these

    for task in (get_task(suite, index) for index in tasks):
        if not fits(task):
            raise UserError(
                f"--task-ids has {task.index}; in {suite} that is {task.name}, of dimension "
                f"{task.dimension or 'none'} and base task {task.base_task}."
            )
    wanted = [task for task in listed if not task.refused and fits(task)]
    return tuple(task.index for task in wanted if not tasks or task.index in tasks)


def _check_dimension(suite: str, dimension: str | None, listed: Sequence[TaskInfo]) -> None:
    known = sorted({task.dimension for task in listed if not task.refused} - {""})
    if dimension is not None and dimension not in known:
        why = next((t.refused for t in listed if t.dimension == dimension), "")
        there = f"{suite} has {', '.join(known) or 'none'}"
        raise UserError(f"--dimension is {dimension}; {why or 'it is unknown'}: {there}.")


@dataclass(frozen=True)
class TaskKey:
    """A task as a simulator opens it: equal keys are one open task."""

    suite: str
    task: int
    """Index within the suite, from 0."""
    assets: AssetSet
    protocol: EvalProtocol = OPENVLA_PROTOCOL
    sim: SimPath = "fast"
    scenes: SceneProtocol = "reference"
    variants: tuple[Variant, ...] = ()
    """What is edited of the scene, in this order, after what the task itself edits."""
    seed: int = 0
    """Of the variants' randomness, with suite, task, trial and step."""
    reading: Reading = "paper"


def get_task(suite: str, task: int, reading: Reading = "paper") -> TaskInfo:
    """One task by its index.

    Raises:
        UserError: no such suite or task, one that cannot be had, or a package that is not LIBERO's
            under its name.
    """
    tasks = list_tasks(suite, reading)
    if not 0 <= task < len(tasks):
        raise UserError(f"task={task} does not exist in {suite}: choose 0 to {len(tasks) - 1}.")
    info = tasks[task]
    if info.refused:
        raise UserError(f"task={task} of {suite}, {info.name}, cannot be had: {info.refused}.")
    if suite in SUITES:
        check_task(suite, info.name, info.bddl_file, info.init_states_file)
    return info
