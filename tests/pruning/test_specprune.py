"""SpecPrune-VLA: its three sets, importance over layers, fine motion, and real networks."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.methods import shape
from tests.pruning.conftest import ask
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.scores import mean_entropy
from vlaprune_bench.pruning.specprune import SpecPrune
from vlaprune_bench.types import Observation, UserError

SMALL = SpecPrune(
    global_count=2,
    dynamic_count=3,
    local_count=1,
    local_count_fine=4,
    skip_text=2,
    global_layers=(3, 5),
    prune_layers=(4, 5),
)


def peaks(layout, wanted: dict[int, list[int]]) -> dict[int, torch.Tensor]:
    """Attention maps whose rows all rank the given tokens first, in that order, then by index."""
    maps = {}
    for layer in range(8):
        first = wanted.get(layer, [])
        order = [*first, *(i for i in range(layout.n_visual) if i not in first)]
        scores = torch.empty(layout.n_visual)
        scores[order] = torch.linspace(1, 0.1, layout.n_visual)
        maps[layer] = (scores / scores.sum()).repeat(layout.length + layout.n_generated, 1)
    return maps


def noise(cameras: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (cameras, 3, 224, 224), generator=random).float()


def redraw(frames: torch.Tensor, patches: list[int]) -> torch.Tensor:
    """New noise in given 56-pixel patches (16 a camera)."""
    changed, fresh = frames.clone(), noise(len(frames), seed=99)
    for patch in patches:
        camera, place = divmod(patch, 16)
        rows = slice(place // 4 * 56, place // 4 * 56 + 56)
        columns = slice(place % 4 * 56, place % 4 * 56 + 56)
        changed[camera, :, rows, columns] = fresh[camera, :, rows, columns]
    return changed


def steps(*moves, turn=0.0):
    """(2, 7) poses of one control step: translation in metres, then a turn about z."""
    poses = np.zeros((2, 7))
    poses[1, :3] = moves
    poses[:, 6] = 1.0
    poses[1, 5:] = np.sin(turn / 2), np.cos(turn / 2)
    return poses


FAST = steps(0.1, 0.0, 0.0)
SLOW = steps(0.001, 0.0, -0.001)


def episode(method, make_context, layout, before, now, drawn, poses=FAST):
    """Two calls, attention as `before` and `now` say, patches `drawn` changed in between.

    Returns:
        Visual tokens left from each of the method's layers on, in the second call; its context,
        in which the decoder knows what it was asked; the memory.
    """
    method, memory = method.resolve(shape(8, len(layout.grids), side=4)), method.start()
    frames = noise(len(layout.grids))
    context = replace(make_context(layout, maps=peaks(layout, before)), frames=frames)
    for layer in method.layers:
        ask(method, context, memory, layer)
        assert method.reading == "code" or context.alive is None
    method.finish(replace(context, layer=8), memory)
    context = make_context(layout, call=1, maps=peaks(layout, now), poses=poses)
    context = replace(context, frames=redraw(frames, drawn))
    left = {layer: ask(method, context, memory, layer) for layer in method.layers}
    return left, context, memory


def test_what_stays_is_the_union_of_global_dynamic_and_local(layouts, make_context):
    now = {0: [9], 1: [10]}
    left, _, _ = episode(
        SMALL, make_context, layouts["openvla"], {3: [5, 6], 5: [5, 6]}, now, drawn=[1, 14]
    )
    # two that changed, though three might be kept; unchanged ones are not dynamic
    assert left[2] == [1, 5, 6, 9, 10, 14]
    overlapping, _, _ = episode(
        SMALL, make_context, layouts["openvla"], {3: [5, 6], 5: [5, 6]}, {0: [5], 1: [1]}, [1, 14]
    )
    assert overlapping[2] == [1, 5, 6, 14]


def test_dynamic_tokens_are_limited_and_may_need_a_change(layouts, make_context):
    drawn = [0, 1, 2, 3, 4]
    before, now = {3: [15], 5: [15]}, {0: [15], 1: [15]}
    only = replace(SMALL, global_count=1)
    left, _, _ = episode(only, make_context, layouts["openvla"], before, now, drawn)
    assert len(left[2]) == 1 + 3
    assert set(left[2]) < {*drawn, 15}
    blind = replace(only, dynamic_similarity=0.1)
    left, _, _ = episode(blind, make_context, layouts["openvla"], before, now, drawn)
    assert left[2] == [15]


def test_counts_are_per_camera(layouts, make_context):
    layout = layouts["oft"]
    before = {3: [5, 6, 21, 22], 5: [5, 6, 21, 22]}
    now = {0: [9, 25], 1: [10, 26]}
    left, _, _ = episode(SMALL, make_context, layout, before, now, drawn=[1, 17])
    assert left[2] == [1, 5, 6, 9, 10, 17, 21, 22, 25, 26]


def test_global_is_the_mean_of_its_layers_of_those_still_there(layouts, make_context):
    layout = layouts["openvla"]
    method, memory = SMALL.resolve(shape(8, side=4)), SMALL.start()
    context = replace(make_context(layout, layer=8), frames=noise(1))
    context.decoder.maps[5][:, 8:] = 0  # these had left
    context.decoder.maps[3][:, 8:] = 0
    method.finish(context, memory)
    rows = list(range(layout.length))[layout.prompt_rest][2:]
    assert [asked for _, asked in context.decoder.asked] == [rows, rows]
    maps = [context.decoder.maps[layer][rows].mean(0) for layer in (3, 5)]
    torch.testing.assert_close(memory.global_V, (maps[0] + maps[1]) / 2)
    everything = replace(method, global_count=16, dynamic_count=0)
    now = replace(context, layer=2, call=1)
    left = ask(everything, now, memory, layer=2)
    local = {now.decoder.maps[layer][rows].mean(0).argmax().item() for layer in (0, 1)}
    assert set(memory.base_V.nonzero()[:, 0].tolist()) == set(range(8))
    assert set(left) == set(range(8)) | local


@pytest.mark.parametrize(
    ("poses", "fine"),
    [
        (SLOW, True),
        (FAST, False),
        (steps(0.001, 0, 0.001), False),  # rises
        (steps(0.001, 0, 0, turn=0.2), False),
        (steps(0.001, 0, 0, turn=0.05), True),
        (SLOW[:1], False),  # nothing is known
        (np.vstack([FAST[::-1], SLOW[1:] + FAST[0]]), True),  # only the last step counts
    ],
)
def test_fine_motion(poses, fine):
    assert SpecPrune().is_fine(poses) is fine


def test_slow_motion_keeps_more(layouts, make_context):
    before, now = {3: [0], 5: [0]}, {0: [4, 5, 6, 7], 1: [8, 9, 10, 11]}
    method = replace(SMALL, global_count=1)
    fast, _, _ = episode(method, make_context, layouts["openvla"], before, now, [], poses=FAST)
    slow, _, _ = episode(method, make_context, layouts["openvla"], before, now, [], poses=SLOW)
    assert fast[2] == [0, 4, 8]
    assert slow[2] == [0, *range(4, 12)]
    careless = replace(method, speed=0.0)
    never, _, _ = episode(careless, make_context, layouts["openvla"], before, now, [], poses=SLOW)
    assert never[2] == fast[2]


def test_importance_is_rank_by_confidence_averaged_over_layers(layouts, make_context):
    before, local = {3: [0], 5: [0]}, {0: [4, 5, 6, 7], 1: [8, 9, 10, 11]}
    now = {**local, 3: [11, 4, 8], 4: [4, 5, 6]}
    method = replace(SMALL, global_count=1, layer_keep=0.5)
    left, context, memory = episode(method, make_context, layouts["openvla"], before, now, [], SLOW)
    alive = left[2]
    assert len(alive) == 9
    rows = list(range(context.layout.length))[context.layout.prompt_rest][2:]

    def instant(layer, there):
        maps = context.decoder.maps[layer][rows]
        ranked = sorted(there, key=lambda i: -maps.mean(0)[i].item())
        weights = torch.sigmoid(-0.1 * torch.arange(len(there)))
        confidence = 1 / mean_entropy(maps).item()
        return dict(zip(ranked, (weights / weights.sum() * confidence).tolist(), strict=True))

    importance = {i: 0.2 * s for i, s in instant(3, alive).items()}
    wanted = sorted(sorted(alive, key=lambda i: -importance[i])[:4])
    assert left[4] == wanted  # half of 9, rounded down
    importance = {i: 0.8 * importance[i] + 0.2 * s for i, s in instant(4, wanted).items()}
    assert left[5] == sorted(sorted(wanted, key=lambda i: -importance[i])[:2])
    assert memory.importance_V[wanted].tolist() == pytest.approx([importance[i] for i in wanted])


def test_later_layers_leave_a_minimum(layouts, make_context):
    before, now = {3: [0], 5: [0]}, {0: [4], 1: [8]}
    method = replace(SMALL, layer_keep=0.1, min_tokens=2)
    left, _, _ = episode(method, make_context, layouts["openvla"], before, now, [1])
    assert [len(left[layer]) for layer in (2, 4, 5)] == [4, 2, 2]


def test_the_code_prunes_in_two_steps_and_miscounts(layouts, make_context):
    layout = layouts["openvla"]
    code = replace(SMALL, reading="code", prune_layers=(6,), min_tokens=0)
    before = {3: [0, 1], 5: [0, 1]}
    now = {0: [4, 5, 6], 1: [6]}
    left, _, _ = episode(code, make_context, layout, before, now, [14])
    assert left[1] == [0, 1, 4, 5, 6, 14]
    # of those left, 6 is the fifth: the code keeps patch 4 for it, which it had chosen anyway
    assert left[2] == [0, 1, 4, 14]
    # 0.8 of 4 visual and 6 other tokens, the others staying
    assert len(left[6]) == int(0.8 * 10) - 6


def test_the_codes_importance_falls_linearly_in_each_camera(layouts, make_context):
    layout = layouts["oft"]
    code = replace(SMALL, reading="code", update_layers=(3,), prune_layers=(4,), min_tokens=6)
    before = {3: [0, 16], 5: [0, 16]}
    now = {0: [1, 2, 3, 17, 18, 19], 1: [2, 18], 3: [3, 19, 2]}
    left, context, _ = episode(code, make_context, layout, before, now, [8, 24])
    layers = [layer for layer, _ in context.decoder.asked]
    assert layers == [0, 0, 1, 3]
    assert context.decoder.asked[-1][1] == list(range(layout.visual.stop, layout.length))
    assert layout.per_camera(left[4]) == [3, 3]


def test_published_layers_scale_with_depth():
    paper = SpecPrune().resolve(shape())
    assert paper.layers == (2, 5, 10, 15, 20, 25)
    assert paper.tapped_layers == (0, 1, 4, 9, 14, 19, 24, 31)
    assert (paper.layer_keep, paper.min_tokens) == (0.9, 0)
    code = SpecPrune(reading="code").resolve(shape())
    assert code.layers == (1, 2, 6, 11, 16, 21, 26)
    assert code.tapped_layers == (0, 1, 12, 14, 31)
    assert (code.layer_keep, code.min_tokens) == (0.8, 60)
    small = SpecPrune().resolve(shape(4))
    assert (small.layers, small.tapped_layers) == ((2, 3), (0, 1, 2, 3))


def test_published_counts_scale_with_the_grid():
    def counts(pruner):
        return [getattr(pruner, f.name) for f in fields(pruner) if f.metadata.get("count")]

    code = SpecPrune(reading="code")
    assert counts(code.resolve(shape(cameras=2))) == [30, 20, 24, 40, 60]
    assert counts(code.resolve(shape(cameras=2, side=8))) == [8, 5, 6, 10, 15]
    assert counts(SpecPrune().resolve(shape(side=1))) == [1, 1, 1, 1, 0]
    own = replace(code, global_count=64, min_tokens=128)
    assert counts(own.resolve(shape(cameras=2, side=8))) == [64, 5, 6, 10, 128]


def test_frames_of_earlier_calls(layouts, make_context):
    method = replace(SMALL, frame_lag=2).resolve(shape(8, side=4))
    memory, layout = method.start(), layouts["openvla"]
    shown = [noise(1, seed) for seed in range(3)]
    for call, frames in enumerate(shown):
        method.finish(replace(make_context(layout, layer=8, call=call), frames=frames), memory)
    assert [torch.equal(f, s) for f, s in zip(memory.frames, shown[1:], strict=True)] == [True] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local_layers": ()}, "--local-layers is empty"),
        ({"local_layers": (1, 0)}, "--local-layers is 1 0"),
        ({"prune_layers": (2, 5)}, "--prune-layers is 2 5.*from 3"),
        ({"reading": "readme"}, "--reading is readme"),
        ({"layer_keep": 0.0}, "--layer-keep is 0"),
        ({"ema": 1.5}, "--ema is 1.5"),
        ({"frame_lag": 0}, "--frame-lag is 0"),
        ({"global_count": -1}, "--global-count is -1"),
        ({"local_count": 0}, "--local-count is 0"),
        ({"min_tokens": -1}, "--min-tokens is -1"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError, match=said):
        SpecPrune(**options)


@pytest.mark.parametrize(
    ("options", "n_layers", "said"),
    [
        ({}, 3, "--local-layers is 0 1.*0 to 2"),
        ({"global_layers": (14, 32)}, 32, "--global-layers is 14 32.*0 to 31"),
        ({"prune_layers": (5, 40)}, 32, "--prune-layers is 5 40.*0 to 31"),
        ({"update_layers": (40,)}, 32, "--update-layers is 40.*0 to 31"),
        ({"local_layers": (0, 28)}, 32, "--prune-layers is empty.*from 30"),
    ],
)
def test_layers_must_fit_the_model(options, n_layers, said):
    with pytest.raises(UserError, match=said):
        SpecPrune(**options).resolve(shape(n_layers))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"global_count": 65}, "--global-count is 65; a camera of this model has 64 visual tokens"),
        ({"local_count_fine": 70}, "--local-count-fine is 70; a camera of this model has 64"),
        ({"min_tokens": 129}, "--min-tokens is 129; a call of this model has 128 visual tokens"),
    ],
)
def test_counts_must_fit_the_grid(options, said):
    with pytest.raises(UserError, match=said):
        SpecPrune(**options).resolve(shape(4, cameras=2, side=8))


def test_a_prompt_without_a_task_is_refused(layouts, make_context):
    method = replace(SMALL, skip_text=5).resolve(shape(8, side=4))
    with pytest.raises(UserError, match="--skip-text is 5; the prompt has 5 tokens"):
        method.finish(make_context(layouts["openvla"], layer=8), method.start())


# on real networks


@pytest.fixture(scope="module", params=["tiny-untrained", "tiny-openvla"])
def policy(request):
    return load_policy(
        request.param, NoPruning(), suite="libero_spatial", device="cpu", count_every=1
    )


def play(policy, pruner, seeds, poses=FAST):
    """An episode of one call per seed; equal seeds, equal frames."""
    policy.pruner = pruner
    memory = policy.start("pick up the black bowl on the stove and place it on the plate", 3)
    return [policy.act(memory, observe(seed), poses) for seed in seeds]


def observe(seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    return Observation(np.zeros(3), np.array([1.0, 0, 0, 0]), np.array([0.04, -0.04]), images)


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_tokens_leave_in_steps(policy, reading):
    full = play(policy, NoPruning(), [0])[0]
    first, *others = play(policy, SpecPrune(reading=reading), [0, 1, 1])
    assert first.measures.pruned == (reading == "code")
    if reading == "paper":
        np.testing.assert_array_equal(first.actions, full.actions)
    limit = 30 + 20 + 2 * 24
    for chunk in others:
        m = chunk.measures
        assert m.pruned
        assert m.tokens_per_layer == sorted(m.tokens_per_layer, reverse=True)
        gone = [full.measures.tokens_per_layer[0] - n for n in m.tokens_per_layer]
        left = m.visual_tokens - gone[2]
        assert 0 < left <= limit * len(policy.info.grids)
        assert m.visual_tokens_kept == m.visual_tokens - gone[3]
        # the code stops at 60
        assert m.visual_tokens_kept < left or (reading == "code" and left <= 60)
        assert m.kept_visual == sorted(set(m.kept_visual))
        assert m.llm_prefill_macs < full.measures.llm_prefill_macs
        assert m.total_flops < full.measures.total_flops
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)


def test_slow_motion_costs_more(policy):
    fast, slow = (play(policy, SpecPrune(), [0, 1], poses)[1].measures for poses in (FAST, SLOW))
    assert slow.visual_tokens_kept > fast.visual_tokens_kept
    assert slow.total_flops > fast.total_flops


def test_still_frames_keep_fewer_than_new_ones(policy):
    still, new = (play(policy, SpecPrune(), seeds)[1].measures for seeds in ([0, 0], [0, 1]))
    assert still.visual_tokens_kept < new.visual_tokens_kept
