"""What can break around the simulator: each time a reason is given, and never a wrong frame."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import UserError

pytestmark = pytest.mark.sim

STAY = np.array([0, 0, 0, 0, 0, 0, -1.0])
PATHS = [
    ("fast", "lazy"),
    ("reference", "lazy"),
    pytest.param("reference", "always", marks=pytest.mark.heavy),
]


BAD = [("qvel", np.nan), ("qpos", np.inf), ("qvel", 1e11), ("qvel", 1e6)]
"""Not a number, infinite, beyond MuJoCo's bound, and finite but diverging."""


@pytest.mark.parametrize("sim", ["fast", "reference"])
def test_a_bad_state_is_an_error_with_a_reason_and_the_next_reset_is_sound(lite_assets, sim):
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, sim=sim)) as task:
        task.reset(0)
        wanted = task.step(STAY, look=True)[0]
        for field, value in BAD:
            getattr(task._environment.env.sim.data, field)[9] = value
            with pytest.raises(RuntimeError, match=r"task 0: .* became unstable at step \d+ \(\w"):
                play(task, 20)
            with pytest.raises(RuntimeError, match="reset it before stepping"):
                task.step(STAY, look=False)
            task.reset(0)
            again = task.step(STAY, look=True)[0]
            np.testing.assert_array_equal(again.images, wanted.images)
            np.testing.assert_array_equal(again.eef_pos, wanted.eef_pos)


def play(task: LiberoTask, steps: int) -> None:
    for _ in range(steps):
        task.step(STAY, look=False)


@pytest.mark.parametrize(("sim", "render"), PATHS)
def test_gl_contexts_that_are_lost_or_not_current(lite_assets, sim, render):
    """OpenGL itself would go on and draw another picture without a word."""
    import mujoco

    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, sim=sim), render=render) as task:
        first = task.reset(0).images
        wanted = task.step(STAY, look=True)[0].images
        task.reset(0)
        other = mujoco.GLContext(64, 64)
        other.make_current()  # does no harm
        np.testing.assert_array_equal(task.step(STAY, look=True)[0].images, wanted)
        other.free()

        task._environment.env.sim._render_context_offscreen.gl_ctx.free()
        if render == "lazy":
            task.step(STAY, look=False)  # nobody looks, nothing is wrong
        with pytest.raises(RuntimeError, match="no frame: the GL context was freed"):
            task.step(STAY, look=True)
        with pytest.raises(RuntimeError, match="reset it before stepping"):
            task.step(STAY, look=False)
        np.testing.assert_array_equal(task.reset(0).images, first)


def test_errors_opengl_reports_after_drawing_void_the_frame(monkeypatch):
    from types import SimpleNamespace

    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from OpenGL import GL, platform

    from vlaprune_bench.sim.gl import drawing

    context = SimpleNamespace(gl_ctx=SimpleNamespace(make_current=lambda: None))
    monkeypatch.setattr(platform, "GetCurrentContext", lambda: 1)
    for code, reason in ((0x0507, "its context is lost"), (0x0505, "out of memory")):
        monkeypatch.setattr(GL, "glGetError", lambda code=code: code)
        with (
            pytest.raises(RuntimeError, match=f"no frame: OpenGL reports .*{reason}"),
            drawing(context),
        ):
            pass


def test_another_thread_gets_the_right_frame_or_an_error(lite_assets):
    """The context is current in the first thread, so here it is the error."""
    caught = []

    def look() -> None:
        try:
            task.step(STAY, look=True)
        except RuntimeError as error:
            caught.append(str(error))

    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets)) as task:
        wanted = task.reset(0).images
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert len(caught) == 1
        assert "the GL context is lost or another thread's" in caught[0]
        np.testing.assert_array_equal(task.reset(0).images, wanted)


