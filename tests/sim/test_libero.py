"""One LIBERO task against the reference loop, and what can go wrong in it.

The reference loop is written out here with LIBERO's own environment: seed once, hard reset before
every episode, render everything. Frames, proprioception and the full integration state must be
equal bit for bit.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from vlaprune_bench.sim import environment, scenes
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.package import import_libero
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import OPENVLA_PROTOCOL, UserError

pytestmark = pytest.mark.sim

STAY = np.array([0, 0, 0, 0, 0, 0, -1.0])
CHUNK, STEPS = 8, 24
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (STEPS, 7))


@pytest.fixture
def task(lite_assets):
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets)) as task:
        yield task


def integration_state(env) -> np.ndarray:
    """MuJoCo's integration state and the body poses of the model, of a LIBERO environment."""
    import mujoco

    model, data = env.sim.model._model, env.sim.data._data
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return np.concatenate([state, model.body_pos.ravel(), model.body_quat.ravel()])


@dataclass
class Shown:
    """What one step shows."""

    images: np.ndarray | None
    proprio: np.ndarray
    state: np.ndarray
    success: bool = False


def open_reference(suite: str, task: int, assets: AssetSet, **options):
    """LIBERO's environment as the reference makes it."""
    import_libero()
    import libero.libero
    from libero.libero.envs import OffScreenRenderEnv

    environment._close_live()
    libero.libero._assets_path_cache = str(assets.path)
    info = get_task(suite, task)
    env = OffScreenRenderEnv(
        bddl_file_name=str(info.bddl_file), camera_heights=256, camera_widths=256, **options
    )
    env.seed(0)
    return env, load_init_states(info.init_states_file)


@pytest.fixture(scope="module")
def reference(real_assets) -> list[list[Shown]]:
    """libero_spatial 4 by the reference loop: trial 0 settled, then trial 1 and STEPS steps."""
    env, init_states = open_reference("libero_spatial", 4, real_assets)

    def shown(obs, success=False) -> Shown:
        frames = [obs["agentview_image"], obs["robot0_eye_in_hand_image"]]
        names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
        return Shown(
            images=np.stack([frame[::-1, ::-1] for frame in frames]),
            proprio=np.concatenate([obs[name] for name in names]),
            state=integration_state(env),
            success=bool(success),
        )

    episodes = []
    for trial, steps in enumerate((0, STEPS)):
        env.reset()
        env.set_init_state(init_states[trial])
        for _ in range(10):
            obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
        episode = [shown(obs)]
        for action in ACTIONS[:steps]:
            obs, _, done, _ = env.step(action.tolist())
            episode.append(shown(obs, done))
        episodes.append(episode)
    env.close()
    return episodes


def run(task: LiberoTask, trial: int, steps: int) -> list[Shown]:
    """The same episode by ours, looking at every CHUNK-th step only."""

    def shown(observation, success=False) -> Shown:
        return Shown(
            images=observation.images,
            proprio=np.concatenate(
                [observation.eef_pos, observation.eef_quat, observation.gripper_qpos]
            ),
            state=integration_state(task._environment.env),
            success=success,
        )

    episode = [shown(task.reset(trial))]
    for k, action in enumerate(ACTIONS[:steps]):
        episode.append(shown(*task.step(action, look=(k + 1) % CHUNK == 0)))
    return episode


def assert_same(ours: list[Shown], reference: list[Shown]) -> None:
    assert len(ours) == len(reference)
    for k, (one, other) in enumerate(zip(ours, reference, strict=True)):
        np.testing.assert_array_equal(one.state, other.state, err_msg=f"state, step {k}")
        np.testing.assert_array_equal(one.proprio, other.proprio, err_msg=f"proprio, step {k}")
        assert one.success == other.success
        if k % CHUNK:
            assert one.images is None
        else:
            assert one.images is not None
            assert one.images.shape == (2, 256, 256, 3)
            np.testing.assert_array_equal(one.images, other.images, err_msg=f"frames, step {k}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sim", "render"),
    [
        ("fast", "lazy"),
        ("reference", "lazy"),
        pytest.param("reference", "always", marks=pytest.mark.heavy),
    ],
)
def test_equal_to_the_reference_bit_for_bit(reference, real_assets, sim, render):
    """Trial 1 comes first here, and the generator of everybody else is somewhere else."""
    np.random.seed(12345)  # noqa: NPY002
    with LiberoTask(TaskKey("libero_spatial", 4, real_assets, sim=sim), render=render) as task:
        assert_same(run(task, 1, STEPS), reference[1])
        if render == "lazy":
            assert_same(run(task, 0, 0), reference[0])
        assert task.sim == sim
        assert task.self_check == ("passed" if sim == "fast" else None)


