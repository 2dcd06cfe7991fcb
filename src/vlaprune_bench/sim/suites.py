"""LIBERO's own suites: their tasks and init states, read without importing libero or torch."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlaprune_bench.sim.package import package_folder
from vlaprune_bench.types import UserError

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
    variants: tuple[Any, ...] = ()
    """What the task itself edits of the scene (`variants.base.Variant`)."""
    max_trials: int | None = None
    """Init states an evaluation of the suite uses; None: all there are."""
    refused: str = ""
    """Why it cannot be had; empty: it can."""


@functools.cache
def libero_tasks(suite: str) -> tuple[TaskInfo, ...]:
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
