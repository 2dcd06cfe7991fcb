"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaprune_bench.sim.assets import INSTALL, AssetSet, find_wheels, resolve_assets

SHARED = (Path(__file__).parents[1] / "../shared").resolve()


@pytest.fixture(scope="session")
def real_assets() -> AssetSet:
    """LIBERO's own meshes and textures, from the installed wheels."""
    if find_wheels() is None:
        pytest.skip(f"needs LIBERO's assets: {INSTALL}")
    return resolve_assets("pip", "real")
