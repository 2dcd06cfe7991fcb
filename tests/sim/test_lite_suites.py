"""The lite assets in every task: at rest, able to succeed, and laid out as the real ones.

The packaged init states put some things a few centimetres INTO the ground, which throws them up to
17 cm high before they land, and a few of those hit each other in the air. The real assets do the
same, so the limit is no fall more than theirs. The robot is frozen: physics alone acts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lite_rig import Rest, Scene, achieve, loaded
from vlaprune_bench.lite.build import build_lite
from vlaprune_bench.sim.assets import AssetSet

pytestmark = pytest.mark.sim

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
TASKS = [(suite, task) for suite in SUITES for task in range(10)]
NINETY = [("libero_90", task) for task in range(90)]
# Open drawers, a stove, baskets, books and a caddy, a microwave, every arena.
FEW = {
    ("libero_spatial", 4),
    ("libero_object", 9),
    ("libero_goal", 7),
    ("libero_10", 5),
    ("libero_10", 9),
    ("libero_90", 60),
}
# One task for every set of objects, fixtures and arena.
DISTINCT = [("libero_spatial", 0), ("libero_goal", 0)]
DISTINCT += [("libero_object", task) for task in (0, 3, 5, 9)]
DISTINCT += [("libero_10", task) for task in (0, 2, 3, 4, 5, 6, 8, 9)]


def heavy_but(few: set[tuple[str, int]], tasks: list[tuple[str, int]]) -> list[Any]:
    """All tasks but a few marked heavy."""
    return [t if t in few else pytest.param(*t, marks=pytest.mark.heavy) for t in tasks]


# Objects that fall over or are pushed away, over all trials of a task, with the real assets. Where
# a task is not named here, the lite assets let nothing fall.
REAL_FALLS = {("libero_10", 0): 5}


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lite(tmp_path_factory.mktemp("lite"))


def count_falls(rest: Rest) -> int:
    """Objects that lie on their side or were pushed away."""
    return int(((rest.moved > 0.03) | (rest.upright < 0.97)).sum())


def check_rest(rest: Rest, where: str) -> None:
    """Nothing sinks, drops off its support, floats, or keeps moving."""
    for k, name in enumerate(rest.names):
        what = f"{where}: {name}"
        assert rest.lowest[k] > -0.004, f"{what} lies {-rest.lowest[k]:.4f} m below the ground"
        assert rest.lowest[k] < 0.26, f"{what} is {rest.lowest[k]:.4f} m up"
        assert rest.speed[k] < 0.001, f"{what} still moves"


def reach_goal(scene: Scene) -> None:
    """From a settled scene, make the predicates of the goal true one after the other."""
    goal = scene.inner.parsed_problem["goal_state"]
    assert not scene.env.check_success()
    targets = {predicate[-1] for predicate in goal}
    # joints first: things may lie in drawers; then what other things are to stand on
    for predicate in sorted(goal, key=lambda p: (len(p), p[1] not in targets)):
        assert achieve(scene, predicate), f"{predicate} does not last"
    assert scene.env.check_success()


@pytest.mark.parametrize(("suite", "task"), heavy_but(FEW, TASKS + NINETY))
def test_init_states_settle_and_the_goal_can_be_reached(lite: Path, suite: str, task: int) -> None:
    with loaded(lite, suite, task) as scene:
        scene.freeze_robot()
        for trial in (1, 0):
            check_rest(scene.settle(trial), f"{suite} task {task} trial {trial}")
        reach_goal(scene)


@pytest.mark.heavy
@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_every_init_state_settles(lite: Path, suite: str, task: int) -> None:
    falls = 0
    with loaded(lite, suite, task) as scene:
        scene.freeze_robot()
        for trial in range(len(scene.states)):
            rest = scene.settle(trial)
            check_rest(rest, f"{suite} task {task} trial {trial}")
            falls += count_falls(rest)
    assert falls <= REAL_FALLS.get((suite, task), 0)


@pytest.mark.heavy
@pytest.mark.parametrize(("suite", "task"), REAL_FALLS)
def test_real_assets_fall_as_often(real_assets: AssetSet, suite: str, task: int) -> None:
    with loaded(real_assets.path, suite, task) as scene:
        scene.freeze_robot()
        falls = sum(count_falls(scene.settle(trial)) for trial in range(len(scene.states)))
    assert falls == REAL_FALLS[suite, task]


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "task"), heavy_but({("libero_10", 3)}, TASKS))
def test_goals_can_be_reached_with_the_real_assets(
    real_assets: AssetSet, suite: str, task: int
) -> None:
    """Or else the test above would say little: the same hand does it with both sets."""
    with loaded(real_assets.path, suite, task) as scene:
        scene.freeze_robot()
        scene.settle(0)
        reach_goal(scene)


def layout(scene: Scene) -> dict[str, Any]:
    """What init states, samplers and predicates rely on, by name."""
    scene.start(0)
    scene.env.sim.forward()
    model, data = scene.env.sim.model, scene.env.sim.data
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
        "cameras": {name: data.get_camera_xpos(name).copy() for name in model.camera_names},
        "sites": {
            name: np.concatenate([data.get_site_xpos(name), model.site_size[k]])
            for k, name in enumerate(model.site_names)
        },
        "fixtures": {
            name: data.get_body_xpos(f"{name}_main").copy() for name in scene.inner.fixtures_dict
        },
        "lowest": {
            name: scene.lowest(body) for name, body in zip(scene.names, scene.bodies, strict=True)
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "task"), heavy_but({("libero_goal", 0)}, DISTINCT))
def test_layout_agrees_with_the_real_assets(
    lite: Path, real_assets: AssetSet, suite: str, task: int
) -> None:
    seen = []
    for folder in (real_assets.path, lite):
        with loaded(folder, suite, task) as scene:
            seen.append(layout(scene))
    real, ours = seen

    assert ours["joints"] == real["joints"]
    for key in ("ranges", "axes", "damping"):
        np.testing.assert_allclose(ours[key], real[key], atol=1e-9, err_msg=key)
    assert ours["bodies"] == real["bodies"]
    # a site's place, a fixture's (both sets draw the same scene), a camera's, an object's underside
    for key, tolerance in (
        ("sites", 1e-5),
        ("fixtures", 1e-9),
        ("cameras", 1e-6),
        ("lowest", 2e-3),
    ):
        assert set(ours[key]) == set(real[key]), key
        for name, place in real[key].items():
            np.testing.assert_allclose(ours[key][name], place, atol=tolerance, err_msg=name)
    for name, mass in real["masses"].items():
        if name.startswith(tuple(scene.names)) or "cabinet_" in name or name.endswith("button"):
            assert ours["masses"][name] == pytest.approx(mass, rel=0.3), name
