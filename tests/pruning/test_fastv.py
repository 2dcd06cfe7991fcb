"""FastV on made-up attention."""

import pytest
import torch

from tests.methods import shape
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.types import UserError


def test_keeps_what_the_last_row_attends_to(layouts, make_context):
    layout = layouts["openvla"]
    context = make_context(layout, layer=3)
    kept = FastV(keep=0.25).select(context, None)
    scores = context.decoder.maps[2][layout.length - 1]
    assert kept.index.tolist() == sorted(scores.topk(4).indices.tolist())
    assert context.decoder.asked == [(2, [layout.length - 1])]


def test_a_bidirectional_policy_means_over_prefill_rows_and_keeps_a_share_of_each_camera(
    layouts, make_context
):
    layout = layouts["oft"]
    context = make_context(layout, layer=5)
    kept = FastV(keep=0.25, layer=5, camera_split=(1, 3)).select(context, None)
    scores = context.decoder.maps[4][: layout.actions.start].mean(0)
    main, wrist = scores[:16].topk(2).indices, 16 + scores[16:].topk(6).indices
    assert kept.index.tolist() == sorted(main.tolist() + wrist.tolist())


def test_it_acts_at_its_layer_and_taps_the_one_before():
    pruner = FastV(layer=7)
    assert (pruner.layers, pruner.tapped_layers) == ((7,), (6,))
    assert not pruner.renumber_positions


def test_layers_without_a_layer_before_are_refused():
    with pytest.raises(UserError, match="--layer is 0"):
        FastV(layer=0)
    assert FastV(layer=3).resolve(shape(4)) == FastV(layer=3)
    with pytest.raises(UserError, match="--layer is 4; this model has decoder layers 0 to 3"):
        FastV(layer=4).resolve(shape(4))


def test_tokens_that_left_are_neither_kept_nor_asked(layouts, make_context):
    layout = layouts["oft"]
    alive = torch.tensor([0, 1, 2, 3, 20, 21, 22, 23])
    context = make_context(layout, layer=3, alive=alive)
    kept = FastV(keep=0.125).select(context, None).index.tolist()
    assert set(kept) < set(context.alive.tolist())
    assert layout.per_camera(kept) == [2, 2]
    rows = context.decoder.asked[0][1]
    assert rows == [0, 1, 2, 3, 4, 21, 22, 23, 24, *range(33, layout.actions.start)]
    # scores of zero do not bring a gone token back
    context.decoder.maps[2].zero_()
    assert set(FastV(keep=0.125).select(context, None).index.tolist()) < set(context.alive.tolist())
    # no more can stay than there are
    assert FastV(keep=0.5).select(context, None) is None


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.875])
def test_equals_the_reference_over_whole_episodes(reference_episodes, ratio):
    reference_episodes.check(FastV(keep=1 - ratio), "fastv", ratio)
