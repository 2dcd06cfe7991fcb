"""Composition: a gate around a method, a budget per camera, a keep schedule over layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlaprune_bench.pruning import methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.divprune import DivPrune
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.vla_pruner import VlaPruner
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
            assert kept.tolist() == FastV(keep=0.25).select(context, None).tolist()
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
        pruner.check(4)
    assert Gated(VlaPruner(), GATE).fit(4).inner == VlaPruner(action_layers=(2, 3))


def test_full_calls_still_feed_the_history_inside(make_context):
    pruner = Gated(VlaPruner(keep=0.25, window=2), GATE).fit(32)
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


@pytest.mark.parametrize("name", [n for n in methods() if n not in ("none", "adp", "gated")])
def test_every_method_fits_into_the_gate(name):
    inner = methods()[name]()
    assert Gated(inner, GATE).layers == inner.layers


def test_a_budget_per_camera_is_an_option_of_every_method_with_a_budget(layouts, make_context):
    layout = layouts["oft"]
    for pruner in (FastV(), DivPrune(), RandomTokens(), VlaPruner(window=1)):
        pruner = replace(pruner, keep=0.5, camera_split=(0.25, 0.75)).fit(32)
        memory = pruner.start()
        layer = pruner.layers[0]
        pruner.finish(make_context(layout, layer=32), memory)
        kept = pruner.select(make_context(layout, layer=layer), memory)
        assert layout.per_camera(kept.tolist()) == [4, 12], pruner.name
        with pytest.raises(UserError, match="--camera-split has 3 shares"):
            replace(pruner, camera_split=(1, 1, 1)).select(
                make_context(layout, layer=layer), memory
            )


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
            kept = pruner.select(context, memory)
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
    first = pruner.select(make_context(layer=0), memory)
    second = pruner.select(make_context(layer=4, alive=first), memory).tolist()
    assert second == RandomTokens(keep=0.25).select(make_context(layer=4), None).tolist()
    assert set(second) < set(first.tolist())


def test_a_first_step_that_keeps_all_leaves_all_to_the_next(make_context):
    pruner = Schedule(FastV(keep=1.0), later_layers=(4,), later_keeps=(0.25,))
    memory = pruner.start()
    assert pruner.select(make_context(layer=3), memory) is None
    context = make_context(layer=4)
    wanted = FastV(keep=0.25, layer=4).select(context, None)
    assert pruner.select(context, memory).tolist() == wanted.tolist()


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
    Schedule().check(16)
    with pytest.raises(UserError, match=r"--later-layers is 9 15; .* 0 to 14\."):
        Schedule().check(15)
