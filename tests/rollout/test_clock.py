"""Simulated time, walked by hand: what each step executes, and when the policy is called."""

import numpy as np
import pytest

from tests.fakes import FakeTask
from tests.rows import measures
from vlaprune_bench.measure.latencies import Quantiles
from vlaprune_bench.rollout.clock import Clock, Timing
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.types import ActionChunk, EpisodeSpec, uniform

HOLD = "-"


def spec(max_steps=20, trial=2):
    return EpisodeSpec("libero_goal", 1, trial, 7, "openvla", max_steps)


def always(ms, clock="hold", tick="carry"):
    return Timing(clock, tick, Quantiles((0.5,), (ms,)), Quantiles((0.5,), (ms,)))


class Numbered:
    """Its k-th call, from 1, gives the actions k.0, k.1, ... as x; call 2 closes the gripper."""

    def __init__(self, chunk=8):
        self.chunk = chunk
        self.seen, self.windows = [], []

    def start(self, instruction, seed):
        return None

    def act(self, memory, observation, eef_poses):
        assert observation.images is not None, "it was shown a frame nobody rendered"
        self.seen.append(float(observation.eef_pos[0]))
        self.windows.append(eef_poses[:, 0])
        actions = np.zeros((self.chunk, 7))
        actions[:, 0] = len(self.seen) + np.arange(self.chunk) / 10
        actions[:, 6] = 1.0 if len(self.seen) == 2 else -1.0
        return ActionChunk(actions=actions, measures=measures())


class Counting(FakeTask):
    """x is the number of control steps executed; frames only where asked for."""

    def __init__(self, success_at=10**9):
        super().__init__(success_at)
        self.actions = []

    def step(self, action, look):
        self.actions.append(action)
        return super().step(np.array([1.0, *action[1:]]), look)


def play(timing, execute=4, chunk=8, steps=20, success_at=10**9):
    task, policy, progress = Counting(success_at), Numbered(chunk), Progress()
    run_episode(
        task, policy, spec(steps), episode_seed=0, execute_steps=execute, progress=progress,
        timing=timing,
    )  # fmt: skip
    walked = [HOLD if not any(a[:6]) else f"{a[0]:.1f}" for a in task.actions]
    return " ".join(walked), policy, progress


def used(progress):
    return [timing.used for timing in progress.timings]


def test_the_world_waits():
    walked, policy, progress = play(Timing(), execute=3, steps=7)
    assert walked == "1.0 1.1 1.2 2.0 2.1 2.2 3.0"
    assert policy.seen == [0, 3, 6]
    assert progress.held == 0
    assert [timing.drawn_latency_ms for timing in progress.timings] == [None] * 3


def test_hold_holds_while_a_call_runs_and_executes_its_chunk_from_the_beginning():
    walked, policy, progress = play(always(100), execute=3, steps=11)
    assert walked == "- - 1.0 1.1 1.2 - - 2.0 2.1 2.2 -"
    assert policy.seen == [0, 5, 10]  # the step at which a call starts, never a later one
    assert progress.held == 5
    assert used(progress) == ["used", "used", "unused"]


def test_holding_sends_no_motion_and_the_last_gripper_command_at_first_open():
    _, _, progress = play(always(50), execute=1, steps=8)
    held = [action for action in progress.actions if not any(action[:6])]
    assert [action[6] for action in held] == [-1, -1, 1, -1]  # call 2 closed it, call 3 opened it


def test_what_is_left_of_a_step_is_carried_over_or_rounded_up():
    """76.9 ms are 1.54 steps on average, 51.8 ms 1.04; rounded up both are 2."""
    steps = [t.latency_steps for t in play(always(76.9), 1, steps=200)[2].timings]
    assert steps[:6] == [1, 2, 1, 2, 1, 2]
    assert np.mean(steps) == pytest.approx(76.9 / 50, abs=0.02)
    assert np.mean(
        [t.latency_steps for t in play(always(51.8), 1, steps=400)[2].timings]
    ) == pytest.approx(51.8 / 50, abs=0.02)
    for ms in (76.9, 51.8):
        assert {t.latency_steps for t in play(always(ms, tick="ceil"), 1)[2].timings} == {2}
    assert {t.latency_steps for t in play(always(50, tick="ceil"), 1)[2].timings} == {1}


def test_async_goes_on_with_its_chunk_and_enters_the_next_one_where_time_is():
    walked, policy, progress = play(always(100, "async"), execute=4, steps=16)
    # the first call holds; call 2 starts at step 6, runs while 1.4 and 1.5 are executed, and enters
    # at index 2; its index 4 is reached at step 10, where call 3 starts
    assert walked == "- - 1.0 1.1 1.2 1.3 1.4 1.5 2.2 2.3 2.4 2.5 3.2 3.3 3.4 3.5"
    assert policy.seen == [0, 6, 10, 14]
    assert [t.stale_actions for t in progress.timings] == [0, 2, 2, 0]
    assert used(progress) == ["used", "used", "used", "unused"]
    assert progress.held == 2


