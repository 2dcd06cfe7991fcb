"""VLA-Pruner on made-up attention: warm-up, history, union and filter."""

from dataclasses import replace

import pytest
import torch

from tests.methods import shape
from vlaprune_bench.pruning.select import max_min
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.types import UserError

CODE = VlaPruner(keep=0.25, reading="code").resolve(shape())


def play(pruner, make_context, layout, calls):
    """Contexts, kept tokens and the memory of an episode of so many calls."""
    memory, contexts, kept = pruner.start(), [], []
    for call in range(calls):
        context = make_context(layout, layer=pruner.layer, seed=call, call=call)
        selection = pruner.select(context, memory)
        pruner.finish(replace(context, layer=32), memory)
        contexts.append(context)
        kept.append(None if selection is None else selection.index.tolist())
    return contexts, kept, memory


@pytest.mark.parametrize("policy", ["openvla", "oft"])
@pytest.mark.parametrize("window", [1, 3])
def test_nothing_is_dropped_until_the_window_is_full(layouts, make_context, policy, window):
    layout = layouts[policy]
    _, kept, memory = play(replace(CODE, window=window), make_context, layout, 5)
    assert [index is None for index in kept] == [call < window for call in range(5)]
    for index in kept[window:]:
        assert layout.per_camera(index) == [4] * len(layout.grids)
    assert len(memory.calls) == window


def test_history_is_the_attention_of_the_action_rows(layouts, make_context):
    layout = layouts["openvla"]
    contexts, _, memory = play(CODE, make_context, layout, 4)
    rows = [layout.length - 1 + i for i in range(7)]
    for context, remembered in zip(contexts[1:], memory.calls, strict=True):
        torch.testing.assert_close(remembered, context.decoder.maps[15][rows].mean(0))
    contexts, _, memory = play(
        VlaPruner(keep=0.25).resolve(shape()), make_context, layouts["oft"], 1
    )
    rows = list(layouts["oft"].action_rows)
    maps = torch.stack([contexts[0].decoder.maps[layer][rows] for layer in range(16, 32)])
    torch.testing.assert_close(memory.calls[0], maps.mean((0, 1)))


def test_readings_weigh_the_history_in_opposite_order(layouts, make_context):
    _, _, memory = play(CODE, make_context, layouts["openvla"], 3)
    oldest, middle, newest = memory.calls
    paper = VlaPruner(decay=0.5).guide(memory)
    wanted = oldest / 4 + middle / 2 + newest
    torch.testing.assert_close(paper, wanted / wanted.sum())
    code = VlaPruner(decay=0.5, reading="code").guide(memory)
    wanted = oldest + middle / 2 + newest / 4
    torch.testing.assert_close(code, (wanted / wanted.sum()).bfloat16())


@pytest.mark.parametrize("criterion", ["last", "prefill"])
@pytest.mark.parametrize("policy", ["openvla", "oft"])
def test_the_union_is_filtered_by_diversity(layouts, make_context, policy, criterion):
    layout = layouts[policy]
    pruner = VlaPruner(keep=0.25, criterion=criterion).resolve(shape())
    memory = play(pruner, make_context, layout, 3)[2]
    context = make_context(layout, layer=3, seed=9)
    guide = pruner.guide(memory)
    kept = pruner.select(context, memory).index.tolist()

    attention = context.decoder.maps[2]
    last = criterion == "last" and policy == "openvla"
    semantic = attention[layout.length - 1] if last else attention[: layout.actions.start].mean(0)
    wanted, macs = [], 0
    for camera in range(len(layout.grids)):
        part = layout.camera(camera)
        union = set(semantic[part].topk(4).indices.tolist())
        union |= set(guide[part].topk(4).indices.tolist())
        assert len(union) > 4
        index = part.start + torch.tensor(sorted(union))
        x = torch.nn.functional.normalize(context.patches[index], dim=1)
        wanted += index[max_min(1 - x @ x.T, 4)].tolist()
        macs += len(union) ** 2 * 8
    assert kept == sorted(wanted)
    assert context.decoder.macs == macs


def test_layers_follow_the_reading_and_the_model():
    assert VlaPruner().resolve(shape()).tapped_layers == (2, *range(16, 32))
    assert VlaPruner().resolve(shape(4)).tapped_layers == (2, 3)
    assert CODE.tapped_layers == (2, 15)
    assert VlaPruner(layer=1, action_layers=(2, 3)).resolve(shape()).tapped_layers == (0, 2, 3)
    with pytest.raises(UserError, match=r"--action-layers is 15; .* 0 to 3\."):
        VlaPruner(reading="code").resolve(shape(4))
    with pytest.raises(UserError, match="--layer is 3; this model has decoder layers 0 to 2"):
        VlaPruner().resolve(shape(3))


@pytest.mark.parametrize(
    ("option", "value"),
    [("layer", 0), ("window", 0), ("decay", 0), ("criterion", "first"), ("reading", "prose")],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(UserError, match=f"--{option} is {value}"):
        VlaPruner(**{option: value})


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.875])
@pytest.mark.parametrize("criterion", ["last", "prefill"])
def test_equals_the_reference_over_whole_episodes(reference_episodes, criterion, ratio):
    """Warm-up, history, kept tokens and generated ids."""
    pruner = VlaPruner(keep=1 - ratio, criterion=criterion, reading="code")
    reference_episodes.check(pruner, f"vlapruner_{criterion}", ratio)