@pytest.mark.slow
def test_scenes_do_not_depend_on_the_order_of_trials(real_assets):
    """On a task whose resets draw ever more random numbers (libero keeps adding samplers)."""
    env, init_states = open_reference("libero_10", 3, real_assets, use_camera_obs=False)
    wanted = []
    for trial in range(3):
        env.reset()
        env.set_init_state(init_states[trial])
        wanted.append(integration_state(env))
    env.close()
    task = LiberoTask(
        TaskKey("libero_10", 3, real_assets, dataclasses.replace(OPENVLA_PROTOCOL, settle_steps=0))
    )
    hashes = {}
    with task:
        for trial in (2, 0, 1, 2):
            task.reset(trial)
            state = integration_state(task._environment.env)
            np.testing.assert_array_equal(state, wanted[trial])
            assert hashes.setdefault(trial, (task.scene_hash, task.init_state_hash)) == (
                task.scene_hash,
                task.init_state_hash,
            )
    assert len(set(hashes.values())) == 3


def fail_placements(monkeypatch, failures: dict[int, type[BaseException]]) -> list[int]:
    """Make the n-th scene placements (from 0) raise; returns the growing list of calls."""
    import_libero()
    from robosuite.utils.placement_samplers import SequentialCompositeSampler

    calls: list[int] = []
    original = SequentialCompositeSampler.sample

    def sample(self, *arguments, **options):
        if self.name != "ObjectSampler":  # the other ones place things on these
            return original(self, *arguments, **options)
        placed = original(self, *arguments, **options)
        calls.append(len(calls))
        if calls[-1] in failures:
            raise failures[calls[-1]]
        return placed

    monkeypatch.setattr(SequentialCompositeSampler, "sample", sample)
    return calls


def test_a_failed_placement_is_drawn_again_as_the_reference_does(lite_assets, monkeypatch):
    from robosuite.utils.errors import RandomizationError

    with monkeypatch.context() as patch:
        fail_placements(patch, {1: RandomizationError, 2: RandomizationError})
        env, init_states = open_reference("libero_spatial", 0, lite_assets, use_camera_obs=False)
        env.reset()  # the reference swallows the errors and tries again
        env.set_init_state(init_states[0])
        wanted = integration_state(env)
        env.close()
    calls = fail_placements(monkeypatch, {1: RandomizationError, 2: RandomizationError})
    protocol = dataclasses.replace(OPENVLA_PROTOCOL, settle_steps=0)
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, protocol)) as task:
        task.reset(0)
        np.testing.assert_array_equal(integration_state(task._environment.env), wanted)
    assert calls == [*range(6)]  # made, drawn three times for the table, self-check, placed


def test_placement_tries_are_bounded(task, monkeypatch):
    import_libero()
    from robosuite.utils.errors import RandomizationError

    monkeypatch.setattr(scenes, "MAX_PLACEMENT_TRIES", 2)
    fail_placements(monkeypatch, dict.fromkeys(range(1, 9), RandomizationError))
    with pytest.raises(RuntimeError, match=r"libero_spatial task 0: no placement .* 2 tries"):
        task.reset(0)


def test_no_other_exception_is_swallowed_and_the_task_recovers(task, monkeypatch):
    with monkeypatch.context() as patch:
        fail_placements(patch, {1: KeyboardInterrupt})
        with pytest.raises(KeyboardInterrupt):
            task.reset(0)
        with pytest.raises(RuntimeError, match="reset it before"):
            task.step(STAY, look=False)
    first = task.reset(0)
    task.close()
    np.testing.assert_array_equal(task.reset(0).images, first.images)


def test_what_a_task_says_about_itself(task):
    assert (task.suite, task.task, task.budget, task.n_trials) == ("libero_spatial", 0, 220, 50)
    assert task.name == (
        "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
    )
    assert task.instruction == task.name.replace("_", " ")
    assert task.gl_backend in ("egl", "osmesa", "glfw")
    assert task.scene_hash is None


def test_bad_arguments(task, lite_assets):
    with pytest.raises(UserError, match=r"trial=50 does not exist in libero_spatial task 0: .*49"):
        task.reset(50)
    for option in ("sim", "scenes", "reading"):
        with pytest.raises(UserError, match=f"{option}='never' is unknown: choose "):
            LiberoTask(TaskKey("libero_spatial", 0, lite_assets, **{option: "never"}))
    with pytest.raises(UserError, match="render='never' is unknown: choose "):
        LiberoTask(TaskKey("libero_spatial", 0, lite_assets), render="never")
    with pytest.raises(UserError, match=r"render='always' .* needs sim='reference'"):
        LiberoTask(TaskKey("libero_spatial", 0, lite_assets), render="always")
    with pytest.raises(RuntimeError, match="reset it before stepping"):
        task.step(STAY, look=False)


