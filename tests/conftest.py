"""Fixtures shared by all tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.package import cache_root

SHARED = (Path(__file__).parents[1] / "../shared").resolve()

TIMEOUTS = {"heavy": 7200, "smoke": 300, "slow": 300, "sim": 300}
"""Seconds for tests of a marker, the first that fits; others have pyproject's. A hang costs that
much, not the run; a busy machine must not fail a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = next((name for name in TIMEOUTS if item.get_closest_marker(name)), None)
        if marker and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUTS[marker]))


@pytest.fixture(scope="session")
def real_assets() -> AssetSet:
    """The published LIBERO assets, unpacked once from an archive beside the checkout."""
    archive = SHARED / "libero-assets.tar.xz"
    if not archive.is_file():
        pytest.skip(f"needs the published LIBERO assets: {archive} is absent")
    return resolve_assets(str(_unpack_once(archive) / "libero-assets"), "real")


def _unpack_once(archive: Path) -> Path:
    """Unpack below the cache, in place as a whole or not at all (test processes may race)."""
    key = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    folder = cache_root() / "tests" / f"assets-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        try:
            os.rename(temporary, folder)
        except OSError:
            shutil.rmtree(temporary)  # another process was first
            if not folder.is_dir():
                raise
    return folder
