"""The lite assets in every task: laid out as the real ones, at rest, and able to succeed.

The packaged init states put some things a few centimetres INTO the ground, which throws them up to
17 cm high before they land; a few then fall over. The real assets do the same. So the limit here is
a count of such falls, no higher than what the real assets show.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lite_rig import Rest, Scene, achieve, init_states, loaded
from vlaprune_bench.sim.assets.lite import build_lite

pytestmark = pytest.mark.sim

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
TASKS = [(suite, task) for suite in SUITES for task in range(10)]
# One task for every set of objects, fixtures and arena.
DISTINCT = [("libero_spatial", 0), ("libero_goal", 0)]
DISTINCT += [("libero_object", task) for task in (0, 3, 5, 9)]
DISTINCT += [("libero_10", task) for task in (0, 2, 3, 4, 5, 6, 8, 9)]


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lite(tmp_path_factory.mktemp("lite"))


def fallen(rest: Rest) -> list[str]:
    """Objects that lie on their side or were pushed away."""
    return [
        name
        for name, moved, upright in zip(rest.names, rest.moved, rest.upright, strict=True)
        if moved > 0.03 or upright < 0.97
    ]


def check_rest(rest: Rest, where: str) -> None:
    """Nothing sinks, drops off its support, floats, or keeps moving."""
    for k, name in enumerate(rest.names):
        what = f"{where}: {name}"
        assert rest.lowest[k] > -0.004, f"{what} lies {-rest.lowest[k]:.4f} m below the ground"
        assert rest.lowest[k] < 0.26, f"{what} is {rest.lowest[k]:.4f} m up"
        assert rest.speed[k] < 0.001, f"{what} still moves"


@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_init_states_settle_and_the_goal_can_be_reached(lite: Path, suite: str, task: int) -> None:
    with loaded(lite, suite, task) as env:
        scene = Scene(env, init_states(suite, task))
        for trial in (1, 0):
            rest = scene.settle(trial)
            check_rest(rest, f"{suite} task {task} trial {trial}")
        reach_goal(scene)


def reach_goal(scene: Scene) -> None:
    """From a settled scene, make the predicates of the goal true one after the other."""
    goal = scene.inner.parsed_problem["goal_state"]
    assert not scene.env.check_success()
    for predicate in sorted(goal, key=len):  # joints first: things may lie in drawers
        assert achieve(scene, predicate), f"{predicate} does not last"
    assert scene.env.check_success()