@pytest.mark.parametrize("sim", ["fast", "reference"])
def test_nobody_looking_means_no_rendering(lite_assets, monkeypatch, sim):
    task = LiberoTask(TaskKey("libero_spatial", 0, lite_assets, sim=sim))
    task.reset(0)
    context = type(task._environment.env.sim._render_context_offscreen)
    rendered = []
    render = context.render

    def recording(self, width, height, camera_id, **options):
        rendered.append(self.model.camera_id2name(camera_id))
        render(self, width, height, camera_id, **options)

    monkeypatch.setattr(context, "render", recording)
    for _ in range(3):
        observation, success = task.step(STAY, look=False)
        assert observation.images is None
        assert success is False
    assert rendered == []
    observation, _ = task.step(STAY, look=True)
    # the fixed camera's frame may be put together from several drawings
    assert list(dict.fromkeys(rendered)) == ["agentview", "robot0_eye_in_hand"]
    assert sim == "fast" or len(rendered) == 2
    assert observation.images.dtype == np.uint8
    assert task.steps == 4
    task.close()


def test_the_global_generator_is_left_alone(task):
    np.random.seed(3)  # noqa: NPY002
    wanted = np.random.rand(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    drawn = [np.random.rand()]  # noqa: NPY002
    task.reset(0)
    drawn.append(np.random.rand())  # noqa: NPY002
    task.step(STAY, look=False)
    drawn.append(np.random.rand())  # noqa: NPY002
    task.close()
    drawn.append(np.random.rand())  # noqa: NPY002
    np.testing.assert_array_equal(drawn, wanted)


def test_a_bad_action_is_refused(task):
    task.reset(0)
    for action in (np.full(7, np.nan), np.zeros(6), np.zeros((1, 7))):
        with pytest.raises(ValueError, match="action at step 0 must be 7 finite numbers"):
            task.step(action, look=False)
    task.step(STAY, look=False)


def test_opening_a_task_closes_the_other(task, lite_assets):
    first = task.reset(0).images
    with LiberoTask(TaskKey("libero_spatial", 1, lite_assets)) as other:
        other.reset(0)
        with pytest.raises(RuntimeError, match="closed"):
            task.step(STAY, look=False)
        np.testing.assert_array_equal(task.reset(0).images, first)  # and the other way round
        with pytest.raises(RuntimeError, match="closed"):
            other.step(STAY, look=False)


def test_assets_that_lack_something_the_task_needs(lite_assets, tmp_path):
    broken = dataclasses.replace(lite_assets, path=tmp_path)
    with (
        LiberoTask(TaskKey("libero_spatial", 0, broken)) as task,
        pytest.raises(UserError, match=r"The lite assets in .* lack .*which libero_spatial task 0"),
    ):
        task.reset(0)


def test_init_states_of_another_model_are_refused(task):
    task._init_states = task._init_states[:, :-1]
    with pytest.raises(UserError, match=r"pruned_init' have 91 numbers, the model .* takes 92: "):
        task.reset(0)


@pytest.mark.heavy
def test_memory_does_not_grow(lite_assets):
    def resident_mib() -> float:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    used = []
    for k in range(5):
        with LiberoTask(TaskKey("libero_spatial", k % 2, lite_assets)) as task:
            task.reset(0)
            task.step(STAY, look=True)
        used.append(resident_mib())
    # One model is about 50 MiB, the first ones also fill caches.
    assert used[-1] - used[1] < 50, used


@pytest.mark.parametrize(
    "gpus",
    [pytest.param("", id="no GPU", marks=pytest.mark.heavy), pytest.param("GPU-8f6e", id="UUID")],
)
def test_a_process_that_forgets_to_close_ends_quietly(lite_assets, gpus):
    """And renders, whatever CUDA_VISIBLE_DEVICES says (robosuite makes EGL indices of it)."""
    code = (
        "from vlaprune_bench.sim.libero import LiberoTask\n"
        "from vlaprune_bench.sim.tasks import TaskKey\n"
        "from vlaprune_bench.sim.assets import resolve_assets\n"
        "task = LiberoTask(TaskKey('libero_spatial', 0, resolve_assets('lite', 'lite')))\n"
        "task.reset(0)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
