"""The registry of pruning methods: every module of this folder that registers a `Pruner`, and
those that other installed packages name as entry points of the group `vlaprune_bench.methods`:

    [project.entry-points."vlaprune_bench.methods"]
    loudest = "my_package.loudest"

An entry point has the name its module registers a method under. The module is imported wherever
methods are looked up, `--help` included: it should import torch where it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from vlaprune_bench.files import user_path
from vlaprune_bench.pruning.base import BudgetPruner, PruneContext, Pruner, ScoredPruner, Selection
from vlaprune_bench.pruning.options import option
from vlaprune_bench.types import UserError

__all__ = [
    "BudgetPruner",
    "PruneContext",
    "Pruner",
    "ScoredPruner",
    "Selection",
    "load_plugin",
    "method_class",
    "methods",
    "option",
]

ENTRY_POINTS = "vlaprune_bench.methods"
"""Group of entry points by which other packages bring methods."""


def methods() -> dict[str, type[Pruner]]:
    """Every registered method by name. Imports the method files, but neither torch nor a model.

    Raises:
        UserError: an installed package's method cannot be imported.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    _load_installed()
    return dict(sorted(Pruner.get_known_choices().items()))


@cache
def _load_installed() -> None:
    """Import the methods of other packages, once."""
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist else "an unnamed package"
        about = f"package {package}: its pruning method {entry.name} ({entry.value})"
        try:
            entry.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
            raise UserError(
                f"{about} cannot be imported: {reason}; repair or uninstall the package."
            ) from error
        if entry.name not in Pruner.get_known_choices():
            raise UserError(
                f"{about} registers no method of that name; the entry point must have the name "
                "given to Pruner.register_subclass."
            )


def method_class(name: str, flag: str = "--method") -> type[Pruner]:
    """The class registered as `name`, which was the value of `flag`.

    Raises:
        UserError: there is no such method.
    """
    known = methods()
    if not isinstance(name, str) or name not in known:
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{flag} is {name}; {hint}there are: {', '.join(known)}.")
    return known[name]


def load_plugin(path: Path) -> None:
    """Import a file of your own that registers methods.

    Raises:
        UserError: there is no such file, or it is no Python.
    """
    path = user_path(path)
    if not path.is_file():
        raise UserError(f"--plugin is {path}; it must be a Python file that registers a method.")
    try:
        compile(path.read_bytes(), path, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, before Python 3.11.4
        raise UserError(f"--plugin is {path}; it cannot be read as Python: {error}.") from error
    name = f"vlaprune_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