def test_a_fork_is_refused(lite_assets):
    """The copy of a GL context may draw anything, or hang; the parent goes on."""
    code = """
import os, sys
import numpy as np
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey

assets = resolve_assets("lite", "lite")
with LiberoTask(TaskKey("libero_spatial", 0, assets)) as task:
    first = task.reset(0).images
    stay = np.array([0, 0, 0, 0, 0, 0, -1.0])
    child = os.fork()
    if not child:
        for attempt in (
            lambda: task.step(stay, look=False),
            lambda: task.reset(0),
            lambda: LiberoTask(TaskKey("libero_spatial", 1, assets)).reset(0),
        ):
            try:
                attempt()
            except RuntimeError as error:
                print(error, flush=True)
        sys.exit(0)  # with all that runs at the end of a process
    print("child ended with", os.waitpid(child, 0)[1], flush=True)
    task.step(stay, look=True)
    assert (task.reset(0).images == first).all()
print("parent went on")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *refusals, child, parent = done.stdout.splitlines()
    assert len(refusals) == 3
    assert all("cannot go on in its fork" in line for line in refusals)
    assert (child, parent) == ("child ended with 0", "parent went on")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


BOWL = "stable_scanned_objects/akita_black_bowl"


@pytest.mark.parametrize("damage", [Path.unlink, cut, scramble])
@pytest.mark.parametrize("name", ["body.obj", "picture.png", "akita_black_bowl.xml"])
def test_a_damaged_lite_folder_is_refused_at_once(lite_assets, tmp_path, name, damage):
    """MuJoCo would load half a mesh in text form, and show it."""
    folder = tmp_path / "lite"
    shutil.copytree(lite_assets.path, folder)
    damage(folder / BOWL / name)
    what = "lack" if damage is Path.unlink else "are damaged,"
    with pytest.raises(UserError, match=rf"lite assets .* {what} '{BOWL}/{name}'.*delete that"):
        resolve_assets(str(folder), "lite")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": '])
def test_a_damaged_marker_is_refused(lite_assets, tmp_path, content):
    (tmp_path / "vlaprune-lite.json").write_text(content)
    with pytest.raises(UserError, match=r"vlaprune-lite\.json is damaged, delete that folder"):
        resolve_assets(str(tmp_path), "lite")


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("body.obj", Path.unlink, "akita_black_bowl/body.obj': No such file"),
        ("body.obj", scramble, "akita_black_bowl_.*body"),
        ("picture.png", Path.unlink, "akita_black_bowl/picture.png': No such file"),
        ("picture.png", cut, "akita_black_bowl/picture.png"),
        ("picture.png", scramble, "akita_black_bowl/picture.png"),
        ("akita_black_bowl.xml", Path.unlink, "lack .*akita_black_bowl.xml"),
        ("akita_black_bowl.xml", cut, "akita_black_bowl.xml' is no XML"),
        ("akita_black_bowl.xml", scramble, "akita_black_bowl.xml' is no XML"),
    ],
)
def test_files_that_vanish_or_change_later_are_named(lite_assets, tmp_path, name, damage, named):
    """After the folder was looked through, or in one that is not ours: MuJoCo's words."""
    folder = tmp_path / "set"
    shutil.copytree(lite_assets.path, folder)
    damage(folder / BOWL / name)
    with (
        LiberoTask(TaskKey("libero_spatial", 0, AssetSet("real", folder, ""))) as task,
        pytest.raises(UserError, match=f"(?s)real assets in .*{named}.*other --assets") as caught,
    ):
        task.reset(0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, scramble])
def test_damaged_published_meshes_are_named(real_assets, tmp_path, damage):
    folder = tmp_path / "set"
    shutil.copytree(real_assets.path, folder)
    mesh = next(folder.glob(f"{BOWL}/**/*.msh"))
    damage(mesh)
    assets = resolve_assets(str(folder), "real")
    assert assets.hash != real_assets.hash  # its episodes are others, and the file is named
    assert assets.changed == (mesh.relative_to(folder).as_posix(),)
    with (
        LiberoTask(TaskKey("libero_spatial", 0, assets)) as task,
        pytest.raises(UserError, match=rf"real assets in .*{mesh.name}.*other --assets"),
    ):
        task.reset(0)
