"""Which OpenGL backend renders: found by trying, in another process, before mujoco is imported.

Both mujoco and robosuite read `MUJOCO_GL` while they are imported and cannot be talked out of it
later, so the choice is made first and written to the environment, where child processes find it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from vlaprune_bench.types import UserError

BACKENDS = ("egl", "osmesa", "glfw")
PROBE_TIMEOUT_S = 60.0

DEBIAN = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0"
"""Debian's packages of a renderer in software; PyOpenGL finds its functions in libgl1, and OpenCV,
which robosuite imports, needs it and libglib2.0-0."""
_INSTALL = (
    f"on Debian or Ubuntu install a renderer with `apt install {DEBIAN}` (EGL) or "
    "`apt install libosmesa6` (OSMesa)"
)
# robosuite 1.4.1 turns MUJOCO_GL=glfw into egl on Linux; "glx" is the spelling it leaves alone, and
# mujoco takes it for glfw as well.
_MUJOCO_GL = {"egl": "egl", "osmesa": "osmesa", "glfw": "glx"}
_PYOPENGL = {"egl": "egl", "osmesa": "osmesa", "glfw": "glx"}
_FATAL = {0x0505: "that it is out of memory", 0x0507: "that its context is lost"}
"""Error codes after which a frame means nothing; drivers report others of no consequence."""
_PROBE = """
import os, sys
try:
    import mujoco
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 16, 16)
    renderer.update_scene(data)
    assert renderer.render().max() > 0, "the rendered frame is black"
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # past the destructors, which complain about what was never made
"""


@functools.cache
def choose_gl() -> str:
    """Choose a backend that renders and point mujoco, robosuite and PyOpenGL at it.

    `MUJOCO_GL` is respected where set; otherwise EGL is tried before OSMesa. Probed once a process.
    Sets `MUJOCO_GL`, `PYOPENGL_PLATFORM` and, where unset, `LP_NUM_THREADS=0` (Mesa's software
    renderer then draws on the calling thread, the simplest with one worker a core). No pixel
    depends on that.

    Returns:
        "egl", "osmesa" or "glfw".

    Raises:
        UserError: `MUJOCO_GL` names no backend, or no backend renders here.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    asked = "glfw" if asked == "glx" else asked
    if asked and asked not in BACKENDS:
        raise UserError(
            f"MUJOCO_GL={asked!r} names no off-screen renderer: "
            f"set it to one of {', '.join(BACKENDS)}, or unset it to let one be chosen."
        )
    candidates = (asked,) if asked else ("egl", "osmesa")
    failures = {}
    for backend in candidates:
        reason = probe(backend)
        if reason is None:
            os.environ.update(gl_environment(backend))
            return backend
        failures[backend] = reason
    tried = "; ".join(f"{backend}: {reason}" for backend, reason in failures.items())
    where = (
        f"MUJOCO_GL={asked!r} does not render here" if asked else "No OpenGL renderer works here"
    )
    raise UserError(f"{where} ({tried}): {_INSTALL}.")


def gl_environment(backend: str) -> dict[str, str]:
    """The environment variables that make mujoco, robosuite and PyOpenGL use `backend`."""
    return {"MUJOCO_GL": _MUJOCO_GL[backend], "PYOPENGL_PLATFORM": _PYOPENGL[backend]}


def probe(backend: str, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Render one small frame with `backend` in a fresh process (about 0.3 s).

    A process of its own, because a broken driver may abort or hang, and because a failed attempt
    would leave mujoco imported for the wrong backend.

    Returns:
        None where it works, else why not, in a few words.
    """
    environment = {**os.environ, **gl_environment(backend)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"no frame within {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


@contextlib.contextmanager
def drawing(context: Any) -> Iterator[None]:
    """Make sure that what is rendered inside the block comes from `context`, or say why not.

    OpenGL itself stays silent: without a context, or with a lost one, it draws nothing and hands
    out whatever the buffer holds.

    Args:
        context: robosuite's offscreen context.

    Raises:
        RuntimeError: the context was freed or lost, or is another thread's.
    """
    from OpenGL import GL, error, platform

    try:
        context.gl_ctx.make_current()
    except (error.Error, RuntimeError) as failure:
        reason = getattr(getattr(failure, "err", None), "name", failure)
        raise RuntimeError(
            f"no frame: the GL context is lost or another thread's ({reason})"
        ) from failure
    if not platform.GetCurrentContext():
        raise RuntimeError("no frame: the GL context was freed")
    for _ in range(8):  # old errors are not ours; a lost context never stops to report one
        if GL.glGetError() == GL.GL_NO_ERROR:
            break
    yield
    reason = _FATAL.get(GL.glGetError())
    if reason is not None:
        raise RuntimeError(f"no frame: OpenGL reports {reason}")
