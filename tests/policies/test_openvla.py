"""OpenVLA on the embedded checkpoint: decoding, measures, what it does with two cameras."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlaprune_bench.measure.flops import decoder_layer_macs
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.prismatic.heads import ActionTokens
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.static import Static

POSE = np.zeros((1, 7))
TASK = "put both moka pots on the stove"


@pytest.fixture
def tiny():
    def load(pruner, **options):
        return load_policy("tiny-openvla", pruner, suite="libero_spatial", device="cpu", **options)

    return load


def test_action_tokens():
    tokens = ActionTokens(vocabulary=32000, bins=256)
    ids = torch.tensor([31999, 31998, 31745, 31744, 5, 32063])
    logits = torch.ones(6)
    centers = [-254, -252, 254, 254, 254, -254]  # of 255 bins; beyond the ends the last one
    np.testing.assert_allclose(tokens.actions(ids, logits), np.array(centers) / 255)
    logits[1] = float("nan")
    assert np.isnan(tokens.actions(ids, logits)).tolist() == [False, True] + [False] * 4
    assert ActionTokens.read({}) == tokens


def test_call_is_one_action_and_complete(tiny, keep, observe):
    policy = tiny(keep())
    memory = policy.start(TASK, seed=0)
    chunk = policy.act(memory, observe(), POSE)
    assert chunk.actions.shape == (1, 7)
    assert chunk.actions[0, -1] in (-1.0, 1.0)
    low, high = policy.action_bounds.low, policy.action_bounds.high
    assert ((low[:6] <= chunk.actions[0, :6]) & (chunk.actions[0, :6] <= high[:6])).all()
    assert policy.action_bounds.epsilon == 0.0
    m = chunk.measures
    assert (m.pruned, m.visual_tokens_kept, m.kept_per_camera) == (False, 256, [256])
    assert m.tokens_per_layer == [256 + memory.layout.n_prompt] * 4
    assert min(m.latency_vision_ms, m.latency_prefill_ms, m.latency_decode_ms) > 0.0
    assert policy.info.grids == ((16, 16),)


def test_only_the_main_camera_counts(tiny, keep, observe):
    policy = tiny(keep())
    both = observe()

    def act(images):
        return policy.act(policy.start(TASK, 0), replace(both, images=images), POSE).actions

    base = act(both.images)
    np.testing.assert_array_equal(act(both.images[:1]), base)
    np.testing.assert_array_equal(act(np.stack([both.images[0], both.images[0] // 2])), base)
    assert np.abs(act(both.images[::-1]) - base).max() > 1e-3
    with pytest.raises(ValueError, match="1 camera"):
        act(None)


def test_actions_follow_image_and_text(tiny, keep, observe):
    policy = tiny(keep())

    def act(observation, task=TASK):
        return policy.act(policy.start(task, seed=0), observation, POSE).actions

    base = act(observe())
    np.testing.assert_array_equal(base, act(observe(height=0.9)))  # no proprio
    for other in (act(observe(seed=1)), act(observe(), "turn on the stove")):
        assert np.abs(other - base).max() > 1e-3


@pytest.mark.parametrize(
    "pruner",
    [None, Static(keep=0.25, qk_layer=2), Adp(keep=0.5)],
    ids=lambda p: p.name if p else "later-layers",
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_counted_flops_agree(tiny, keep, observe, pruner, attention):
    pruner = pruner or keep({1: list(range(0, 256, 2)), 3: [1 * 2, 8, 254]})
    policy = tiny(pruner, attention=attention, count_every=1)
    memory = policy.start(TASK, seed=0)
    for seed in range(2):
        m = policy.act(memory, observe(seed), POSE + seed).measures
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.001)


def test_decode_steps_are_charged_for_what_each_layer_kept(tiny, keep, observe):
    policy = tiny(keep({2: [3, 4, 5]}))
    memory = policy.start(TASK, seed=0)
    m = policy.act(memory, observe(), POSE).measures
    model = policy.prismatic.language_model
    full, pruned = m.tokens_per_layer[0], m.tokens_per_layer[-1]
    assert (full, pruned) == (256 + memory.layout.n_prompt, 3 + memory.layout.n_prompt)
    steps = sum(
        2 * decoder_layer_macs(1, model.shape, n + i) for n in (full, pruned) for i in range(1, 7)
    )
    logits = 7 * 96 * model.vocab_size
    rest = m.total_flops // 2 - m.llm_prefill_macs - policy.prismatic.patch_macs(1)
    assert rest == steps + logits


@pytest.mark.parametrize("renumber", [False, True])
def test_decoding_pruned_is_decoding_over_what_is_left(tiny, keep, observe, renumber):
    """No cache: each token comes from a fresh pass over the sequence so far."""
    kept = list(range(0, 256, 7))
    policy = tiny(keep({0: kept}, renumber))
    memory = policy.start(TASK, seed=0)
    chosen = {}
    predict = policy._predict

    def remember(decoder, prefill, layout, timer):
        chosen["result"] = yield from predict(decoder, prefill, layout, timer)
        chosen["sequence"] = decoder._sequence_BLD
        return chosen["result"]

    policy._predict = remember
    policy.act(memory, observe(), POSE)
    length, model = memory.layout.length, policy.prismatic.language_model
    rows = torch.tensor([0, *(1 + k for k in kept), *range(257, length)])
    x, tokens = chosen["sequence"][:, rows], []
    with torch.inference_mode():
        for i in range(7):
            positions = torch.cat([rows, length + torch.arange(i)])
            if renumber:
                positions = torch.arange(len(positions))
            hidden = model.model.norm(model.run_layers(x, positions, range(4)))
            tokens.append(int(model.lm_head(hidden[0, -1]).argmax()))
            x = torch.cat([x, model.embed(torch.tensor([[tokens[-1]]]))], dim=1)
    assert chosen["result"].tokens_A.tolist() == tokens


def test_not_finite_is_an_error_that_names_the_call(tiny, keep, observe):
    policy = tiny(keep())
    memory = policy.start(TASK, seed=0)
    policy.act(memory, observe(), POSE)
    policy.prismatic.language_model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(RuntimeError, match="policy call 1 "):
        policy.act(memory, observe(), POSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(tiny, observe, dtype):
    policy = tiny(Static(keep=0.5), dtype=dtype)
    assert np.isfinite(policy.act(policy.start(TASK, seed=0), observe(), POSE).actions).all()
