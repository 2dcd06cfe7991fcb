"""The policy on the embedded checkpoint: pruning inside, measures, episode memory."""

import copy

import numpy as np
import pytest
import torch

from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.base import Selection
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.types import UserError

POSE = np.zeros((1, 7))
TASK = "put both moka pots on the stove"
SUFFIX_KEY = "prompt_suffix_token_id"


@pytest.fixture
def tiny():
    def load(pruner, **options):
        return load_policy(
            "tiny-untrained", pruner, suite="libero_spatial", device="cpu", **options
        )

    return load


def test_the_prompt_is_that_of_training_and_ends_with_the_empty_token(tiny, keep):
    policy = tiny(keep())
    tokenizer, suffix = policy.checkpoint.tokenizer, policy.checkpoint.config[SUFFIX_KEY]
    ids = policy.start("Turn on the Stove", seed=0).prompt_T.tolist()
    text = "In: What action should the robot take to turn on the stove?\nOut:"
    assert ids == [*tokenizer.encode(text).ids, suffix]
    assert tokenizer.id_to_token(suffix) == "<empty>"
    assert policy.start_with_tokens(ids, 0).prompt_T.tolist() == ids  # not a second time
    del policy.checkpoint.config[
        SUFFIX_KEY
    ]  # published checkpoints do not say: Llama 2's lone space
    assert policy.start_with_tokens([1, 5], 0).prompt_T.tolist() == [1, 5, 29871]


def test_call_is_finite_moderate_and_complete(tiny, keep, observe):
    policy = tiny(keep())
    chunk = policy.act(policy.start(TASK, seed=0), observe(), POSE)
    assert chunk.actions.shape == (8, 7)
    assert chunk.actions.dtype == np.float64
    assert np.abs(chunk.actions).max() <= 1.0
    assert set(chunk.actions[:, -1]) <= {-1.0, 1.0}
    m = chunk.measures
    assert (m.pruned, m.kept_visual, m.visual_tokens_kept) == (False, None, 512)
    assert m.kept_per_camera == [256, 256]
    stages = ("preprocess", "vision", "scoring", "prefill", "decode", "head")
    parts = [getattr(m, f"latency_{stage}_ms") for stage in stages]
    assert m.latency_total_ms == pytest.approx(sum(parts))
    assert m.latency_decode_ms == 0.0
    assert min(m.latency_preprocess_ms, m.latency_vision_ms, m.latency_prefill_ms) > 0.0


def test_actions_follow_image_state_and_text(tiny, keep, observe):
    policy = tiny(keep())

    def act(observation, task=TASK):
        return policy.act(policy.start(task, seed=0), observation, POSE).actions

    base = act(observe())
    np.testing.assert_array_equal(base, act(observe()))
    np.testing.assert_array_equal(base, act(observe(), TASK.upper()))
    for other in (
        act(observe(seed=1)),
        act(observe(height=0.9)),
        act(observe(), "turn on the stove"),
    ):
        assert np.abs(other - base).max() > 1e-3


def test_tokens_leave_every_layer(tiny, keep, observe):
    kept = [0, 5, 255, 256, 511]
    policy = tiny(keep({0: kept}))
    memory = policy.start(TASK, seed=0)
    m = policy.act(memory, observe(), POSE).measures
    assert m.tokens_per_layer == [memory.layout.length - 507] * 4
    assert (m.pruned, m.kept_visual, m.kept_per_camera) == (True, kept, [3, 2])


def test_tokens_leave_later_layers(tiny, keep, observe):
    policy = tiny(keep({1: list(range(0, 512, 2)), 3: list(range(0, 512, 4))}))
    memory = policy.start(TASK, seed=0)
    full = memory.layout.length
    m = policy.act(memory, observe(), POSE).measures
    assert m.tokens_per_layer == [full, full - 256, full - 256, full - 384]
    assert m.visual_tokens_kept == 128
    assert [context.layer for context in memory.pruner] == [1, 3]


