"""The lite assets: the same at every build, laid out as LIBERO's, stable, and graspable."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.assets.lite import COVERED_SUITES, MARKER, build_lite, generator_hash
from vlaprune_bench.sim.assets.lite_arena import ARENAS
from vlaprune_bench.sim.assets.lite_objects import OBJECTS
from vlaprune_bench.sim.assets.lite_textures import SURFACES
from vlaprune_bench.types import OPENVLA_PROTOCOL, UserError

SUITE = "libero_spatial"
STAY = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]

# Heights (m, world) of what the init states put things on, and of each object's lowest point.
SUPPORTS = {
    "main_table": 0.900,
    "cookies_1": 0.9188,
    "glazed_rim_porcelain_ramekin_1": 0.9325,
    "flat_stove_1_cook_region": 0.9305,
    "wooden_cabinet_1_top_side": 1.1280,
    "wooden_cabinet_1_top_region": 1.0642,
}
LOWEST = {"akita": 0.0016, "cookies": -0.0094, "glazed": 0.0007, "plate": -0.0021}


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lite(tmp_path_factory.mktemp("lite"))


@contextmanager
def environment(folder: Path, task: int) -> Iterator[Any]:
    """LIBERO's environment of a task after one hard reset, without rendering."""
    from vlaprune_bench.sim.environment import SeededEnvironment
    from vlaprune_bench.sim.tasks import get_task

    kind = "lite" if (folder / MARKER).is_file() else "real"
    assets = AssetSet(kind=kind, path=folder, hash="")
    seeded = SeededEnvironment(get_task(SUITE, task), assets, OPENVLA_PROTOCOL, lazy=True)
    try:
        seeded.hard_reset(visible=False)
        yield seeded.env
    finally:
        seeded.close()


def init_states(task: int) -> np.ndarray:
    from vlaprune_bench.sim.tasks import get_task, load_init_states

    return load_init_states(get_task(SUITE, task).init_states_file)


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_two_builds_agree_byte_for_byte(lite: Path, tmp_path: Path) -> None:
    again = build_lite(tmp_path)
    assert again.parent == tmp_path
    assert files_of(again) == files_of(lite)


def test_threads_may_race_for_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(build_lite, [tmp_path] * 3))
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


def layout(env: Any) -> dict[str, Any]:
    """What init states, samplers and predicates rely on, by name."""
    model, data = env.sim.model, env.sim.data
    env.sim.forward()
    joints = [
        (name, int(model.jnt_type[k]), int(model.jnt_qposadr[k]), int(model.jnt_dofadr[k]))
        for k, name in enumerate(model.joint_names)
    ]
    return {
        "joints": joints,
        "ranges": model.jnt_range.copy(),
        "axes": model.jnt_axis.copy(),
        "damping": model.dof_damping.copy(),
        "bodies": set(model.body_names),
        "masses": dict(zip(model.body_names, model.body_mass, strict=True)),
        "sites": {
            name: np.concatenate([data.get_site_xpos(name), model.site_size[k]])
            for k, name in enumerate(model.site_names)
        },
        "fixtures": {
            name: data.get_body_xpos(f"{name}_main").copy()
            for name in env.env.fixtures_dict
            if name != "main_table"
        },
    }


def predicates(env: Any) -> list[bool]:
    """The task's success with its bowl on the plate's middle, 5 cm off it, beside it, above it."""
    plate = env.sim.data.get_joint_qpos("plate_1_joint0").copy()
    plate[2] = 0.9022
    values = []
    for shift in ((0, 0, 0.003), (0.05, 0, 0.02), (0.2, 0, 0), (0, 0, 0.15)):
        env.sim.data.set_joint_qpos("plate_1_joint0", plate)
        pose = plate.copy()
        pose[:3] += shift
        env.sim.data.set_joint_qpos("akita_black_bowl_1_joint0", pose)
        env.sim.forward()
        values.append(bool(env.check_success()))
    return values


