"""How a row was made: package versions, source revision, hardware."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "vlaprune-bench",
    "torch",
    "transformers",
    "mujoco",
    "robosuite",
    "hf-libero",
    "numpy",
    "pillow",
    "simplejpeg",
)


@cache
def versions() -> str:
    """Versions of what can move a result, JSON; null: not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return json.dumps(found)


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
