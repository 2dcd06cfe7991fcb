"""How a row was made: package versions, source revision, hardware."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

MODULES = {
    "vlaprune-bench": "vlaprune_bench",
    "torch": "torch",
    "transformers": "transformers",
    "mujoco": "mujoco",
    "robosuite": "robosuite",
    "hf-libero": "libero",
    "numpy": "numpy",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
}
"""Packages whose version can move a result, and what is imported of them."""


@cache
def versions() -> str:
    """Versions of what can move a result, JSON; null: not installed as a package.

    Where another package of the same import name comes first on the path, its folder is named.
    """
    found: dict[str, str | None] = {"python": platform.python_version(), "blas": blas()}
    for package, module in MODULES.items():
        try:
            found[package] = _version(package, module)
        except PackageNotFoundError:
            found[package] = None
    return json.dumps(found)


def blas() -> str:
    """NumPy's linear algebra with the kernels it chose, as "openblas 0.3.31 Haswell".

    It chooses by processor, or by OPENBLAS_CORETYPE in the environment, and the products of the
    simulator's controller follow in the last bit: the same episode then goes another way.
    """
    import numpy as np
    from threadpoolctl import threadpool_info

    folder = str(Path(np.__file__).parent)
    for library in threadpool_info():
        if library["user_api"] == "blas" and library["filepath"].startswith(folder):
            parts = library["internal_api"], library["version"], library.get("architecture")
            return " ".join(part for part in parts if part)
    return "unknown"


def _version(package: str, module: str) -> str:
    installed = distribution(package)
    spec = find_spec(module)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    files = {installed.locate_file(file) for file in installed.files or ()}
    ours = folder is None or any(Path(str(file)).is_relative_to(folder) for file in files)
    # an editable installation has no files of its own at that place
    if ours or package == "vlaprune-bench":
        return installed.version
    return f"{installed.version}, but {folder} is imported"


@cache
def git_revision() -> str | None:
    """Revision of the source tree, `-dirty` where it has changes; None outside a git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or not a checkout: the row says null
    return described.stdout.strip()
