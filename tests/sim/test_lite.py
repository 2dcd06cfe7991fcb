"""The lite assets as files, and the bowl of libero_spatial; the tasks are in test_lite_suites."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.lite_rig import STAY, loaded, move
from vlaprune_bench.lite.arena import ARENAS
from vlaprune_bench.lite.build import COVERED_SUITES, MARKER, build_lite, generator_hash
from vlaprune_bench.lite.objects import OBJECTS
from vlaprune_bench.lite.textures import SURFACES
from vlaprune_bench.sim.assets import AssetSet, hash_lite
from vlaprune_bench.types import UserError


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lite(tmp_path_factory.mktemp("lite"))


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_two_builds_agree_byte_for_byte(lite: Path, tmp_path: Path) -> None:
    again = build_lite(tmp_path)
    assert again.parent == tmp_path
    assert files_of(again) == files_of(lite)


def test_threads_may_race_for_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(build_lite, [tmp_path] * 2))
    assert set(folders) == {tmp_path / f"lite-{generator_hash()}"}
    assert list(tmp_path.iterdir()) == [folders[0]]  # no temporary folder stays behind
    before = (folders[0] / MARKER).stat().st_mtime_ns
    assert build_lite(tmp_path) == folders[0]
    assert (folders[0] / MARKER).stat().st_mtime_ns == before


def test_marker_names_every_entry(lite: Path) -> None:
    marker = json.loads((lite / MARKER).read_text())
    assert marker["generator"] == generator_hash()
    assert set(OBJECTS) <= set(marker["entries"]["objects"])
    for arena in ARENAS:
        assert (lite / "scenes" / f"{arena}.xml").is_file()
    for texture in SURFACES:
        assert (lite / "textures" / texture).is_file()


def test_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"lite-{generator_hash()}").mkdir()
    with pytest.raises(UserError, match=r"lack vlaprune-lite\.json"):
        build_lite(tmp_path)


@pytest.mark.sim
def test_every_floor_and_wall_style_has_its_picture(lite: Path) -> None:
    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from libero.libero.envs.arenas.style import STYLE_MAPPING
    from libero.libero.envs.textures import TEXTURE_MAPPING

    named = {name for styles in STYLE_MAPPING.values() for name in styles.values()}
    assert named | set(TEXTURE_MAPPING.values()) <= set(SURFACES)


@pytest.mark.sim
def test_bowl_dropped_on_the_plate_rests_there(lite: Path) -> None:
    with loaded(lite, "libero_spatial", 2) as scene:
        env = scene.env
        scene.start(0)
        for _ in range(20):
            env.step(STAY)
        pose = env.sim.data.get_joint_qpos("plate_1_joint0").copy()
        pose[:3] += (0.01, -0.005, 0.10)
        env.sim.data.set_joint_qpos("akita_black_bowl_1_joint0", pose)
        env.sim.data.set_joint_qvel("akita_black_bowl_1_joint0", np.zeros(6))
        env.sim.forward()
        assert not env.check_success()
        for _ in range(40):
            env.step(STAY)
        assert env.check_success()
        body = env.env.obj_body_id["akita_black_bowl_1"]
        assert env.sim.data.body_xmat[body][8] > 0.999
        assert np.abs(env.sim.data.get_joint_qvel("akita_black_bowl_1_joint0")).max() < 0.01


@pytest.mark.sim
def test_bowl_can_be_gripped_by_its_rim_lifted_and_placed(lite: Path) -> None:
    bowl, plate, rim = "akita_black_bowl_1_pos", "plate_1_pos", np.array([0, -0.049, 0.043])
    up, down = np.array([0, 0, 0.10]), np.array([0, 0, 0.012])
    with loaded(lite, "libero_spatial", 0) as scene:
        env = scene.env
        scene.start(0)
        for _ in range(10):
            observed, *_ = env.step(STAY)
        move(env, lambda seen: seen[bowl] + rim + up, -1, 60)
        observed = move(env, lambda seen: seen[bowl] + rim, -1, 60)
        for _ in range(14):
            env.step([0, 0, 0, 0, 0, 0, 1])
        rest, lifted = observed[bowl], observed["robot0_eef_pos"] + up
        observed = move(env, lambda seen: lifted, 1, 40)
        assert observed[bowl][2] > rest[2] + 0.08, "the bowl was not lifted"
        assert not env.check_success()
        move(env, lambda s: s[plate] + s["robot0_eef_pos"] - s[bowl] + up, 1, 60)
        move(env, lambda s: s[plate] + s["robot0_eef_pos"] - s[bowl] + down, 1, 40)
        for _ in range(6):
            env.step(STAY)
        observed = env.env._get_observations()
        move(env, lambda seen, away=observed["robot0_eef_pos"] + up: away, -1, 40)
        assert env.check_success()


def test_covered_suites_have_an_entry_for_everything_they_name(lite: Path) -> None:
    from vlaprune_bench.sim.tasks import list_tasks

    entries = json.loads((lite / MARKER).read_text())["entries"]
    tables = {"table", "floor", "kitchen_table", "living_room_table", "study_table"}
    known = {*entries["objects"], *entries["fixtures"], *tables}
    for suite in COVERED_SUITES:
        for task in list_tasks(suite):
            named = re.findall(r"^ +[\w ]+ - (\w+)$", task.bddl_file.read_text(), re.MULTILINE)
            assert named, task.bddl_file
            assert set(named) <= known, task.name


def test_assets_are_small(lite: Path) -> None:
    assert sum(path.stat().st_size for path in lite.rglob("*") if path.is_file()) < 5e6


def test_hash_follows_pixels_not_their_compression(lite: Path, tmp_path: Path) -> None:
    """Another zlib or Pillow packs the same picture into other bytes: that is the same set."""
    copies = [tmp_path / name for name in ("same", "other")]
    for copy in copies:
        shutil.copytree(lite, copy)
    for picture in copies[0].rglob("*.png"):
        Image.open(picture).save(picture, compress_level=0)
    changed = copies[1] / "textures" / "white_wall.png"
    image = Image.open(changed)
    image.putpixel((3, 5), (0, 0, 0))
    image.save(changed)

    assert changed.read_bytes() != (lite / "textures" / "white_wall.png").read_bytes()
    assert hash_lite(copies[0]) == hash_lite(lite)
    assert hash_lite(copies[1]) != hash_lite(lite)


@pytest.mark.sim
@pytest.mark.parametrize(
    ("file", "suite", "task"),
    [
        ("stable_hope_objects/ketchup/ketchup.xml", "libero_object", 4),
        ("articulated_objects/microwave.xml", "libero_10", 9),
        ("scenes/libero_study_base_style.xml", "libero_10", 5),
        ("stable_scanned_objects/akita_black_bowl/akita_black_bowl.xml", "libero_90", 0),
    ],
)
def test_missing_entry_is_refused_by_name(
    lite: Path, tmp_path: Path, file: str, suite: str, task: int
) -> None:
    """Before the first step: making the environment needs every file of the task.

    The folder as a whole is refused before that (see `test_robustness`), so here it is passed by.
    """
    from vlaprune_bench.sim.libero import LiberoTask
    from vlaprune_bench.sim.tasks import TaskKey

    folder = tmp_path / "lite"
    shutil.copytree(lite, folder)
    (folder / file).unlink()
    env = LiberoTask(TaskKey(suite, task, AssetSet("lite", folder, "")))
    with env, pytest.raises(UserError, match=rf"lite assets .* lack .*{file}.*{suite} task {task}"):
        env.reset(0)
