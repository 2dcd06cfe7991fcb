"""Every registered method through one matrix, on the embedded checkpoint's real networks."""

from dataclasses import replace

import numpy as np
import pytest

from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning import methods
from vlaprune_bench.types import Observation

CALLS = 4
KEEP = 0.25


def observations(seed: int = 0) -> list[Observation]:
    random = np.random.default_rng(seed)
    return [
        Observation(
            eef_pos=random.normal(size=3) * 0.1,
            eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
            gripper_qpos=np.array([0.04, -0.04]),
            images=random.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8),
        )
        for _ in range(CALLS)
    ]


def windows() -> list[np.ndarray]:
    """The hand moves faster and faster: every gate sees a reason to prune in the end."""
    steps = np.zeros((8 * CALLS, 7))
    steps[:, 0] = np.linspace(0.001, 0.02, len(steps))
    poses = np.cumsum(steps, axis=0)
    return [poses[:1], *(poses[8 * i - 8 : 8 * i + 1] for i in range(1, CALLS))]


def play(policy, pruner, seed=3):
    policy.pruner = pruner
    memory = policy.start("pick up the black bowl on the stove and place it on the plate", seed)
    frames = zip(observations(), windows(), strict=True)
    return [policy.act(memory, observation, poses) for observation, poses in frames]


@pytest.fixture(scope="module")
def policy():
    return load_policy(
        "tiny", methods()["none"](), suite="libero_spatial", device="cpu", count_every=1
    )


@pytest.fixture(params=methods())
def pruner(request):
    made = methods()[request.param]()
    return made if made.keep_ratio is None else replace(made, keep=KEEP)


def test_tokens_really_leave_and_cost_says_so(policy, pruner):
    full = play(policy, methods()["none"]())[0].measures
    assert full.visual_tokens == full.visual_tokens_kept == 512
    some_pruned = False
    for chunk in play(policy, pruner):
        m = chunk.measures
        assert chunk.actions.shape == (8, 7)
        assert np.isfinite(chunk.actions).all()
        assert sum(m.kept_per_camera) == m.visual_tokens_kept
        dropped = m.visual_tokens - m.visual_tokens_kept
        assert m.tokens_per_layer[-1] == full.tokens_per_layer[-1] - dropped
        assert m.pruned == (dropped > 0)
        # what the counter saw is what the formulas say
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)
        if m.pruned:
            some_pruned = True
            assert m.visual_tokens_kept == KEEP * 512
            assert m.kept_visual == sorted(set(m.kept_visual))
            assert m.llm_prefill_macs < full.llm_prefill_macs
        else:
            assert m.kept_visual is None
            assert m.llm_prefill_macs == full.llm_prefill_macs
    assert some_pruned == (pruner.name != "none")


def test_an_unpruned_call_is_the_baselines_call(policy, pruner):
    baseline = play(policy, methods()["none"]())
    for ours, reference in zip(play(policy, pruner), baseline, strict=True):
        equal = np.array_equal(ours.actions, reference.actions)
        assert equal == (not ours.measures.pruned)


def test_episodes_repeat_and_share_nothing(policy, pruner):
    first, second = play(policy, pruner), play(policy, pruner)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.actions, two.actions)
        assert one.measures.kept_visual == two.measures.kept_visual


def test_keep_1_is_the_baseline(policy, pruner):
    if pruner.keep_ratio is None:
        pytest.skip("the method has no keep ratio")
    baseline = play(policy, methods()["none"]())
    for ours, reference in zip(play(policy, replace(pruner, keep=1.0)), baseline, strict=True):
        np.testing.assert_array_equal(ours.actions, reference.actions)
        assert not ours.measures.pruned
