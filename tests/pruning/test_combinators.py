"""Composition: a gate around a method, a budget per camera, a keep schedule over layers."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.methods import shape
from vlaprune_bench.pruning import Pruner, ScoredPruner, Selection, methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.divprune import DivPrune
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.pruning.wrapper import Wrapper
from vlaprune_bench.types import UserError

GATE = MotionGate(rule="avg", max_consecutive_pruned=0)


def windows(*displacements):
    """Poses per call: one straight move of 8 steps before each of calls 1, 2, ..."""
    positions = np.concatenate([[0.0], *(np.full(8, d / 8) for d in displacements)]).cumsum()
    poses = np.zeros((len(positions), 7))
    poses[:, 0], poses[:, 6] = positions, 1
    calls = range(1, len(displacements) + 1)
    return [poses[:1], *(poses[8 * i - 8 : 8 * i + 1] for i in calls)]


def test_the_gate_decides_which_calls_prune(make_context):
    pruner = Gated(FastV(keep=0.25), GATE)
    memory = pruner.start()
    # the running mean is 0.1, 0.15, 0.08, 0.19: the third window is below it
    decisions = []
    for call, poses in enumerate(windows(0.1, 0.2, 0.01, 0.3)):
        context = make_context(layer=3, seed=call, poses=poses)
        kept = pruner.select(context, memory)
        decisions.append(kept is not None)
        if kept is not None:
            assert kept.index.tolist() == FastV(keep=0.25).select(context, None).index.tolist()
    assert decisions == [False, True, True, False, True]


def test_the_gate_around_the_method_it_was_made_for_is_adp():
    """Same options, same decisions: `adp` is `static` behind the gate."""
    gated, adp = Gated(Static(keep=0.3), GATE), Adp(keep=0.3, gate=GATE)
    one, two = gated.start(), adp.start()
    for poses in windows(0.1, 0.2, 0.01, 0.3, 0.02):
        gated.gate.decide(one.gate, poses, "paper")
        assert one.gate.state == adp.gate.decide(two, poses, adp.reading)
    assert gated.layers == adp.layers
    assert gated.renumber_positions == adp.renumber_positions
    assert gated.keep_ratio == adp.keep_ratio


def test_the_gate_passes_on_what_the_method_inside_says():
    inner = VlaPruner(keep=0.3, layer=2, action_layers=(5,))
    pruner = Gated(inner, GATE)
    assert (pruner.layers, pruner.tapped_layers, pruner.keep_ratio) == ((2,), (1, 5), 0.3)
    with pytest.raises(UserError, match="--action-layers is 5"):
        pruner.resolve(shape(4))
    assert Gated(VlaPruner(), GATE).resolve(shape(4)).inner == VlaPruner(action_layers=(2, 3))


def test_full_calls_still_feed_the_history_inside(make_context):
    pruner = Gated(VlaPruner(keep=0.25, window=2), GATE).resolve(shape())
    memory = pruner.start()
    pruned = []
    for call, poses in enumerate(windows(0.1, 0.01, 0.3)):
        context = make_context(layer=3, seed=call, poses=poses)
        pruned.append(pruner.select(context, memory) is not None)
        pruner.finish(replace(context, layer=32), memory)
    # call 1 may prune but is warm-up, call 2 is full: both entered the history
    assert pruned == [False, False, False, True]
    assert len(memory.inner.calls) == 2


def test_the_gate_decides_once_a_call_for_a_method_asked_at_many_layers(make_context):
    steps = Schedule(FastV(keep=0.5), later_layers=(5,), later_keeps=(0.25,))
    pruner = Gated(steps, MotionGate(initial_state=True, max_consecutive_pruned=2))
    memory = pruner.start()
    for call, poses in enumerate(windows(0.1, 0.1, 0.1)):
        for layer in (3, 5):
            context = make_context(layer=layer, seed=call, poses=poses)
            assert (pruner.select(context, memory) is not None) == (call != 2)


@pytest.mark.parametrize("name", [n for n in methods() if n not in ("none", "adp", "gated", "ttf")])
def test_every_method_fits_into_the_gate(name):
    inner = methods()[name]()
    assert Gated(inner, GATE).layers == inner.layers


@dataclass(frozen=True)
class Wrapped(Wrapper):
    inner: Pruner = FastV()


@dataclass(frozen=True)
class Unlike(ScoredPruner):
    """Differs from a plain method in every member."""

    name = "unlike"
    keep_ratio = 0.125
    layers, tapped_layers = (2, 3), (1,)
    renumber_positions = keeps_cache = reads_motion = True

    def caveat(self, checkpoint):
        return f"not on {checkpoint}"

    def canonical(self):
        return replace(self, keep=0.75)

    def resolve(self, model):
        return replace(self, keep=1 - 1 / model.n_layers)

    def start(self):
        return []

    def select(self, context, memory):
        memory.append("select")
        return Selection(torch.arange(3))

    def finish(self, context, memory):
        memory.append("finish")


@dataclass(frozen=True)
class Fusing(Unlike):
    fuses = True

    def fuse(self, vision, memory):
        memory.append(vision)
        return [], 7


MEMBERS = sorted({name for name in vars(Pruner) if not name.startswith("_")} - {"name"})


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("around", [Wrapped, Gated, Schedule])
def test_every_member_of_the_method_inside_is_forwarded(make_context, around, member):
    """`Schedule` once forgot `keeps_cache`; a member that `Pruner` gets is asked for here."""
    fusing = member in ("fuses", "fuse")
    if fusing and around is Gated:
        with pytest.raises(UserError, match="--inner is unlike; it drops no tokens that a gate"):
            Gated(Fusing())
        return
    inner = Fusing() if fusing else Unlike()
    pruner = around(inner)
    own = {
        Gated: {"start", "select", "finish", "reads_motion"},
        Schedule: {"keep_ratio", "layers", "select"},
    }
    if member in own.get(around, set()):
        assert member in vars(around)  # what it is for
    elif member in ("canonical", "resolve"):
        args = [shape()] if member == "resolve" else []
        assert getattr(pruner, member)(*args).held == getattr(inner, member)(*args)
    elif member in ("select", "finish"):
        context, one, two = make_context(layer=2), [], []
        asked, alone = getattr(pruner, member), getattr(inner, member)
        assert (asked(context, one) is None) == (alone(context, two) is None)
        assert one == two == [member]
    elif member == "caveat":
        assert pruner.caveat("x") == inner.caveat("x") == "not on x"
    elif member == "fuse":
        memory = []
        assert pruner.fuse("vision", memory) == ([], 7)
        assert memory == ["vision"]
    elif member == "start":
        assert pruner.start() == inner.start() == []
    else:
        assert getattr(pruner, member) == getattr(inner, member) != getattr(Pruner(), member)


@pytest.mark.parametrize("policy", ["openvla", "oft"])
def test_a_schedule_scores_anew_at_each_layer_among_what_is_left(layouts, make_context, policy):
    layout = layouts[policy]
    pruner = Schedule(FastV(keep=0.75, layer=2), later_layers=(4, 7), later_keeps=(0.5, 0.25))
    assert (pruner.layers, pruner.tapped_layers) == ((2, 4, 7), (1, 3, 6))
    assert pruner.keep_ratio == 0.25
    memory = pruner.start()
    for call in range(2):
        left, alive = torch.arange(layout.n_visual), None
        for layer, keep in ((2, 0.75), (4, 0.5), (7, 0.25)):
            context = make_context(layout, layer=layer, seed=call, alive=alive)
            kept = pruner.select(context, memory).index
            asked, rows = context.decoder.asked[0]
            assert asked == layer - 1
            scores = context.decoder.maps[layer - 1][rows].mean(0)
            wanted = []
            for camera in range(len(layout.grids)):
                part = layout.camera(camera)
                here = left[(left >= part.start) & (left < part.stop)]
                wanted += here[scores[here].topk(round(16 * keep)).indices].tolist()
            assert kept.tolist() == sorted(wanted)
            left = alive = kept


def test_a_score_that_knows_no_layer_drops_the_next_best(make_context):
    pruner = Schedule(RandomTokens(keep=0.5), later_layers=(4,), later_keeps=(0.25,))
    memory = pruner.start()
    first = pruner.select(make_context(layer=0), memory).index
    second = pruner.select(make_context(layer=4, alive=first), memory).index.tolist()
    assert second == RandomTokens(keep=0.25).select(make_context(layer=4), None).index.tolist()
    assert set(second) < set(first.tolist())


def test_a_first_step_that_keeps_all_leaves_all_to_the_next(make_context):
    pruner = Schedule(FastV(keep=1.0), later_layers=(4,), later_keeps=(0.25,))
    memory = pruner.start()
    assert pruner.select(make_context(layer=3), memory) is None
    context = make_context(layer=4)
    wanted = FastV(keep=0.25, layer=4).select(context, None)
    assert pruner.select(context, memory).index.tolist() == wanted.index.tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scorer": DivPrune()}, "--scorer is divprune; it has no score"),
        ({"scorer": Adp()}, "--scorer is adp; put gated around schedule"),
        ({"later_layers": (3, 9)}, "--later-layers is 3 9; the layers must ascend from above 3"),
        ({"later_layers": (9, 9)}, "--later-layers is 9 9; the layers must ascend"),
        ({"later_layers": ()}, "--later-layers is empty; the layers must ascend"),
        ({"later_keeps": (0.5,)}, "--later-keeps is 0.5; there are 2 layers"),
        ({"later_keeps": (0.8, 0.3)}, "--later-keeps is 0.8 0.3; the shares must be above 0"),
        ({"later_keeps": (0.5, 0)}, "--later-keeps is 0.5 0; the shares must be above 0"),
    ],
)
def test_bad_schedules_are_named(options, sentence):
    with pytest.raises(UserError) as caught:
        Schedule(**options)
    assert sentence in str(caught.value)


def test_a_schedule_fits_its_model():
    assert Schedule().resolve(shape(16)) == Schedule()
    with pytest.raises(UserError, match=r"--later-layers is 9 15; .* 0 to 14\."):
        Schedule().resolve(shape(15))
