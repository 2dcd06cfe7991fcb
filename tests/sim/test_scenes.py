"""Which scene a trial is: against real hard resets, in any order, path and process.

By default two tasks are compared with real resets. Marked heavy: all other tasks of the
five suites (k from 0 to 2), and three tasks over k from 0 to 49. All need the published assets.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vlaprune_bench.sim import scenes
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.environment import SeededEnvironment
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.scenes import SceneTable, fresh_seed, seeded_state
from vlaprune_bench.sim.stepping import scene_hash, short_hash
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import LEROBOT_PROTOCOL, OPENVLA_PROTOCOL, EvalProtocol

FEW = [("libero_spatial", 4), ("libero_goal", 6)]
"""A drawer opened at the start, whose resets draw ever more numbers; a stove and a rack."""
ALL = [
    (suite, index)
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    for index in range(10)
]
NINETY = [("libero_90", index) for index in range(90)]
LONG = [("libero_spatial", 4), ("libero_goal", 1), ("libero_10", 9)]


def real_scenes(
    suite: str, index: int, assets: AssetSet, n: int, protocol: EvalProtocol = OPENVLA_PROTOCOL
) -> list[tuple[np.ndarray, str]]:
    """Body positions and fingerprints after each of n real hard resets, in order."""
    info = get_task(suite, index)
    init_states = load_init_states(info.init_states_file)
    environment = SeededEnvironment(info, assets, protocol, lazy=True)
    found = []
    for k in range(n):
        environment.hard_reset()
        environment.env.set_init_state(init_states[k])
        sim = environment.env.sim
        found.append(
            (sim.model._model.body_pos.copy(), scene_hash(sim.model._model, sim.data._data))
        )
    environment.close()
    return found


def assert_scenes(suite: str, index: int, assets: AssetSet, n: int) -> None:
    wanted = real_scenes(suite, index, assets, n)
    with LiberoTask(TaskKey(suite, index, assets)) as task:
        for k in reversed(range(n)):
            fingerprint = task.fingerprint(k)
            body_pos = task._environment.env.sim.model._model.body_pos
            np.testing.assert_array_equal(body_pos, wanted[k][0], err_msg=f"body_pos, reset {k}")
            assert fingerprint == wanted[k][1], f"state, reset {k}"


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(("suite", "index"), FEW)
def test_scenes_are_those_of_real_resets(real_assets, suite, index):
    assert_scenes(suite, index, real_assets, 3)


@pytest.mark.sim
@pytest.mark.slow
def test_scenes_of_lerobot_are_those_of_resets_seeded_one_by_one(lite_assets):
    """A drawer opened at the start: its resets draw ever more numbers, whatever the seed."""
    info = get_task("libero_spatial", 4)
    init_states = load_init_states(info.init_states_file)
    environment, wanted = SeededEnvironment(info, lite_assets, LEROBOT_PROTOCOL, lazy=True), []
    for k in range(3):
        environment._random = seeded_state(1000 + k)
        environment.hard_reset()
        environment.env.set_init_state(init_states[k])
        sim = environment.env.sim
        wanted.append(scene_hash(sim.model._model, sim.data._data))
    environment.close()
    with LiberoTask(TaskKey("libero_spatial", 4, lite_assets, LEROBOT_PROTOCOL)) as task:
        assert [task.fingerprint(k) for k in (2, 0, 1)] == [wanted[k] for k in (2, 0, 1)]
    assert len(set(wanted)) == 3


@pytest.mark.sim
@pytest.mark.heavy
@pytest.mark.parametrize(("suite", "index"), [pair for pair in ALL + NINETY if pair not in FEW])
def test_scenes_of_every_task_are_those_of_real_resets(real_assets, suite, index):
    assert_scenes(suite, index, real_assets, 3)


@pytest.mark.sim
@pytest.mark.heavy
@pytest.mark.parametrize(("suite", "index"), LONG)
def test_fifty_scenes_are_those_of_real_resets(real_assets, suite, index):
    assert_scenes(suite, index, real_assets, 50)


@pytest.mark.sim
def test_scenes_and_trajectories_are_the_same_in_any_order_path_and_process(lite_assets):
    """libero_spatial 4 opens a drawer: its resets draw ever more numbers."""
    code = (
        "import json, sys\n"
        "from tests.sim.test_scenes import played\n"
        "from vlaprune_bench.sim.libero import LiberoTask\n"
        "from vlaprune_bench.sim.tasks import TaskKey\n"
        "from vlaprune_bench.sim.assets import resolve_assets\n"
        "task = LiberoTask(TaskKey('libero_spatial', 4, resolve_assets('lite', 'lite')))\n"
        "print(json.dumps({k: played(task, k) for k in (2, 0)}))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        check=True,
    )
    elsewhere = {int(k): tuple(value) for k, value in json.loads(done.stdout).items()}
    with LiberoTask(TaskKey("libero_spatial", 4, lite_assets)) as task:
        task.reset(1)
        assert task.frames_hash is not None
        task.fingerprint(0)
        assert task.frames_hash is None
        here = {k: played(task, k) for k in (0, 1, 2)}
        restored = {k: played(task, k) for k in (2, 1)}
        task.close()
        again = {k: played(task, k) for k in (1, 0)}
    with LiberoTask(TaskKey("libero_spatial", 4, lite_assets, sim="reference")) as task:
        by_robosuite = {k: played(task, k) for k in (1,)}
    for other in (elsewhere, restored, again, by_robosuite):
        assert other == {k: here[k] for k in other}
    assert len({scene for scene, _ in here.values()}) == 3


def played(task: LiberoTask, trial: int) -> tuple[str, str]:
    """Fingerprint of a trial, and a hash of what a few random actions lead to, frames included."""
    seen = [task.reset(trial)]
    assert task.scene_hash is not None
    assert task.frames_hash == short_hash(seen[0].images)
    actions = np.random.default_rng(trial).uniform(-1, 1, (12, 7))
    seen += [task.step(action, look=k % 6 == 5)[0] for k, action in enumerate(actions)]
    assert task._environment is not None
    data = task._environment.env.sim.data
    shown = [array for one in seen for array in (one.eef_pos, one.eef_quat, one.gripper_qpos)]
    frames = [one.images for one in seen if one.images is not None]
    assert len(frames) == 3
    return task.scene_hash, short_hash(*shown, *frames, data.qpos, data.qvel, data.qacc_warmstart)


@pytest.mark.sim
def test_a_fresh_scene_is_the_first_reset_of_an_environment_of_its_own(lite_assets):
    """Whichever trials come before, and on both paths."""
    seed = fresh_seed("libero_spatial task 4", 1, OPENVLA_PROTOCOL.env_seed)
    protocol = dataclasses.replace(OPENVLA_PROTOCOL, env_seed=seed)
    info = get_task("libero_spatial", 4)
    environment = SeededEnvironment(info, lite_assets, protocol, lazy=True)
    environment.hard_reset()
    environment.env.set_init_state(load_init_states(info.init_states_file)[1])
    sim = environment.env.sim
    wanted = scene_hash(sim.model._model, sim.data._data)
    environment.close()
    for path, trials in (("fast", (3, 1)), ("reference", (1,))):
        with LiberoTask(
            TaskKey("libero_spatial", 4, lite_assets, sim=path, scenes="fresh")
        ) as task:
            assert [task.fingerprint(k) for k in trials][-1] == wanted


class Drawing:
    """Draws as many numbers as models were built; the attempts numbered in `fail` fail."""

    def __init__(self, fail=()):
        self.fail = fail
        self.drawn: list[tuple[float, ...]] = []

    def __call__(self, loads: int) -> None:
        from robosuite.utils.errors import RandomizationError

        self.drawn.append(tuple(np.random.rand(loads)))  # noqa: NPY002
        if len(self.drawn) - 1 in self.fail:
            raise RandomizationError("overlap")


def table(drawing: Drawing, protocol: str = "reference") -> SceneTable:
    return SceneTable("libero_goal", 3, 0, drawing, protocol)


@pytest.mark.sim
def test_a_table_draws_each_reset_once_and_counts_models():
    drawing = Drawing(fail=(1, 2))
    scenes_of = table(drawing)
    np.random.seed(5)  # noqa: NPY002
    wanted = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert scenes_of[2].loads == 6  # one made, three resets, two of them failed
    assert np.random.rand() == wanted  # noqa: NPY002
    assert (scenes_of[0].loads, scenes_of[1].loads) == (2, 5)
    assert [len(numbers) for numbers in drawing.drawn] == [2, 3, 4, 5, 6]
    everything = np.random.RandomState(0).rand(20)
    np.testing.assert_array_equal(np.concatenate(drawing.drawn), everything)
    with scenes.global_generator(scenes_of[1].random_state):
        assert np.random.rand() == everything[9]  # noqa: NPY002


@pytest.mark.sim
def test_fresh_scenes_know_nothing_of_each_other():
    one, other = table(Drawing(), "fresh"), table(Drawing(fail=(0,)), "fresh")
    assert other[7].loads == 3  # its first try failed
    for k in (3, 0, 3):
        np.testing.assert_array_equal(one[k].random_state[1], other[k].random_state[1])
        assert one[k].loads == other[k].loads == 2
    seeds = {
        fresh_seed(f"{suite} task {index}", k, seed)
        for suite, index in ALL
        for k in range(50)
        for seed in (0, 1)
    }
    assert len(seeds) == 40 * 50 * 2


@pytest.mark.sim
def test_placements_are_not_tried_for_ever(monkeypatch):
    monkeypatch.setattr(scenes, "MAX_PLACEMENT_TRIES", 3)
    drawing = Drawing(fail=range(9))
    with pytest.raises(RuntimeError, match=r"libero_goal task 3: no placement .* in 3 tries"):
        table(drawing)[0]
    assert len(drawing.drawn) == 3


def test_a_seeded_state_is_numpys():
    np.random.seed(12)  # noqa: NPY002
    wanted = np.random.rand()  # noqa: NPY002
    with scenes.global_generator(seeded_state(12)):
        assert np.random.rand() == wanted  # noqa: NPY002
