"""Choosing a renderer. Backends are faked except where the test says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vlaprune_bench.sim import gl
from vlaprune_bench.types import UserError

VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS")


@pytest.fixture
def probed(monkeypatch):
    """No GL variables; yields (works, probed): fill the one, read the other."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    works: set[str] = set()
    asked: list[str] = []

    def fake(backend, timeout_s=0):
        asked.append(backend)
        return None if backend in works else f"{backend} is broken"

    monkeypatch.setattr(gl, "probe", fake)
    gl.choose_gl.cache_clear()
    yield works, asked
    gl.choose_gl.cache_clear()


def chosen() -> tuple[str, str | None, str | None]:
    return gl.choose_gl(), os.environ.get("MUJOCO_GL"), os.environ.get("PYOPENGL_PLATFORM")


def test_egl_comes_first_and_is_probed_once(probed):
    works, asked = probed
    works |= {"egl", "osmesa"}
    assert chosen() == ("egl", "egl", "egl")
    assert gl.choose_gl() == "egl"
    assert asked == ["egl"]


def test_osmesa_where_egl_fails(probed):
    works, asked = probed
    works.add("osmesa")
    assert chosen() == ("osmesa", "osmesa", "osmesa")
    assert asked == ["egl", "osmesa"]


@pytest.mark.parametrize(
    ("value", "backend", "for_mujoco"),
    [("osmesa", "osmesa", "osmesa"), ("EGL", "egl", "egl"), ("glfw", "glfw", "glx")],
)
def test_mujoco_gl_is_respected(probed, monkeypatch, value, backend, for_mujoco):
    works, asked = probed
    works |= {"egl", "osmesa", "glfw"}
    monkeypatch.setenv("MUJOCO_GL", value)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "something else")
    assert chosen() == (backend, for_mujoco, for_mujoco)
    assert asked == [backend]


def test_a_broken_mujoco_gl_is_not_replaced_silently(probed, monkeypatch):
    works, asked = probed
    works.add("egl")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError, match=r"MUJOCO_GL='osmesa'.*osmesa is broken.*libosmesa6"):
        gl.choose_gl()
    assert asked == ["osmesa"]


def test_an_unknown_mujoco_gl_names_the_valid_ones(probed, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(UserError, match=r"'disabled'.*egl, osmesa, glfw"):
        gl.choose_gl()


def test_nothing_works_says_what_to_install(probed):
    with pytest.raises(UserError) as caught:
        gl.choose_gl()
    message = str(caught.value)
    for part in ("egl is broken", "osmesa is broken", "libegl-mesa0", "libosmesa6"):
        assert part in message
    assert "\n" not in message


def test_llvmpipe_threads_are_set_only_where_unset(probed, monkeypatch):
    works, _ = probed
    works.add("egl")
    gl.choose_gl()
    assert os.environ["LP_NUM_THREADS"] == "0"
    gl.choose_gl.cache_clear()
    monkeypatch.setenv("LP_NUM_THREADS", "3")
    gl.choose_gl()
    assert os.environ["LP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(60)", "no frame within 1 s"),
        ("import os; os.abort()", "exit status -6"),
        ("raise OSError('no such library')", "OSError: no such library"),
    ],
)
def test_a_probe_survives_what_drivers_do(monkeypatch, code, reason):
    monkeypatch.setattr(gl, "_PROBE", code)
    assert gl.probe("egl", timeout_s=1.0) == reason


@pytest.mark.sim
def test_a_real_backend_is_found_without_importing_mujoco_here():
    code = (
        "import sys; from vlaprune_bench.sim.gl import choose_gl; print(choose_gl());"
        "assert not {'mujoco', 'OpenGL', 'robosuite'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in gl.BACKENDS
