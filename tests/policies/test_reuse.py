"""Reusing keys and values of the previous call, and replacing states: Selection's two extras."""

import numpy as np
import pytest
import torch

from vlaprune_bench.measure.flops import decoder_layer_macs
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer.llama import LanguageModel
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.base import Selection
from vlaprune_bench.types import TokenLayout

TASK = "put both moka pots on the stove"
POSE = np.zeros((1, 7))
LAYOUTS = {
    False: TokenLayout(((4, 4),), n_prompt=5, has_proprio=True, n_actions=4, has_stop=True),
    True: TokenLayout(((4, 4),), n_prompt=5, n_generated=3),
}
WIDTH = 32


def make(causal, attention="sdpa"):
    torch.manual_seed(0)
    text = {
        "vocab_size": 10,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = LanguageModel(text, attention, sees="causal" if causal else "all").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def reuse(*indices):
    """Selections for layers 1, 2, ... that leave `indices` on the query side."""
    return {i + 1: Selection(torch.tensor(index), reuse=True) for i, index in enumerate(indices)}


def by_hand(model, layout, earlier, later, stages):
    """Full eager attention with the earlier call's keys and values put in place by hand.

    `stages`: visual tokens still computed, by layer from 1 on. Returns {position: state}.
    """
    n = layout.length
    positions = torch.arange(n)
    rotation = model.rotary(earlier, positions[None])
    old, new = earlier, later
    active = torch.ones(n, dtype=torch.bool)
    for index, layer in enumerate(model.model.layers):
        if index in stages:
            active[1:17] = False
            active[1 + stages[index].index] = True
        attention = layer.self_attn
        normed = layer.input_layernorm(torch.where(active[None, :, None], new, old))
        # states of reused tokens are the earlier call's, so are their keys and values
        mask = None
        if model.causal:
            mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
        out = attention(normed, position_embeddings=rotation, attention_mask=mask, is_causal=False)
        new = new + out[0]
        new = new + layer.mlp(layer.post_attention_layernorm(new))
        old_in = layer.input_layernorm(old)
        out = attention(old_in, position_embeddings=rotation, attention_mask=mask, is_causal=False)
        old = old + out[0]
        old = old + layer.mlp(layer.post_attention_layernorm(old))
    return model.model.norm(new)[:, active]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("causal", [False, True])
def test_is_attention_to_the_previous_keys_and_values(causal, attention):
    layout, model = LAYOUTS[causal], make(causal, attention)
    generator = torch.Generator().manual_seed(1)
    earlier, later = torch.randn(2, 1, layout.length, WIDTH, generator=generator).unbind()
    first = CallDecoder(model, earlier, layout)
    first.prefill(lambda _: None)
    if causal:
        first.step(torch.randn(1, WIDTH))
    stages = reuse([0, 3, 4, 9, 15], [3, 15])
    cache = first.cache.cut(layout.length)
    before = {layer: keys.clone() for layer, keys in cache.keys.items()}
    second = CallDecoder(model, later, layout, previous=cache)
    result = second.prefill(stages.get, stages)
    n = layout.length
    assert result.tokens_per_layer == [n, n - 11, n - 14, n - 14]
    assert result.keys_per_layer == [n] * 4
    torch.testing.assert_close(
        result.hidden_BND,
        by_hand(make(causal, "eager"), layout, earlier, later, stages),
        rtol=1e-4,
        atol=1e-4,
    )
    assert all(torch.equal(cache.keys[layer], keys) for layer, keys in before.items())


@pytest.mark.parametrize("causal", [False, True])
def test_reusing_nothing_is_the_full_call(causal):
    layout, model = LAYOUTS[causal], make(causal)
    x = torch.randn(1, layout.length, WIDTH)
    first = CallDecoder(model, x, layout)
    full = first.prefill(lambda _: None).hidden_BND
    stages = reuse(list(range(16)))
    second = CallDecoder(model, x, layout, previous=first.cache)
    assert torch.equal(second.prefill(stages.get, stages).hidden_BND, full)


def test_what_cannot_be_reused_is_refused():
    layout, model = LAYOUTS[False], make(False)
    x = torch.randn(1, layout.length, WIDTH)
    stages = reuse([1, 2])
    with pytest.raises(ValueError, match="first call"):
        CallDecoder(model, x, layout).prefill(stages.get, stages)
    first = CallDecoder(model, x, layout)
    first.prefill(lambda _: Selection(torch.arange(8)), (2,))
    with pytest.raises(ValueError, match="no token was dropped"):
        CallDecoder(model, x, layout, previous=first.cache).prefill(stages.get, stages)
    first = CallDecoder(model, x, layout)
    first.prefill(lambda _: None)
    stages[3] = Selection(torch.tensor([1]))
    with pytest.raises(ValueError, match="cannot be dropped"):
        CallDecoder(model, x, layout, previous=first.cache).prefill(stages.get, stages)


@pytest.mark.parametrize("renumber", [False, True])
def test_new_values_take_the_place_of_the_kept(renumber):
    layout, model = LAYOUTS[False], make(False)
    x = torch.randn(1, layout.length, WIDTH)
    kept, values = torch.tensor([2, 5, 11]), torch.randn(3, WIDTH)
    result = CallDecoder(model, x, layout).prefill(
        lambda _: Selection(kept, values), (2,), renumber
    )
    everything = torch.arange(layout.length)
    rows = torch.cat([everything[:1], 1 + kept, everything[17:]])
    before = model.run_layers(x, everything, range(2))[:, rows]
    before[0, 1:4] = values
    positions = torch.arange(len(rows)) if renumber else rows
    after = model.model.norm(model.run_layers(before, positions, range(2, 4)))
    torch.testing.assert_close(result.hidden_BND, after)


@pytest.fixture(params=["tiny-untrained", "tiny-openvla"])
def tiny(request):
    def load(pruner, **options):
        return load_policy(request.param, pruner, suite="libero_spatial", device="cpu", **options)

    return load


@pytest.fixture
def reusing(keep):
    """From the second call on, reuses all but a few visual tokens, fewer and fewer by layer."""

    class Reusing(keep):
        keeps_cache = True

        def start(self):
            return None

        def select(self, context, memory):
            if context.call == 0:
                return None
            return Selection(torch.tensor(self.kept[context.layer]), reuse=True)

    return Reusing({1: [1, 2, 3, 200, 255], 3: [2, 200]})


def test_identical_calls_give_identical_actions(tiny, reusing, keep, observe):
    policy = tiny(reusing, count_every=1)
    memory = policy.start(TASK, seed=0)
    first, second, third = (policy.act(memory, observe(), POSE) for _ in range(3))
    np.testing.assert_allclose(second.actions, first.actions, atol=1e-4)
    np.testing.assert_allclose(third.actions, first.actions, atol=1e-4)
    m = second.measures
    n, v = memory.layout.length, memory.layout.n_visual
    assert (m.pruned, m.visual_tokens_kept, m.kept_visual) == (True, 2, [2, 200])
    assert m.tokens_per_layer == [n, n - v + 5, n - v + 5, n - v + 2]
    shape = policy.prismatic.language_model.shape
    assert m.llm_prefill_macs == sum(decoder_layer_macs(k, shape, n) for k in m.tokens_per_layer)
    for chunk in (first, second, third):
        assert chunk.measures.counted_flops == pytest.approx(chunk.measures.total_flops, rel=0.01)
    assert tiny(keep()).start(TASK, seed=0).cache is None


def test_reuse_lags_behind_new_frames_and_episodes_do_not_share(tiny, reusing, keep, observe):
    def play(pruner, *seeds):
        policy = tiny(pruner)
        memory = policy.start(TASK, seed=0)
        chunks = [policy.act(memory, observe(seed), POSE).actions for seed in seeds]
        assert (memory.cache is not None) == pruner.keeps_cache
        return chunks

    reused, full = play(reusing, 0, 1), play(keep(), 0, 1)
    np.testing.assert_array_equal(reused[0], full[0])
    assert np.abs(reused[1] - full[1]).max() > 1e-3
    np.testing.assert_array_equal(play(reusing, 1)[0], full[1])