@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("layer", [0, 2])
def test_pruned_prefill_is_the_layers_on_what_is_left(tiny, keep, layer, renumber):
    policy = tiny(keep())
    memory = policy.start(TASK, seed=0)
    layout, model = memory.layout, policy.prismatic.language_model
    kept = torch.arange(0, 512, 3)
    torch.manual_seed(0)
    x = torch.randn(1, layout.length, model.width)
    everything = torch.arange(layout.length)
    rows = torch.cat([everything[:1], 1 + kept, everything[513:]])
    positions = torch.arange(len(rows)) if renumber else rows
    with torch.inference_mode():
        result = CallDecoder(model, x, layout).prefill(
            lambda _: Selection(kept), (layer,), renumber
        )
        before = model.run_layers(x, everything, range(layer))
        after = model.run_layers(before[:, rows], positions, range(layer, 4))
        expected = model.model.norm(after)
    torch.testing.assert_close(result.hidden_BND, expected)


def test_a_layer_there_is_not(tiny, keep, observe):
    policy = tiny(keep({4: [0]}))
    with pytest.raises(ValueError, match="no decoder layer"):
        policy.act(policy.start(TASK, seed=0), observe(), POSE)


def test_keeping_all_is_not_pruning(tiny, keep, observe):
    full, all_kept = tiny(keep()), tiny(keep({0: list(range(512))}))
    a, b = (p.act(p.start(TASK, seed=0), observe(), POSE) for p in (full, all_kept))
    np.testing.assert_array_equal(a.actions, b.actions)
    assert not b.measures.pruned
    assert b.measures.kept_visual is None


def test_context(tiny, keep, observe):
    policy = tiny(keep({0: None}))
    memory = policy.start(TASK, seed=7)
    poses = np.arange(14.0).reshape(2, 7)
    policy.act(memory, observe(), POSE)
    policy.act(memory, observe(), poses)
    first, second = memory.pruner
    assert (first.call, second.call, memory.call) == (0, 1, 2)
    np.testing.assert_array_equal(second.eef_poses, poses)
    assert first.patches.shape == (512, 96)
    assert first.decoder.probe(0).shape == (512 + memory.layout.n_prompt + 1, 96)
    other = policy.start(TASK, seed=7)
    assert other.call_seed() == first.seed != second.seed
    assert policy.start(TASK, seed=8).call_seed() != first.seed


@pytest.mark.parametrize(
    "pruner",
    [
        None,
        Static(keep=0.25),
        Static(keep=0.5, qk_layer=2),
        Adp(keep=0.5, qk_layer=1),
    ],
    ids=lambda p: p.name if p else "full",
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_counted_flops_agree(tiny, keep, observe, pruner, attention):
    policy = tiny(pruner or keep({2: [1, 2, 3]}), attention=attention, count_every=1)
    memory = policy.start(TASK, seed=0)
    for seed in range(3):
        m = policy.act(memory, observe(seed), POSE + seed).measures
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)
        assert m.total_flops > 2 * m.llm_prefill_macs + m.scoring_flops


def test_probe_layers_are_charged(tiny, observe):
    def measures(pruner):
        policy = tiny(pruner)
        return policy.act(policy.start(TASK, seed=0), observe(), POSE).measures

    shallow, deep = measures(Static(keep=0.5)), measures(Static(keep=0.5, qk_layer=3))
    assert deep.llm_prefill_macs == shallow.llm_prefill_macs
    assert deep.scoring_flops > 100 * shallow.scoring_flops > 0
    extra = deep.scoring_flops - shallow.scoring_flops
    assert deep.total_flops - shallow.total_flops == extra


def test_counting_leaves_no_trace(tiny, keep, observe):
    policy = tiny(keep({0: None}), count_every=2)
    memory = policy.start(TASK, seed=0)
    counted = [policy.act(memory, observe(), POSE).measures.counted_flops for _ in range(3)]
    assert [reading is not None for reading in counted] == [True, False, True]
    assert len(memory.pruner) == 3


def test_not_finite_is_an_error_that_names_the_call(tiny, keep, observe):
    policy = tiny(keep())
    memory = policy.start(TASK, seed=0)
    policy.act(memory, observe(), POSE)
    policy.head = copy.deepcopy(policy.head)
    policy.head.model.fc2.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="policy call 1 "):
        policy.act(memory, observe(), POSE)


def test_option_that_does_not_fit_the_model(tiny):
    with pytest.raises(UserError, match="--qk-layer is 4"):
        tiny(Static(qk_layer=4))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(tiny, observe, dtype):
    policy = tiny(Static(keep=0.5), dtype=dtype)
    assert np.isfinite(policy.act(policy.start(TASK, seed=0), observe(), POSE).actions).all()
