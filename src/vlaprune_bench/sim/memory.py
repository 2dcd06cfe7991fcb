"""Give back the memory that building a model leaves behind (hundreds of MiB a process)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def release_compiler() -> None:
    """Drop what MuJoCo keeps for compiling the same assets again, and return free pages.

    MuJoCo caches decoded and processed meshes, and holds on to the last XML it parsed; a process
    that builds one model a task needs neither. Nothing a simulation computes depends on either.
    """
    import mujoco

    (library,) = list(Path(mujoco.__file__).parent.glob("libmujoco*.*"))[:1]
    native = ctypes.CDLL(str(library))
    native.mj_globalCache.restype = ctypes.c_void_p
    native.mj_setCacheSize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    native.mj_setCacheSize(native.mj_globalCache(), 0)
    mujoco.MjModel.from_xml_string("<mujoco/>")  # becomes the last XML
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
