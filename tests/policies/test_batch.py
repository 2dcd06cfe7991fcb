"""Calls of several episodes at once: each is what it would be alone, and layers run for many."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.methods import tiny
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.base import PolicyCall
from vlaprune_bench.policies.prismatic.model import Prismatic
from vlaprune_bench.policies.transformer.llama import LanguageModel
from vlaprune_bench.pruning import Pruner, Selection, methods
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.vla_cache import VlaCache
from vlaprune_bench.types import UserError

CHECKPOINTS = ("tiny-untrained", "tiny-openvla")
SHORT = "turn on the stove"
TOLERANCE = {"rtol": 0, "atol": 2e-5}
"""float32 products of a batch add up in another order; actions are of order 1."""


@cache
def load(checkpoint, attention="sdpa"):
    return load_policy(
        checkpoint, NoPruning(), suite="libero_spatial", device="cpu", attention=attention
    )


@pytest.fixture(params=CHECKPOINTS)
def policy(request):
    return load(request.param)


@pytest.fixture
def runs(monkeypatch):
    """What the networks computed: ("vision", batch) and (first layer, end, tokens, batch)."""
    seen, patches, run_layers = [], Prismatic.patches, LanguageModel.run_layers

    def count_patches(self, pixels_BCHW):
        seen.append(("vision", len(pixels_BCHW)))
        return patches(self, pixels_BCHW)

    def count_layers(self, hidden_BND, positions, layers, *rest):
        batch, tokens = hidden_BND.shape[:2]
        seen.append((layers.start, layers.stop, tokens, batch))
        return run_layers(self, hidden_BND, positions, layers, *rest)

    monkeypatch.setattr(Prismatic, "patches", count_patches)
    monkeypatch.setattr(LanguageModel, "run_layers", count_layers)
    return seen


def start(policy, pruner, instruction=INSTRUCTION, seed=0):
    policy.pruner = pruner
    return policy.start(instruction, seed)


def call_of(memory, episode=0):
    """The next call; episodes look at different frames."""
    return PolicyCall(memory, observation(memory.call + episode), poses(memory.call))


def act(policy, call):
    return policy.act(call.memory, call.observation, call.eef_poses)


def check_same(one, other):
    """The same tokens and the same cost to the last FLOP, the same actions but for rounding."""
    np.testing.assert_allclose(one.actions, other.actions, **TOLERANCE)
    a, b = (asdict(chunk.measures) for chunk in (one, other))
    own = {k for k in a if k.startswith("latency_")} | {"batch_size"}
    assert {k: a[k] for k in a.keys() - own} == {k: b[k] for k in b.keys() - own}


def check_episodes(policy, episodes, calls=4):
    """Plays (pruner, instruction) twice, at once and one by one; returns the batched chunks."""
    memories = [
        [start(policy, *episode, seed) for seed, episode in enumerate(episodes)] for _ in range(2)
    ]
    chunks = []
    # calls whose towers' outputs are fused go through the towers apart from the others
    most = max(Counter(pruner.fuses for pruner, _ in episodes).values())
    for _ in range(calls):
        batch, single = ([call_of(m, i) for i, m in enumerate(ms)] for ms in memories)
        many = policy.act_many(batch)
        for one, call in zip(many, single, strict=True):
            alone = act(policy, call)
            check_same(one, alone)
            assert (one.measures.batch_size, alone.measures.batch_size) == (most, 1)
        chunks += many
    return chunks


@pytest.mark.parametrize("name", methods())
def test_every_method_at_once_is_the_method_alone(policy, name):
    pruner = tiny(name)
    other = FastV(0.5, layer=2) if name == "none" else NoPruning()
    chunks = check_episodes(policy, [(pruner, INSTRUCTION), (other, INSTRUCTION), (pruner, SHORT)])
    own = [chunk.measures.pruned for i, chunk in enumerate(chunks) if i % 3 != 1]
    assert any(own) == (name != "none")


@pytest.mark.parametrize("pruner", [VlaCache(), FastV(0.25, layer=1)], ids=lambda p: p.name)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_eager_attention(checkpoint, pruner):
    check_episodes(load(checkpoint, "eager"), [(pruner, INSTRUCTION)] * 2, calls=2)


@dataclass(frozen=True)
class Reusing(Pruner):
    """From the second call on computes every fourth visual token, from `first` on."""

    first: int = 0
    layers = (1,)
    keeps_cache = True

    def select(self, context, memory):
        computed = torch.arange(self.first, context.layout.n_visual, 4)
        return Selection(computed, reuse=True) if context.call else None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_calls_of_one_length_see_each_its_own_tokens(checkpoint, attention, runs):
    """In a causal model each then has a mask of its own."""
    policy = load(checkpoint, attention)
    episodes = [(Reusing(first), INSTRUCTION) for first in (0, 3)]
    check_episodes(policy, episodes, calls=2)
    layout = policy.start(INSTRUCTION, 0).layout
    left = layout.length - layout.n_visual * 3 // 4
    assert (1, 4, left, 2) in runs


def test_networks_run_once_for_calls_of_one_length(policy, runs):
    memories = [start(policy, NoPruning(), seed=i) for i in range(3)]
    policy.act_many([call_of(m, i) for i, m in enumerate(memories)])
    layout = memories[0].layout
    decoded = [(0, 4, 1, 3)] * max(0, layout.n_generated - 1)
    assert runs == [("vision", 3), (0, 4, layout.length, 3), *decoded]


def test_lengths_that_differ_run_apart(policy, runs):
    memories = [start(policy, NoPruning(), text) for text in (INSTRUCTION, SHORT, INSTRUCTION)]
    policy.act_many([call_of(m, i) for i, m in enumerate(memories)])
    long, short = (memories[i].layout.length for i in (0, 1))
    assert long > short
    decoded = [(0, 4, 1, 2), (0, 4, 1, 1)] * max(0, memories[0].layout.n_generated - 1)
    assert runs == [("vision", 3), (0, 4, long, 2), (0, 4, short, 1), *decoded]


def test_methods_part_where_their_lengths_do_and_meet_where_they_can(policy, runs):
    half, quarter = FastV(0.5, layer=2), FastV(0.25, layer=2)
    full = start(policy, NoPruning())
    others = [start(policy, p, seed=i) for i, p in enumerate([half, quarter, half])]
    policy.act_many([call_of(m, i) for i, m in enumerate([full, *others])])
    n, v = full.layout.length, full.layout.n_visual
    assert runs[:5] == [
        ("vision", 4),
        (0, 2, n, 4),
        (2, 4, n, 1),
        (2, 4, n - v // 2, 2),
        (2, 4, n - 3 * v // 4, 1),
    ]
    # a decode step sees other numbers of keys in the later layers, but all of them in the first
    steps = [(0, 2, 1, 4), (2, 4, 1, 1), (2, 4, 1, 2), (2, 4, 1, 1)]
    assert runs[5:] == steps * max(0, full.layout.n_generated - 1)


def test_an_episode_may_go_on_alone_or_with_others(policy):
    """Keys and values of the previous call come from a batch, from a call alone, from a batch."""
    episode, twin = (start(policy, VlaCache()) for _ in range(2))
    for number, partners in enumerate((2, 0, 1, 0)):
        others = [start(policy, VlaCache(), seed=i) for i in range(partners)]
        policy.pruner = NoPruning()  # of whoever starts next
        many = policy.act_many([*map(call_of, others), call_of(episode)])
        check_same(many[-1], act(policy, call_of(twin)))
        assert many[-1].measures.pruned == (number > 0)
        for kept, alone in zip(episode.cache.keys.values(), twin.cache.keys.values(), strict=True):
            # what is remembered holds no other episode's in memory
            assert kept.untyped_storage().nbytes() == alone.untyped_storage().nbytes()


@dataclass(frozen=True)
class Faulty(Pruner):
    """Fails in a way of choice at the second call."""

    fault: str = "none"

    def select(self, context, memory):
        if context.call and self.fault == "select":
            raise UserError("--fault is select.")
        if context.call and self.fault == "nan":
            index = torch.arange(9)
            return Selection(index, torch.full((9, context.patches.shape[1]), float("nan")))
        return None

    def finish(self, context, memory):
        if context.call and self.fault == "finish":
            raise KeyError("finish")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("nan", RuntimeError, "policy call 1 gave actions that are not finite"),
        ("select", UserError, "--fault is select"),
        ("finish", KeyError, "finish"),
        ("blind", ValueError, "the policy needs the images of"),
    ],
)
def test_a_call_that_fails_fails_alone(policy, place, fault, error, sentence):
    memories = [start(policy, NoPruning(), seed=i) for i in range(2)]
    twins = [start(policy, NoPruning(), seed=i) for i in range(2)]
    memories.insert(place, start(policy, Faulty(fault)))
    policy.act_many([call_of(m) for m in memories])
    calls = [call_of(m, i) for i, m in enumerate(memories)]
    if fault == "blind":
        blind = replace(calls[place].observation, images=None)
        calls[place] = replace(calls[place], observation=blind)
    answers = policy.act_many(calls)
    failed, sound = answers.pop(place), [call for i, call in enumerate(calls) if i != place]
    with pytest.raises(error, match=sentence):
        raise failed
    assert [m.call for m in memories] == [1 if i == place else 2 for i in range(3)]
    for answer, call, twin in zip(answers, sound, twins, strict=True):
        act(policy, call_of(twin))
        check_same(answer, act(policy, replace(call, memory=twin)))
        assert answer.measures.batch_size == (2 if fault == "blind" else 3)


def test_what_fails_for_all_is_raised(policy, monkeypatch):
    def full(*args):
        raise MemoryError

    monkeypatch.setattr(LanguageModel, "run_layers", full)
    with pytest.raises(MemoryError):
        policy.act_many([call_of(start(policy, NoPruning())) for _ in range(2)])


def test_latency_is_that_of_the_batch(policy):
    memories = [start(policy, FastV(0.5, layer=2), seed=i) for i in range(2)]
    one, two = (c.measures for c in policy.act_many([call_of(m) for m in memories]))
    columns = [name for name in asdict(one) if name.startswith("latency_")]
    assert [getattr(one, c) for c in columns] == [getattr(two, c) for c in columns]
    stages = {c: getattr(one, c) for c in columns if c != "latency_total_ms"}
    assert one.latency_total_ms == pytest.approx(sum(stages.values()))
    decodes = memories[0].layout.n_generated > 0
    assert {c for c, ms in stages.items() if ms == 0} == (
        {"latency_denoise_ms"} | (set() if decodes else {"latency_decode_ms"})
    )


def test_time_is_paid_in_the_stage_that_runs(policy, runs, monkeypatch):
    enter = StageTimer.enter

    def note(timer, stage):
        runs.append(stage)
        enter(timer, stage)

    monkeypatch.setattr(StageTimer, "enter", note)
    episodes = [(FastV(0.5, layer=1), INSTRUCTION), (FastV(0.5, layer=2), SHORT)]
    policy.act_many([call_of(start(policy, *episode)) for episode in episodes])
    stage, paid = None, set()
    for event in runs:
        if isinstance(event, str):
            stage = event
            continue
        wanted = "decode" if event[-2] == 1 else "prefill"
        assert stage == ("vision" if event[0] == "vision" else wanted)
        paid.add(stage)
    assert paid >= {"vision", "prefill"}


def test_sampled_calls_are_counted_one_by_one(policy, monkeypatch):
    monkeypatch.setattr(policy, "count_every", 2)
    chunks = check_episodes(policy, [(FastV(0.5, layer=2), INSTRUCTION)] * 2, calls=2)
    counted = [chunk.measures.counted_flops for chunk in chunks]
    assert counted[2:] == [None, None]
    for chunk in chunks[:2]:
        assert chunk.measures.counted_flops == pytest.approx(chunk.measures.total_flops, rel=0.01)


def test_an_episode_keeps_the_method_it_began_with(policy):
    memory = start(policy, FastV(0.5, layer=2))
    policy.pruner = NoPruning()
    assert act(policy, call_of(memory)).measures.pruned
    assert not act(policy, call_of(policy.start(SHORT, 0))).measures.pruned


def test_one_episode_cannot_make_two_calls_at_once(policy):
    memory = start(policy, NoPruning())
    with pytest.raises(ValueError, match="two calls of one episode"):
        policy.act_many([call_of(memory), call_of(memory)])
    assert policy.act_many([]) == []