@pytest.mark.sim
@pytest.mark.parametrize("task", range(10))
def test_layout_and_predicates_agree_with_the_real_assets(
    lite: Path, real_assets: AssetSet, task: int
) -> None:
    state = init_states(task)[0]
    seen = []
    for folder in (real_assets.path, lite):
        with environment(folder, task) as env:
            env.set_init_state(state)
            seen.append((layout(env), predicates(env)))
    (real, real_success), (ours, our_success) = seen

    assert ours["joints"] == real["joints"]
    for key in ("ranges", "axes", "damping"):
        np.testing.assert_allclose(ours[key], real[key], atol=1e-9, err_msg=key)
    assert ours["bodies"] == real["bodies"]
    assert set(ours["sites"]) == set(real["sites"])
    for name, place in real["sites"].items():
        np.testing.assert_allclose(ours["sites"][name], place, atol=1e-6, err_msg=name)
    for name, place in real["fixtures"].items():  # both sets draw the same scene
        np.testing.assert_allclose(ours["fixtures"][name], place, atol=1e-9, err_msg=name)
    for name, mass in real["masses"].items():
        if name.startswith(tuple(LOWEST)) or "cabinet_" in name or "button" in name:
            assert ours["masses"][name] == pytest.approx(mass, rel=0.3), name
    assert our_success == real_success == [True, False, False, False]


def check_settled(env: Any, task: int, trials: range) -> None:
    """From each init state, 30 steps: nothing falls off, sinks, tips over or keeps moving."""
    objects = env.env.objects_dict
    bodies = [env.env.obj_body_id[name] for name in objects]
    below = dict.fromkeys(objects, "main_table")
    for _, name, place in (s for s in env.env.parsed_problem["initial_state"] if len(s) == 3):
        if name in below and place in SUPPORTS:
            below[name] = place
    for trial, state in ((k, init_states(task)[k]) for k in trials):
        env.set_init_state(state)
        start = env.sim.data.body_xpos[bodies].copy()
        for _ in range(28):
            env.step(STAY)
        late = env.sim.data.body_xpos[bodies].copy()
        for _ in range(2):
            env.step(STAY)
        place = env.sim.data.body_xpos[bodies]
        tilt = env.sim.data.body_xmat[bodies][:, 8]
        for k, name in enumerate(objects):
            where = f"task {task} trial {trial}: {name}"
            height = place[k, 2] + LOWEST[name.split("_")[0]] - SUPPORTS[below[name]]
            assert -0.005 < height < 0.008, f"{where} is {height:.4f} m above {below[name]}"
            moved = np.linalg.norm(place[k, :2] - start[k, :2])
            assert moved < 0.025, f"{where} moved {moved:.4f} m"
            assert tilt[k] > 0.97, f"{where} leans"
            assert np.linalg.norm(place[k] - late[k]) < 0.001, f"{where} still moves"


@pytest.mark.sim
@pytest.mark.parametrize("task", [0, 4, 5])
def test_init_states_settle(lite: Path, task: int) -> None:
    with environment(lite, task) as env:
        check_settled(env, task, range(2))


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("task", range(10))
def test_every_init_state_settles(lite: Path, task: int) -> None:
    with environment(lite, task) as env:
        check_settled(env, task, range(50))


@pytest.mark.sim
def test_bowl_dropped_on_the_plate_rests_there(lite: Path) -> None:
    with environment(lite, 2) as env:
        env.set_init_state(init_states(2)[0])
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


def move(
    env: Any, goal: Callable[[dict[str, np.ndarray]], np.ndarray], grip: float, steps: int
) -> dict[str, np.ndarray]:
    """Steer the gripper to `goal(observables)`; stops within 6 mm, or after `steps`."""
    observed = env.env._get_observations()
    for _ in range(steps):
        error = goal(observed) - observed["robot0_eef_pos"]
        if np.linalg.norm(error) < 0.006:
            break
        step = 1.6 * error / 0.05
        step /= max(1.0, np.abs(step).max())
        observed, *_ = env.step([*step, 0.0, 0.0, 0.0, grip])
    return observed


@pytest.mark.sim
def test_bowl_can_be_gripped_by_its_rim_lifted_and_placed(lite: Path) -> None:
    bowl, plate, rim = "akita_black_bowl_1_pos", "plate_1_pos", np.array([0, -0.049, 0.043])
    up, down = np.array([0, 0, 0.10]), np.array([0, 0, 0.012])
    with environment(lite, 0) as env:
        env.set_init_state(init_states(0)[0])
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
    known = {*entries["objects"], *entries["fixtures"], "table", "floor"}
    for suite in COVERED_SUITES:
        for task in list_tasks(suite):
            named = re.findall(r"^ +[\w ]+ - (\w+)$", task.bddl_file.read_text(), re.MULTILINE)
            assert named, task.bddl_file
            assert set(named) <= known, task.name