def test_async_holds_where_no_action_is_left():
    walked, policy, _ = play(always(150, "async"), execute=4, chunk=6, steps=14)
    assert walked == "- - - 1.0 1.1 1.2 1.3 1.4 1.5 - 2.3 2.4 2.5 -"
    assert policy.seen == [0, 7, 11]


def test_async_with_a_call_longer_than_what_is_executed_calls_again_at_once():
    walked, policy, progress = play(always(150, "async"), execute=1, chunk=8, steps=10)
    assert walked == "- - - 1.0 1.1 1.2 1.3 2.3 2.4 2.5"
    assert policy.seen == [0, 4, 7]
    assert used(progress) == ["used", "used", "unused"]


def test_async_throws_a_chunk_away_that_comes_after_its_end_and_calls_anew():
    class Late(Timing):
        def latency_ms(self, spec, call, pruned):
            return 200.0 if call == 1 else 0.0

    walked, policy, progress = play(Late("async"), execute=2, chunk=4, steps=9)
    assert walked == "1.0 1.1 1.2 1.3 - - 3.0 3.1 4.0"
    assert policy.seen == [0, 2, 6, 8]
    assert used(progress) == ["used", "discarded", "used", "used"]


@pytest.mark.parametrize("tick", ["carry", "ceil"])
@pytest.mark.parametrize("clock", ["hold", "async"])
def test_no_latency_is_the_world_that_waits(clock, tick):
    wanted = play(Timing(), steps=37)
    for got, want in zip(play(always(0, clock, tick), steps=37)[:1], wanted[:1], strict=True):
        assert got == want
    assert play(always(0, clock, tick), steps=37)[2].actions_hash == wanted[2].actions_hash


def test_held_steps_count_against_the_budget_and_may_succeed():
    _, _, progress = play(always(100), execute=3, steps=6)
    assert (progress.steps, progress.held) == (6, 3)
    _, _, progress = play(always(100), execute=3, success_at=2)
    assert (progress.success, progress.steps, progress.held) == (True, 2, 2)
    assert used(progress) == ["unused"]


def test_windows_and_displacements_leave_held_steps_out():
    _, policy, progress = play(always(100), execute=3, steps=10)
    assert [len(window) for window in policy.windows] == [1, 4]  # of 5 steps, 3 were the policy's
    assert progress.displacements == [3, 3]
    assert len(progress.positions) == 11


def test_a_quantile_belongs_to_the_call_and_not_to_the_method():
    timing = Timing("hold", "carry", Quantiles((0.0, 1.0), (0, 50)), Quantiles((0, 1), (100, 200)))
    share = uniform("latency", 7, "libero_goal", 1, 2, 3)
    assert timing.latency_ms(spec(), 3, True) == pytest.approx(50 * share)
    assert timing.latency_ms(spec(), 3, False) == pytest.approx(100 + 100 * share)
    assert timing.latency_ms(spec(), 4, True) != timing.latency_ms(spec(), 3, True)
    assert timing.latency_ms(spec(trial=3), 3, True) != timing.latency_ms(spec(), 3, True)
    draws = [uniform("latency", 7, "libero_goal", 0, 0, call) for call in range(2000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert np.std(draws) == pytest.approx(12**-0.5, abs=0.02)


def test_the_longest_call():
    assert [always(ms).most_steps() for ms in (0, 1, 50, 50.1)] == [0, 1, 1, 2]


def test_a_clock_answers_every_step_of_any_walk():
    """Whatever is drawn: a call at a time, actions of chunks in order, none of the past."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        clock = rng.choice(["hold", "async"])
        timing = Timing(
            str(clock), str(rng.choice(["carry", "ceil"])), *[Quantiles((0, 1), (0, 400))] * 2
        )
        chunk = int(rng.integers(2, 9))
        walk = Clock(timing, spec(trial=int(rng.integers(50))), int(rng.integers(1, chunk)))
        started, last = [], (0, -1)
        for step in range(60):
            if walk.calling:
                started.append(step)
                x = len(started) + np.arange(chunk) / 10
                walk.answered(np.column_stack([x, np.zeros((chunk, 6))]), None)
                assert not walk.calling
            action, held = walk.step()
            if held:
                assert not action[:6].any()
                continue
            call, index = divmod(round(10 * action[0]), 10)
            assert (call, index) > last
            last = (call, index)
            if clock == "async" and call > 1:  # an action is executed at its own time
                assert started[call - 1] + index == step
        assert len(walk.calls) == len(started)
