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
from experts.motion import funnel, steer, turn
from experts.tasks import make_expert
from experts.world import DEMO_SEED, SampledTask, World
from PIL import Image

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import PROTOCOLS

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


def test_no_rotation_is_sent_where_none_is_asked_for():
    from scipy.spatial.transform import Rotation

    bent = Rotation.from_rotvec([0.1, 0.0, 0.5]).as_matrix()
    assert not turn(bent, np.eye(3), (0.0, 0.0, 0.0)).any()
    about_z = turn(bent, np.eye(3), (0.0, 0.0, 1.0))
    assert about_z[2] == pytest.approx(-0.4)
    assert not about_z[:2].any()


def test_funnel_ends_at_the_ground_and_at_its_height():
    assert funnel(0.0, 0.1) == 0.0
    assert funnel(0.5, 0.1) == pytest.approx(0.1)
    assert 0.0 < funnel(0.03, 0.1) < 0.1


def test_no_protocol_draws_scenes_from_the_demonstrations_seed():
    assert DEMO_SEED not in {protocol.env_seed for protocol in PROTOCOLS.values()}


@pytest.mark.sim
@pytest.mark.parametrize("suite", SUITES)
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
@pytest.mark.parametrize(("suite", "task"), [("libero_spatial", 4), ("libero_object", 0)])
def test_expert_solves_an_init_state(lite, suite, task):
    with LiberoTask(TaskKey(suite, task, lite)) as env:
        assert solve(env, 0) is not None


def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_demos.py"
    spec = importlib.util.spec_from_file_location("make_demos", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_noise_pushes_translation_only_and_not_always():
    make_demos = script()
    action = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.1, 1.0])
    pushed = []
    for seed in range(20):
        noise = make_demos.Noise(np.random.default_rng(seed))
        executed = np.array([noise(action) for _ in range(200)])
        assert np.array_equal(executed[:, 3:], np.tile(action[3:], (200, 1)))
        assert np.abs(executed).max() <= 1.0
        pushed.append((executed != action).any(axis=1).mean())
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
        assert not chunk[:, 3:6].any()  # this suite needs no rotation, so exactly none is taught
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
