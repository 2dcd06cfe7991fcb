"""CUDA graphs: replayed calls are the calls they stand for.

On a machine without CUDA a stand-in records the function and repeats it into the same tensors, as a
graph does; what is CUDA's own runs only where there is CUDA.
"""

import numpy as np
import pytest
import torch

from tests.methods import tiny
from tests.policies.test_batch import act, call_of, check_same, start
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer.graphs import Graphs
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.run import load, run_rounds
from vlaprune_bench.pruning import methods
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.vla_cache import VlaCache
from vlaprune_bench.types import UserError

CALLS = 5


class Recorder:
    """Records functions; counts what was recorded and replayed."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, function, inputs):
        self.recorded += 1
        outputs = [x.clone() for x in function(inputs)]

        def replay():
            self.replayed += 1
            for held, new in zip(outputs, function(inputs), strict=True):
                held.copy_(new)

        # nothing but a replay may fill in what is read
        for held in outputs:
            held.fill_(float("nan"))
        return replay, outputs


def pair(checkpoint, pruner, attention="sdpa"):
    """Two policies, the second with graphs, and what these recorded."""
    plain, graphed = (
        load_policy(checkpoint, pruner, suite="libero_spatial", device="cpu", attention=attention)
        for _ in range(2)
    )
    recorder = Recorder()
    graphed.graphs = Graphs(recorder)
    return plain, graphed, recorder


@pytest.mark.parametrize("checkpoint", ["tiny-untrained", "tiny-openvla"])
@pytest.mark.parametrize("name", methods())
def test_every_method_is_the_same_with_graphs(name, checkpoint):
    pruner = tiny(name)
    plain, graphed, recorder = pair(checkpoint, pruner)
    for seed in range(2):  # the second episode finds everything recorded, but for sums of tokens
        memories = [start(policy, pruner, seed=seed) for policy in (plain, graphed)]
        for _ in range(CALLS):
            one, other = (
                act(policy, call_of(memory, seed))
                for policy, memory in zip((plain, graphed), memories, strict=True)
            )
            check_same(one, other)
            np.testing.assert_array_equal(one.actions, other.actions)
    assert (recorder.replayed > recorder.recorded) == (not pruner.keeps_cache)
    assert len(graphed.graphs) == recorder.recorded


def test_a_shape_is_recorded_once():
    _, graphed, recorder = pair("tiny-openvla", FastV(0.25, layer=1))
    memory = start(graphed, FastV(0.25, layer=1))
    act(graphed, call_of(memory))
    # towers; the prefill before and after tokens left; six decode steps through both parts
    assert (recorder.recorded, recorder.replayed) == (15, 15)
    act(graphed, call_of(memory))
    assert (recorder.recorded, recorder.replayed) == (15, 30)
    memory = start(graphed, FastV(0.5, layer=1))
    act(graphed, call_of(memory))
    assert recorder.recorded == 15 + 1 + 6 * 2 - 6  # the first layer sees as many tokens as before


def test_eager_attention():
    plain, graphed, recorder = pair("tiny-openvla", FastV(0.25, layer=1), "eager")
    memories = [start(policy, FastV(0.25, layer=1)) for policy in (plain, graphed)]
    for _ in range(2):
        chunks = [
            act(policy, call_of(memory))
            for policy, memory in zip((plain, graphed), memories, strict=True)
        ]
        check_same(*chunks)
    assert recorder.replayed


def test_calls_made_together_are_not_replayed():
    _, graphed, recorder = pair("tiny-untrained", NoPruning())
    graphed.act_many([call_of(start(graphed, NoPruning(), seed=seed)) for seed in range(2)])
    assert recorder.recorded == 0


def test_what_a_call_hands_on_is_not_overwritten():
    _, graphed, recorder = pair("tiny-untrained", VlaCache())
    act(graphed, call_of(start(graphed, VlaCache())))
    assert recorder.recorded == 0


def test_rounds_that_recorded_are_not_measured():
    _, graphed, _ = pair("tiny-untrained", NoPruning())
    variants = run_rounds(graphed, [NoPruning(), FastV(0.25, layer=1)], rounds=3, warmup=0)
    assert [variant.recorded for variant in variants] == [{0}, {0}]
    assert [variant.measured() for variant in variants] == [[1, 2], [1, 2]]


def test_without_cuda_graphs_are_refused():
    with pytest.raises(UserError, match="--cuda-graphs is given; it needs a CUDA device"):
        load(ProfileConfig(cuda_graphs=True, device="cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", methods())
def test_cuda_graphs(name):
    options = {"suite": "libero_spatial", "device": "cuda", "dtype": "float32"}
    plain, graphed = (load_policy("tiny-untrained", tiny(name), **options) for _ in range(2))
    graphed.graphs = Graphs()
    memories = [start(policy, tiny(name)) for policy in (plain, graphed)]
    for _ in range(CALLS):
        chunks = [
            act(policy, call_of(memory))
            for policy, memory in zip((plain, graphed), memories, strict=True)
        ]
        check_same(*chunks)
    assert (len(graphed.graphs) > 0) == (not tiny(name).keeps_cache)
