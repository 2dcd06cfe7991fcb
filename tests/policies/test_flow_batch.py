"""Flow-matching policies: several episodes at once, and CUDA graphs, are the calls alone."""

import numpy as np
import pytest

from tests.methods import tiny
from tests.policies.test_batch import SHORT, act, call_of, check_episodes, check_same, load, start
from tests.policies.test_graphs import pair
from vlaprune_bench.measure.inputs import INSTRUCTION
from vlaprune_bench.policies.checkpoint import TINY_FLOW
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning

METHODS = ("none", "static", "fastv", "vla-pruner", "vla-cache")


@pytest.fixture(params=TINY_FLOW.values())
def checkpoint(request):
    return request.param


@pytest.mark.parametrize("name", METHODS)
def test_a_method_at_once_is_the_method_alone(checkpoint, name):
    pruner = tiny(name)
    other = FastV(0.5, layer=2) if name == "none" else NoPruning()
    episodes = [(pruner, INSTRUCTION), (other, INSTRUCTION), (pruner, SHORT)]
    check_episodes(load(checkpoint), episodes)


def test_eager_attention(checkpoint):
    check_episodes(load(checkpoint, "eager"), [(FastV(0.5, layer=1), INSTRUCTION)] * 2, calls=2)


def test_prompts_of_several_lengths_denoise_together(checkpoint, monkeypatch):
    """Where prompts are filled up to one length, the networks run once for all."""
    policy = load(checkpoint)
    expert, batches = policy.model.expert, []
    denoise = type(expert).denoise

    def count(self, noise_BCA, *rest):
        batches.append(len(noise_BCA))
        return denoise(self, noise_BCA, *rest)

    monkeypatch.setattr(type(expert), "denoise", count)
    memories = [start(policy, NoPruning(), text) for text in (INSTRUCTION, SHORT)]
    policy.act_many([call_of(m) for m in memories])
    assert batches == ([1, 1] if "smolvla" in checkpoint else [2])


@pytest.mark.parametrize("name", METHODS)
def test_graphs(checkpoint, name):
    pruner = tiny(name)
    plain, graphed, recorder = pair(checkpoint, pruner)
    for seed in range(2):
        memories = [start(policy, pruner, seed=seed) for policy in (plain, graphed)]
        for _ in range(4):
            one, other = (
                act(policy, call_of(memory, seed))
                for policy, memory in zip((plain, graphed), memories, strict=True)
            )
            check_same(one, other)
            np.testing.assert_array_equal(one.actions, other.actions)
    assert (recorder.replayed > recorder.recorded) == (not pruner.keeps_cache)


def test_a_call_is_three_graphs(checkpoint):
    """Towers, the whole prefix, all denoising steps."""
    _, graphed, recorder = pair(checkpoint, NoPruning())
    act(graphed, call_of(start(graphed, NoPruning())))
    assert recorder.recorded == 3
