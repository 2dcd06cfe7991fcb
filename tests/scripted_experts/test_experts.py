"""Scripted experts solve their tasks, and demonstrations begin where no evaluation does."""

from __future__ import annotations

import importlib.util
import io
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from experts.motion import STEP_RAD, TURN_LIMIT, funnel, is_turned, steer, turn
from experts.tasks import make_expert, tasks_with_expert
from experts.world import DEMO_SEED, SampledTask, World
from PIL import Image
from scipy.spatial.transform import Rotation

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import PROTOCOLS, UserError

SUITES = ("libero_spatial", "libero_object", "libero_goal")
LEAST = {"libero_spatial": 0.95, "libero_object": 0.95, "libero_goal": 0.90}


@pytest.fixture(scope="session")
def lite() -> AssetSet:
    return resolve_assets("lite", "lite")


def solve(task: LiberoTask, trial: int) -> int | None:
    """Control steps until the task's predicate is true, or None where the budget ends first."""
    task.reset(trial)
    world = World(task)
    expert = make_expert(task.suite, task.task, world)
    for step in range(task.budget):
        _, success = task.step(expert.act(world).clip(-1.0, 1.0), look=False)
        if success:
            return step + 1
    return None


def test_steering_keeps_its_direction_within_the_limit():
    assert np.allclose(steer(np.array([0.01, 0.0, -0.005])), [0.32, 0.0, -0.16])
    fast = steer(np.array([0.2, 0.1, 0.0]), limit=0.5)
    assert np.allclose(fast, [0.5, 0.25, 0.0])


def turned_by(vector: list[float]) -> np.ndarray:
    return Rotation.from_rotvec(vector).as_matrix()


def test_turning_answers_the_smallest_error_and_is_clipped():
    home = turned_by([np.pi, 0.0, 0.0])
    small = turn(turned_by([0.0, 0.01, 0.0]) @ home, home)
    assert np.allclose(small, [0.0, -0.02, 0.0])
    large = turn(turned_by([0.3, 0.0, 0.6]) @ home, home)
    assert np.allclose(large, [-0.2, 0.0, -TURN_LIMIT])
    assert is_turned(turned_by([0.0, 0.05, 0.0]) @ home, home)
    assert not is_turned(turned_by([0.1, 0.0, 0.0]) @ home, home)


def test_turning_ends_at_the_wanted_orientation():
    """As if the controller did what it is asked to."""
    now, wanted = turned_by([0.2, -0.1, 0.8]), turned_by([0.0, 0.3, 0.0])
    for _ in range(20):
        now = Rotation.from_rotvec(STEP_RAD * turn(now, wanted)).as_matrix() @ now
    assert np.allclose(now, wanted, atol=1e-6)


def test_funnel_ends_at_the_ground_and_at_its_height():
    assert funnel(0.0, 0.1) == 0.0
    assert funnel(0.5, 0.1) == pytest.approx(0.1)
    assert 0.0 < funnel(0.03, 0.1) < 0.1


def test_no_protocol_draws_scenes_from_the_demonstrations_seed():
    assert DEMO_SEED not in {protocol.env_seed for protocol in PROTOCOLS.values()}


@pytest.mark.sim
@pytest.mark.parametrize("suite", [*SUITES, "libero_10"])
def test_demonstrations_never_begin_at_an_init_state(lite, suite):
    """Poses of all objects, as drawn by reset, against the benchmark's 50 init states."""
    task = 3
    states = load_init_states(get_task(suite, task).init_states_file)
    with SampledTask(TaskKey(suite, task, lite)) as env:
        drawn = []
        for seed in range(8):
            env.fingerprint(seed)
            drawn.append(env.init_state)
        inner = env.inner
        joints = [inner.sim.model.get_joint_qpos_addr(f"{n}_joint0") for n in inner.objects_dict]
        poses = np.concatenate([np.arange(start, end) for start, end in joints]) + 1  # after time
        # some things of libero_object always stand at one place, so all poses count together
        far = np.abs(np.array(drawn)[:, None, poses] - states[None, :, poses]).max(axis=-1)
        assert far.min() > 1e-5
        env.fingerprint(3)
        assert np.array_equal(env.init_state, drawn[3])
        assert len({state.tobytes() for state in drawn}) == len(drawn)


