"""Fixtures shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlaprune_bench.sim.assets import INSTALL, AssetSet, find_wheels, resolve_assets

SHARED = (Path(__file__).parents[1] / "../shared").resolve()

TIMEOUTS = {"heavy": 7200, "smoke": 300, "slow": 300, "sim": 300}
"""Seconds for tests of a marker, the first that fits; others have pyproject's. A hang costs that
much, not the run; a busy machine must not fail a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = next((name for name in TIMEOUTS if item.get_closest_marker(name)), None)
        if marker and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUTS[marker]))


def pytest_collection_finish() -> None:
    """Whoever imports mujoco first decides which renderer a whole process has: see `sim.gl`."""
    if "mujoco" in sys.modules:
        raise pytest.UsageError(
            "a test file imports mujoco or robosuite while it is collected, before a renderer is "
            "chosen: import it in the tests."
        )


@pytest.fixture(scope="session")
def real_assets() -> AssetSet:
    """LIBERO's own meshes and textures, from the installed wheels."""
    if find_wheels() is None:
        pytest.skip(f"needs LIBERO's assets: {INSTALL}")
    return resolve_assets("pip", "real")


@pytest.fixture(scope="session")
def lite_assets() -> AssetSet:
    """Our own light meshes and textures, embedded."""
    return resolve_assets("lite", "lite")
