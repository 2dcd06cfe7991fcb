"""The tasks of a suite and their init states, read without importing libero or torch.

LIBERO's five suites, and the perturbed ones of LIBERO-PRO (`pro`) and LIBERO-Plus (`plus`).
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlaprune_bench.sim.package import package_folder
from vlaprune_bench.sim.variants.base import Variant
from vlaprune_bench.types import SUITES, UserError

MAX_INIT_STATES_BYTES = 2**24
"""LIBERO's largest table has 58 594; a damaged file must not fill the memory."""

_OF_BAD_PICKLES = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,  # also of an encrypted archive
)
"""What unpickling bytes that are no pickle may raise."""


Reading = Literal["paper", "code"]
"""What a perturbed suite's task is where its code does otherwise than it says: as it is meant, or
as upstream's code runs it. Nominal suites know no difference."""


@dataclass(frozen=True)
class TaskInfo:
    """One task of a suite."""

    suite: str
    index: int
    name: str
    instruction: str
    bddl_file: Path
    init_states_file: Path
    base_suite: str
    """The LIBERO suite it comes from: budgets and un-normalisation are that suite's."""
    base_task: int
    """Index there of the task it comes from."""
    dimension: str = ""
    """What a perturbed suite changed, as it calls it; empty: nothing."""
    variants: tuple[Variant, ...] = ()
    """What the task itself edits of the scene."""
    max_trials: int | None = None
    """Init states an evaluation of the suite uses; None: all there are."""
    refused: str = ""
    """Why it cannot be had; empty: it can."""


def known_suites() -> tuple[str, ...]:
    """Every suite there is, whether its data is installed or not."""
    from vlaprune_bench.sim import plus, pro

    return (*SUITES, *pro.SUITES, *plus.SUITES)


def base_suite(suite: str) -> str:
    """The LIBERO suite a suite comes from; itself for LIBERO's own. No data is needed.

    Raises:
        UserError: no such suite.
    """
    from vlaprune_bench.sim import plus, pro

    if suite in pro.SUITES:
        return suite.rsplit("_", 1)[0]
    if suite in SUITES or suite in plus.SUITES:
        return plus.SUITES.get(suite, suite)
    near = get_close_matches(suite, known_suites(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"suite={suite!r} is unknown; {hint}there are: {', '.join(known_suites())}.")


def list_tasks(suite: str, reading: Reading = "paper") -> tuple[TaskInfo, ...]:
    """The tasks of `suite` in its own order, those that cannot be had included.

    Raises:
        UserError: no such suite, or its data is not installed.
    """
    from vlaprune_bench.sim import plus, pro

    if suite in pro.SUITES:
        return pro.pro_tasks(suite, reading)
    if suite in plus.SUITES:
        return plus.plus_tasks(suite, reading)
    return _libero_tasks(base_suite(suite))


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
    known = sorted({task.dimension for task in listed if not task.refused} - {""})
    if dimension is not None and dimension not in known:
        why = next((t.refused for t in listed if t.dimension == dimension), "")
        there = f"{suite} has {', '.join(known) or 'none'}"
        raise UserError(f"--dimension is {dimension}; {why or 'it is unknown'}: {there}.")
    highest = max(task.base_task for task in listed)
    for base in base_tasks:
        if not 0 <= base <= highest:
            raise UserError(f"--base-tasks has {base}; {suite} comes from tasks 0 to {highest}.")
    for index in tasks:
        task = get_task(suite, index)
        if dimension not in (None, task.dimension) or (
            base_tasks and task.base_task not in base_tasks
        ):
            raise UserError(
                f"--task-ids has {index}; in {suite} that is {task.name}, of dimension "
                f"{task.dimension or 'none'} and base task {task.base_task}."
            )
    return tuple(
        task.index
        for task in listed
        if not task.refused
        and dimension in (None, task.dimension)
        and (not base_tasks or task.base_task in base_tasks)
        and (not tasks or task.index in tasks)
    )


@functools.cache
def _libero_tasks(suite: str) -> tuple[TaskInfo, ...]:
    """The tasks of one of LIBERO's suites in its task order 0."""
    folder = package_folder()
    # Loaded by its path: importing libero.libero.benchmark would import torch for nothing.
    path = folder / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_vlaprune_libero_task_map", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(
        TaskInfo(
            suite=suite,
            index=index,
            name=name,
            instruction=instruction_of(name),
            bddl_file=folder / "bddl_files" / suite / f"{name}.bddl",
            init_states_file=folder / "init_files" / suite / f"{name}.pruned_init",
            base_suite=suite,
            base_task=index,
        )
        for index, name in enumerate(module.libero_task_map[suite])
    )


def get_task(suite: str, task: int, reading: Reading = "paper") -> TaskInfo:
    """One task by its index.

    Raises:
        UserError: no such suite or task, or one that cannot be had.
    """
    tasks = list_tasks(suite, reading)
    if not 0 <= task < len(tasks):
        raise UserError(f"task={task} does not exist in {suite}: choose 0 to {len(tasks) - 1}.")
    info = tasks[task]
    if info.refused:
        raise UserError(f"task={task} of {suite}, {info.name}, cannot be had: {info.refused}.")
    return info


def instruction_of(name: str) -> str:
    """The instruction a task name spells: words after the `..._SCENE<n>_` prefix, if it has one."""
    words = name.split("_")
    if name[0].isupper():
        scene = next(i for i, word in enumerate(words) if word.startswith("SCENE"))
        words = words[scene + 1 :]
    return " ".join(words)


def load_init_states(path: Path) -> np.ndarray:
    """Read the fixed init states of a task WITHOUT running code from the file.

    LIBERO's and LIBERO-Plus's files are `torch.save` archives: a zip with one pickle of a numpy
    array. The pickle is read by an unpickler that knows the constructors of numpy arrays and
    nothing else. LIBERO-PRO's are numpy's own (`.npz`), without any pickle.

    Returns:
        (trials, 1 + nq + nv) float64: time, qpos and qvel of each; a file of one state gives one.

    Raises:
        UserError: the file is missing or damaged, is no such archive, or holds or asks for anything
            but a table of finite numbers.
    """
    try:
        states = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    except (OSError, zipfile.BadZipFile, zlib.error, *_OF_BAD_PICKLES) as error:
        raise UserError(
            f"init states {str(path)!r} cannot be read ({type(error).__name__}: {error}): install "
            "the package they come from again."
        ) from error
    if isinstance(states, np.ndarray) and states.ndim == 1:
        states = states[None]
    if (
        not isinstance(states, np.ndarray)
        or states.dtype != np.float64
        or states.ndim != 2
        or not states.size
        or not np.isfinite(states).all()
    ):
        raise UserError(
            f"init states {str(path)!r} must hold a (trials, n) float64 array of finite numbers."
        )
    return states


def _read_npz(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("states.npy").file_size > MAX_INIT_STATES_BYTES:
            raise ValueError("it is too large to hold init states")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["states"]


def _read_pickle(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if archive.getinfo(member).file_size > MAX_INIT_STATES_BYTES:
            raise ValueError("it is too large to hold init states")
        with archive.open(member) as file:
            return _ArrayUnpickler(file).load()


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            # numpy 1 and numpy 2 name the same function differently
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how protocol 2 spells bytes
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        if name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]
        return super().find_class(module, name)