@pytest.mark.sim
def test_expert_turns_a_disturbed_hand_back(lite):
    """Only the turns of its actions are executed, after a push of the hand's orientation."""
    with SampledTask(TaskKey("libero_object", 0, lite)) as env:
        env.reset(0)
        world = World(env)
        expert, home = make_expert(env.suite, env.task, world), world.hand_turn
        for _ in range(8):
            env.step(np.array([0.0, 0.0, 0.2, 0.2, -0.15, 0.2, -1.0]), look=False)
        far = Rotation.from_matrix(home @ world.hand_turn.T).magnitude()
        for _ in range(25):
            env.step(np.array([0.0, 0.0, 0.0, *expert.act(world)[3:6], -1.0]), look=False)
        assert far > 0.2
        assert Rotation.from_matrix(home @ world.hand_turn.T).magnitude() < 0.03


@pytest.mark.sim
@pytest.mark.parametrize(
    ("suite", "task"), [("libero_spatial", 4), ("libero_object", 0), ("libero_10", 4)]
)
def test_expert_solves_an_init_state(lite, suite, task):
    with LiberoTask(TaskKey(suite, task, lite)) as env:
        assert solve(env, 0) is not None


def test_a_task_without_an_expert_is_refused():
    assert tasks_with_expert("libero_goal") == list(range(10))
    for task in set(range(10)) - set(tasks_with_expert("libero_10")):
        with pytest.raises(UserError, match=rf"--task {task}: libero_10 has experts for tasks"):
            make_expert("libero_10", task, StandingStill())


class StandingStill:
    hand_turn = np.eye(3)


def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_demos.py"
    spec = importlib.util.spec_from_file_location("make_demos", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("turns", [None, 0.0])
def test_noise_pushes_and_turns_but_not_always(turns):
    make_demos = script()
    action = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.1, 1.0])
    pushed = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = make_demos.Noise(rng) if turns is None else make_demos.Noise(rng, turns)
        executed = np.array([noise(action) for _ in range(200)])
        assert (executed[:, 6] == 1.0).all()
        assert np.abs(executed).max() <= 1.0
        moved, turned = executed[:, :3] != action[:3], executed[:, 3:6] != action[3:6]
        assert np.array_equal(turned.all(axis=1), moved.any(axis=1) & (turns is None))
        pushed.append(moved.any(axis=1).mean())
    assert min(pushed) == 0.0
    assert 0.1 < max(pushed) < 0.9


@pytest.mark.sim
@pytest.mark.slow
def test_demonstrations_are_written_and_resumed(tmp_path, monkeypatch):
    make_demos = script()
    path = tmp_path / "libero_object" / "task00.parquet"
    for demos in (1, 2):
        arguments = f"--out {tmp_path} --suite libero_object --task 0 --every 8 --demos {demos}"
        monkeypatch.setattr("sys.argv", ["make_demos.py", *arguments.split()])
        make_demos.main()
        rows = pq.read_table(path).to_pylist()
        assert {row["demo"] for row in rows} == set(range(demos))
    assert len({row["seed"] for row in rows}) == 2
    steps = [row["step"] for row in rows if row["demo"] == 1]
    assert steps == sorted(steps)
    assert steps[0] == 0
    for row, after in itertools.pairwise(rows):
        chunk, ahead = np.reshape(row["actions"], (8, 7)), np.reshape(after["actions"], (8, 7))
        gap = after["step"] - row["step"]
        if row["demo"] == after["demo"] and gap < 8:
            assert np.array_equal(chunk[gap:], ahead[: 8 - gap])
        assert np.abs(chunk).max() <= 1.0
        assert set(chunk[:, 6]) <= {-1.0, 1.0}
        assert np.abs(chunk[:, 3:6]).max() <= TURN_LIMIT
        for name in make_demos.JPEGS:
            assert Image.open(io.BytesIO(row[name])).size == (256, 256)
    assert any(row["holding"] for row in rows)


@pytest.mark.sim
@pytest.mark.heavy
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(("kind", "trials"), [("lite", 10), ("real", 2)])
def test_experts_solve_the_init_states(suite, kind, trials, request):
    assets = request.getfixturevalue("lite" if kind == "lite" else "real_assets")
    solved = []
    for task in range(10):
        with LiberoTask(TaskKey(suite, task, assets)) as env:
            steps = [solve(env, trial) for trial in range(trials)]
        solved.append(sum(s is not None for s in steps))
        print(f"{suite} {task} {kind}: {solved[-1]} of {trials}, steps {steps}", flush=True)
    assert sum(solved) >= LEAST[suite] * 10 * trials, solved
