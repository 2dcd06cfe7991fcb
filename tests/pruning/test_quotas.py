"""Every method with a budget keeps exactly its quotas, whatever the budget and the split."""

from dataclasses import replace

import numpy as np
import pytest

from tests.methods import tiny
from tests.pruning.conftest import ask
from vlaprune_bench.pruning import BudgetPruner, ScoredPruner, methods
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.select import split_quotas
from vlaprune_bench.types import TokenLayout, UserError

KEEPS = (1e-6, 0.001, 0.03, 0.3, 0.5, 0.501, 0.77, 0.999, 1.0)
LAYOUTS = {
    "one camera": TokenLayout(((4, 4),), n_prompt=6, n_generated=7),
    "two": TokenLayout(((4, 4),) * 2, n_prompt=6, has_proprio=True, n_actions=14, has_stop=True),
    "unequal": TokenLayout(((4, 4), (3, 5), (1, 2)), n_prompt=6, n_actions=14, has_stop=True),
}
SPLITS = {
    "one camera": ((), (1,), (0.2,)),
    "two": ((), (1, 0), (0, 1), (0.4, 0.6), (3, 1), (1e-9, 1)),
    "unequal": ((), (1, 0, 0), (0, 0, 1), (0, 1, 1), (0.2, 0.3, 0.5)),
}
BUDGET = [name for name, cls in methods().items() if issubclass(cls, BudgetPruner)]
SCORED = [name for name in BUDGET if issubclass(methods()[name], ScoredPruner)]
SOME = {"gate": MotionGate(initial_state=True), "window": 1, "action_layers": (5,)}


def prepared(name, keep, split, layout):
    """The method, made to prune at the first call it may."""
    pruner = replace(tiny(name), keep=keep, camera_split=split)
    own = {key: value for key, value in SOME.items() if hasattr(pruner, key)}
    return replace(pruner, **own).resolve(ModelShape(32, layout.grids))


def played(pruner, make_context, layout):
    """Visual tokens kept in each camera after each layer, in a call that follows another."""
    memory, start = pruner.start(), make_context(layout, layer=32)
    pruner.finish(start, memory)
    context = make_context(layout, seed=1, poses=np.tile(np.eye(7)[6], (9, 1)))
    kept = []
    for layer in pruner.layers:
        index = ask(pruner, context, memory, layer)
        assert index == sorted(set(index))
        kept.append(layout.per_camera(index))
    return kept


@pytest.mark.parametrize("cameras", LAYOUTS)
@pytest.mark.parametrize("name", BUDGET)
def test_a_method_keeps_its_quotas(make_context, name, cameras):
    layout = LAYOUTS[cameras]
    for keep in KEEPS:
        for split in SPLITS[cameras]:
            pruner = prepared(name, keep, split, layout)
            (kept,) = played(pruner, make_context, layout)
            k = pruner.budget(layout.n_visual)
            assert 1 <= k == sum(kept) <= layout.n_visual
            assert kept == split_quotas(k, layout.visual_counts, split), (keep, split)
            # what has no share gets none while others have tokens to keep
            spare = sum(n for n, w in zip(layout.visual_counts, split, strict=False) if w)
            if split and k <= spare:
                assert not any(n for n, w in zip(kept, split, strict=True) if not w)


@pytest.mark.parametrize("name", SCORED)
def test_a_schedule_keeps_its_quotas_at_each_layer(make_context, name):
    if name == "adp":
        pytest.skip("a schedule refuses a gate")
    layout = LAYOUTS["two"]
    for split in SPLITS["two"]:
        scorer = prepared(name, 0.8, split, layout)
        pruner = Schedule(scorer, later_layers=(5, 9), later_keeps=(0.5, 0.001))
        left = layout.visual_counts
        played_steps = zip(pruner.steps.values(), played(pruner, make_context, layout), strict=True)
        for step, kept in played_steps:
            left = split_quotas(step.budget(layout.n_visual), left, split)
            assert kept == left, split


@pytest.mark.parametrize("name", BUDGET)
@pytest.mark.parametrize(
    ("split", "said"),
    [
        ((1, 1, 1), "--camera-split is 1 1 1; that is 3 shares, and this policy has 2 cameras."),
        ((-1, 2), "--camera-split is -1 2; each must be at least 0."),
        ((0, 0), "--camera-split is 0 0; a share at least must be above 0,"),
        ((float("inf"), 1), "--camera-split is inf 1; "),
        ((float("nan"), 1), "--camera-split is nan 1; "),
    ],
)
def test_a_split_that_cannot_be_is_named(name, split, said):
    with pytest.raises(UserError) as caught:
        prepared(name, 0.5, split, LAYOUTS["two"])
    assert str(caught.value).startswith(said)
