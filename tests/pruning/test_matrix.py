"""Every registered method through one matrix, on both embedded checkpoints' real networks."""

from dataclasses import replace

import numpy as np
import pytest

from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning import BudgetPruner, methods
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.types import Observation

CALLS = 4
KEEP = 0.25


def tiny(name: str, keep: float = KEEP):
    """The method at `keep`, with layers that a model of four has."""
    if name == "gated":
        return Gated(tiny("fastv", keep))
    if name == "schedule":
        first, second = keep + (1 - keep) * 2 / 3, keep + (1 - keep) / 3
        return Schedule(FastV(first, layer=1), later_layers=(2, 3), later_keeps=(second, keep))
    made = methods()[name]()
    return replace(made, keep=keep) if isinstance(made, BudgetPruner) else made


def observations(seed: int = 0) -> list[Observation]:
    """A scene in which a block moves, so that some patches change from call to call."""
    random = np.random.default_rng(seed)
    scene = random.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    made = []
    for call in range(CALLS):
        images = scene.copy()
        images[:, 64:128, 40 * call : 40 * call + 64] = 255
        made.append(
            Observation(
                eef_pos=random.normal(size=3) * 0.1,
                eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
                gripper_qpos=np.array([0.04, -0.04]),
                images=images,
            )
        )
    return made


def windows() -> list[np.ndarray]:
    """The hand moves faster and faster: every gate sees a reason to prune in the end."""
    poses = np.zeros((8 * CALLS, 7))
    poses[:, 0] = np.linspace(0.001, 0.02, len(poses)).cumsum()
    poses[:, 3] = 1.0
    return [poses[:1], *(poses[8 * i - 8 : 8 * i + 1] for i in range(1, CALLS))]


def play(policy, pruner, count=0, seed=3):
    policy.pruner, policy.count_every = pruner, count
    memory = policy.start("pick up the black bowl on the stove and place it on the plate", seed)
    frames = zip(observations(), windows(), strict=True)
    return [policy.act(memory, observation, poses) for observation, poses in frames]


@pytest.fixture(scope="module", params=["tiny", "tiny-openvla"])
def policy(request):
    return load_policy(request.param, methods()["none"](), suite="libero_spatial", device="cpu")


@pytest.fixture(scope="module")
def baseline(policy):
    return play(policy, methods()["none"]())


@pytest.fixture(scope="module", params=methods())
def pruner(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def played(policy, pruner):
    """An episode, every call's FLOPs counted."""
    return play(policy, pruner, count=1)


def test_tokens_really_leave_and_cost_says_so(policy, pruner, baseline, played):
    full = baseline[0].measures
    n_visual = 256 * len(policy.info.grids)
    assert full.visual_tokens == full.visual_tokens_kept == n_visual
    some_pruned = False
    for chunk in played:
        m = chunk.measures
        assert chunk.actions.shape == (policy.info.chunk, 7)
        assert np.isfinite(chunk.actions).all()
        assert sum(m.kept_per_camera) == m.visual_tokens_kept
        dropped = m.visual_tokens - m.visual_tokens_kept
        assert m.tokens_per_layer[-1] == full.tokens_per_layer[-1] - dropped
        assert m.pruned == (dropped > 0)
        # what the counter saw is what the formulas say
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)
        if m.pruned:
            some_pruned = True
            if pruner.keep_ratio is not None:
                assert m.visual_tokens_kept == pruner.keep_ratio * n_visual
            assert m.kept_visual == sorted(set(m.kept_visual))
            assert m.llm_prefill_macs < full.llm_prefill_macs
        else:
            assert m.kept_visual is None
            assert m.llm_prefill_macs == full.llm_prefill_macs
    assert some_pruned == (pruner.name != "none")


def test_an_unpruned_call_is_the_baselines_call(baseline, played):
    for ours, reference in zip(played, baseline, strict=True):
        equal = np.array_equal(ours.actions, reference.actions)
        assert equal == (not ours.measures.pruned)


def test_episodes_repeat_and_share_nothing(policy, pruner, played):
    for one, two in zip(played, play(policy, pruner), strict=True):
        np.testing.assert_array_equal(one.actions, two.actions)
        assert one.measures.kept_visual == two.measures.kept_visual


def test_keep_1_is_the_baseline(policy, pruner, baseline):
    unpruned = tiny(pruner.name, keep=1.0)
    if unpruned == pruner:
        pytest.skip("the method has no such option")
    for ours, reference in zip(play(policy, unpruned), baseline, strict=True):
        np.testing.assert_array_equal(ours.actions, reference.actions)
        assert not ours.measures.pruned
