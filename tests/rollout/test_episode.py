"""The episode loop on a toy task: chunks, windows, budgets, success."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes import FakeTask
from tests.rows import measures
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.types import ActionChunk, EpisodeSpec


class ToyPolicy:
    """Moves along x by the call's number; remembers what it was shown."""

    def __init__(self, chunk: int = 8):
        self.chunk = chunk
        self.windows: list[np.ndarray] = []

    def start(self, instruction, seed):
        self.started = (instruction, seed)
        return SimpleNamespace(calls=0)

    def act(self, memory, observation, eef_poses):
        assert observation.images is not None, "the policy was shown a frame nobody rendered"
        self.windows.append(eef_poses)
        memory.calls += 1
        actions = np.zeros((self.chunk, 7))
        actions[:, 0] = memory.calls
        return ActionChunk(actions=actions, measures=measures())


def play(task, policy, max_steps=20, execute_steps=8, **options):
    spec = EpisodeSpec("libero_spatial", 0, 0, 7, "openvla", max_steps)
    progress = Progress()
    run_episode(
        task,
        policy,
        spec,
        episode_seed=5,
        execute_steps=execute_steps,
        progress=progress,
        **options,
    )
    return progress


def test_budget_cuts_the_last_chunk_and_only_its_last_step_is_rendered():
    task, policy = FakeTask(), ToyPolicy()
    progress = play(task, policy, max_steps=20)
    assert progress.steps == 20
    assert not progress.success
    assert progress.call_steps == [0, 8, 16]
    assert [look for _, look in task.log] == [(i + 1) % 8 == 0 or i == 19 for i in range(20)]
    assert policy.started == ("reach", 5)


def test_a_window_has_its_first_and_last_pose():
    policy = ToyPolicy()
    play(FakeTask(), policy, max_steps=24)
    assert [len(w) for w in policy.windows] == [1, 9, 9]
    np.testing.assert_array_equal(policy.windows[2][0], policy.windows[1][-1])
    assert policy.windows[1][-1][0] == 8  # eight steps of 1
    assert policy.windows[2][-1][0] == 8 + 16  # then eight of 2


def test_the_hand_s_path_is_summed_over_each_call_s_actions():
    class Zigzag(FakeTask):
        def step(self, action, look):
            return super().step(action * (-1) ** len(self.log), look)

    # there and back: no net displacement, but a path; the last chunk is cut by the budget
    progress = play(Zigzag(), ToyPolicy(), max_steps=20)
    assert progress.displacements == [8 * 1, 8 * 2, 4 * 3]
    assert play(FakeTask(success_at=11), ToyPolicy()).displacements == [8 * 1, 3 * 2]


@pytest.mark.parametrize("chunk", [8, 12])
def test_the_first_actions_of_a_longer_chunk_are_executed(chunk):
    task = FakeTask()
    progress = play(task, ToyPolicy(chunk), max_steps=16, execute_steps=5)
    assert progress.call_steps == [0, 5, 10, 15]
    assert [a for a, _ in task.log] == [1] * 5 + [2] * 5 + [3] * 5 + [4]


def test_success_ends_the_episode_at_once():
    progress = play(FakeTask(success_at=11), ToyPolicy())
    assert progress.success
    assert progress.steps == 11


def test_watching():
    seen: list[int] = []
    task = FakeTask()
    watch = lambda observation, progress: seen.append(progress.steps)  # noqa: E731
    play(task, ToyPolicy(), watch=watch)
    assert seen == [0, 8, 16]
    seen.clear()
    play(task, ToyPolicy(), watch=watch, watch_every_step=True)
    assert seen == list(range(1, 21))


def test_progress_survives_an_exception():
    class Failing(FakeTask):
        def step(self, action, look):
            if len(self.log) == 10:
                raise RuntimeError("the simulator broke")
            return super().step(action, look)

    progress = Progress()
    with pytest.raises(RuntimeError, match="broke"):
        run_episode(
            Failing(),
            ToyPolicy(),
            EpisodeSpec("libero_spatial", 0, 0, 7, "openvla", 20),
            episode_seed=5,
            execute_steps=8,
            progress=progress,
        )
    assert (progress.steps, len(progress.measures)) == (10, 2)
    assert progress.displacements == [8, 4]
