"""The controller's compilation: once a machine, said beforehand, on no episode's clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vlaprune_bench.sim.package import place_numba_cache

_listener: Any = None


def is_compiled() -> bool:
    """Whether numba has the controller in its cache, as far as the names of files tell."""
    place_numba_cache()
    folders = [Path(__file__).with_name("__pycache__")]
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        folders = [Path(given)]
    return any(next(folder.rglob("controller.advance-*.nbi"), None) for folder in folders)


def watch() -> None:
    """Add up, from now on, what compiling takes in this process."""
    global _listener
    from numba.core.event import TimingListener, register

    _listener = TimingListener()
    register("numba:compile", _listener)


def compile_s() -> float:
    """Seconds spent compiling in this process since `watch`; 0 where nothing watches."""
    return _listener.duration if _listener is not None and _listener.done else 0.0
