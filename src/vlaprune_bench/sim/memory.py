"""Give back the memory that building a model leaves behind (hundreds of MiB a process)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def cache_no_assets() -> None:
    """Keep MuJoCo from caching processed meshes for the next compilation (some 150 MiB).

    Call it before the first model is compiled: MuJoCo 3.3.2 crashes when a cache in use is made
    smaller. A process that builds one model a task gains nothing from the cache.
    """
    import mujoco

    for library in Path(mujoco.__file__).parent.glob("libmujoco*.*"):
        native = ctypes.CDLL(str(library))
        native.mj_globalCache.restype = ctypes.c_void_p
        native.mj_setCacheSize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        native.mj_setCacheSize(native.mj_globalCache(), 0)


def release_leftovers() -> None:
    """Drop what building and uploading a model leaves behind (some 200 MiB).

    That is the model MuJoCo keeps to save its XML again, and free pages the allocator holds.
    """
    import mujoco

    mujoco.MjModel.from_xml_string("<mujoco/>")  # becomes the one that is kept
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
