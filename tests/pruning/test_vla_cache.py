"""VLA-Cache: what counts as unchanged, how much is reused where, and episodes on real networks."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from tests.methods import shape
from tests.pruning.conftest import ask
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.frames import patch_similarity
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.scores import mean_entropy
from vlaprune_bench.pruning.vla_cache import CacheMemory, EarlierCall, VlaCache
from vlaprune_bench.types import Observation, UserError

SIZE, PATCH = 224, 56  # frames of the made-up layouts: 4 x 4 patches a camera
SHAPE = shape(4, side=4)


def noise(cameras: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (cameras, 3, SIZE, SIZE), generator=random).float()


def redraw(frames: torch.Tensor, patches: list[int]) -> torch.Tensor:
    """New noise in the given patches (16 a camera)."""
    changed, fresh = frames.clone(), noise(len(frames), seed=99)
    for patch in patches:
        camera, place = divmod(patch, 16)
        row, column = place // 4 * PATCH, place % 4 * PATCH
        area = (camera, slice(None), slice(row, row + PATCH), slice(column, column + PATCH))
        changed[area] = fresh[area]
    return changed


def brighten(frames: torch.Tensor, patch: int, value: float) -> torch.Tensor:
    """Add to half the pixels of a patch of the first camera: similar, but not equal."""
    changed = frames.clone()
    row, column = patch // 4 * PATCH, patch % 4 * PATCH
    changed[0, :, row : row + PATCH // 2, column : column + PATCH] += value
    return changed


@pytest.mark.parametrize("policy", ["openvla", "oft"])
def test_similarity_is_exact_and_charged(layouts, make_context, policy):
    layout = layouts[policy]
    cameras = len(layout.grids)
    earlier = noise(cameras)
    earlier[0, :, :PATCH, :PATCH] = 0  # patch 0 is black, then and now
    drawn = [3, 7] if cameras == 1 else [3, 7, 16]
    context = replace(make_context(layout), frames=redraw(earlier, drawn))
    similarity_V = patch_similarity(context, earlier)
    unchanged = [i for i in range(layout.n_visual) if i not in (0, *drawn)]
    assert (similarity_V[unchanged] == 1.0).all()
    assert similarity_V[0] == 0.0
    patches = [x[0, :, :PATCH, 3 * PATCH :].flatten().double() for x in (earlier, context.frames)]
    cosine = torch.cosine_similarity(*patches, dim=0)
    assert similarity_V[3].item() == pytest.approx(cosine.item(), abs=1e-12)
    assert (similarity_V[drawn] < 0.9).all()
    assert context.decoder.macs == cameras * 4 * 3 * SIZE * SIZE


@pytest.mark.parametrize("policy", ["openvla", "oft"])
@pytest.mark.parametrize("reading", ["paper", "code"])
def test_reusable_is_unchanged_and_not_what_the_prompt_looks_at(
    layouts, make_context, policy, reading
):
    layout = layouts[policy]
    earlier = noise(len(layout.grids))
    drawn = [2, 5, 11]
    context = replace(make_context(layout), frames=redraw(earlier, drawn))
    relevance_V = torch.linspace(1, 0, 16).repeat(len(layout.grids))  # each camera's first
    method = VlaCache(relevant=4, reading=reading)
    wanted = [i for i in range(layout.n_visual) if i not in drawn and i % 16 >= 4]
    previous = EarlierCall(earlier, relevance_V, ())
    assert method.reusable(context, previous).tolist() == wanted
    none = replace(method, relevant=16).reusable(context, previous)
    assert len(none) == 0


def test_the_most_similar_count_and_the_readings_order_them(layouts, make_context):
    layout = layouts["openvla"]
    earlier = noise(1)
    now = brighten(brighten(earlier, 0, 12), 1, 6)  # 0 changed more than 1, both a little
    context = replace(make_context(layout), frames=now)
    similarity_V = patch_similarity(context, earlier)
    assert 0.99 < similarity_V[0] < similarity_V[1] < 1.0
    previous = EarlierCall(earlier, torch.zeros(16), ())
    paper = VlaCache(relevant=0, similarity=0.99, reading="paper")
    code = replace(paper, reading="code")
    assert code.reusable(context, previous).tolist() == list(range(16))
    assert paper.reusable(context, previous).tolist() == [*range(2, 16), 1, 0]
    limited = replace(code, static_limit=15).reusable(context, previous)
    assert limited.tolist() == list(range(1, 16))
    strict = replace(code, similarity=0.999999).reusable(context, previous)
    assert strict.tolist() == list(range(2, 16))


@pytest.mark.parametrize(("policy", "wanted"), [("openvla", 120), ("oft", 100)])
def test_authors_number_of_relevant_patches(layouts, make_context, policy, wanted):
    layout = replace(layouts[policy], grids=tuple((16, 16) for _ in layouts[policy].grids))
    earlier = noise(len(layout.grids))
    context = replace(make_context(layout), frames=earlier)
    relevance_V = torch.linspace(1, 0, 256).repeat(len(layout.grids))
    method = VlaCache().resolve(shape(cameras=len(layout.grids)))
    index = method.reusable(context, EarlierCall(earlier, relevance_V, ())).tolist()
    # 150 unchanged count, the first among equals; the most relevant are the first as well
    assert layout.per_camera(index) == [150 - wanted] * len(layout.grids)


def test_fractions_of_the_code_are_damped_normalised_entropy():
    shares = VlaCache(growth=0.55).fractions([3.0, 1.0, 2.0, 1.5])
    # plain: 0, 1, 0.5, 0.75
    assert shares == pytest.approx((0.0, 0.55, 0.5, 0.5 + 0.55 * 0.25), abs=1e-6)
    plain = VlaCache(growth=1.0).fractions([3.0, 1.0, 2.0])
    assert plain == pytest.approx((0.0, 1.0, 0.5), abs=1e-6)


def test_fractions_of_the_paper_are_summed_relative_falls():
    paper = VlaCache(reading="paper")
    assert paper.fractions([4.0, 3.0, 6.0, 3.0]) == pytest.approx((0, 0.25, 0.0, 0.0))
    assert paper.fractions([4.0, 3.0, 1.5]) == pytest.approx((0, 0.25, 0.75))
    doubled = replace(paper, entropy_factor=2.0)
    assert doubled.fractions([4.0, 3.0, 1.5]) == pytest.approx((0, 0.5, 1.0))


def test_mean_entropy():
    attention = torch.zeros(2, 8)
    attention[0] = 0.01  # even
    attention[1, 3] = 0.2  # on one token
    assert mean_entropy(attention).item() == pytest.approx(log(8) / 2, abs=1e-5)


def test_reused_sets_grow_with_the_layers(layouts, make_context):
    method = VlaCache(reuse_layers=(1, 2, 3), relevant=0, static_limit=16).resolve(SHAPE)
    frames = noise(1)
    memory = CacheMemory(EarlierCall(frames, torch.zeros(16), (0.9, 0.01, 0.5, 0.26)))
    context = replace(make_context(layouts["openvla"], call=1), frames=frames)
    first = method.select(replace(context, layer=1), memory)
    assert first.reuse
    assert first.index.tolist() == list(range(1, 16))  # one at least
    computed = [ask(method, context, memory, layer) for layer in (1, 2, 3)]
    # half of 16; a smaller share takes nothing back
    assert computed == [list(range(1, 16)), list(range(8, 16)), list(range(8, 16))]
    # the next call starts anew
    later = replace(context, call=2, alive=None)
    assert len(ask(method, later, memory, 1)) == 15
    paper = replace(method, reading="paper")
    assert paper.select(replace(later, layer=1, alive=None), memory) is None


def test_nothing_to_reuse(layouts, make_context):
    method = VlaCache(relevant=0).resolve(SHAPE)
    context = make_context(
        layouts["openvla"], layer=1, maps={i: torch.rand(64, 16) for i in range(4)}
    )
    context = replace(context, frames=noise(1))
    memory = method.start()
    assert method.select(context, memory) is None  # an episode's first call
    method.finish(replace(context, layer=4), memory)
    other = replace(context, call=1, frames=noise(1, seed=5))
    assert method.select(other, memory) is None


def test_finish_remembers_the_prompts_attention(layouts, make_context):
    layout = layouts["oft"]
    method = VlaCache(entropy_layers=(0, 3), relevance_layer=2).resolve(SHAPE)
    context = make_context(layout, layer=4)
    memory = method.start()
    method.finish(context, memory)
    rows = list(range(layout.length))[layout.prompt_rest]
    assert context.decoder.asked == [(0, rows), (3, rows), (2, rows)]
    torch.testing.assert_close(memory.earlier.relevance_V, context.decoder.maps[2][rows].mean(0))
    entropies = [mean_entropy(context.decoder.maps[i][rows]).item() for i in (0, 3)]
    assert memory.earlier.fractions == pytest.approx(method.fractions(entropies))


def test_all_rows_are_those_a_layer_computed(layouts, make_context):
    layout = layouts["openvla"]
    options = {"reuse_layers": (2,), "relevant": 0, "static_limit": 16, "entropy_rows": "all"}
    method = VlaCache(**options).resolve(SHAPE)
    frames = noise(1)
    context = replace(make_context(layout, call=1), frames=frames)
    memory = CacheMemory(EarlierCall(frames, torch.zeros(16), (0.0, 0.0, 0.5, 0.0)))
    ask(method, context, memory, 2)
    method.finish(replace(context, layer=4), memory)
    rows = dict(context.decoder.asked[:4])
    assert rows[1] == list(range(layout.length))
    assert rows[2] == rows[3] == [0, *range(9, layout.length)]


def test_published_layers_scale_with_depth():
    assert shape(32).scale_layers((2, 6, 9, 11, 31)) == (2, 6, 9, 11, 31)
    assert shape(4).scale_layers((2, 6, 9, 11, 31)) == (1, 2, 3)
    full = VlaCache().resolve(shape())
    assert (full.layers, full.relevance_layer) == ((2, 6, 9, 11), 15)
    assert full.tapped_layers == tuple(range(32))
    assert full.resolve(shape()) == full
    own = VlaCache(reuse_layers=(1,), entropy_layers=(0, 1), relevance_layer=2).resolve(SHAPE)
    assert (own.layers, own.tapped_layers) == ((1,), (0, 1, 2))


def test_published_counts_scale_with_the_grid():
    def counts(**model):
        pruner = VlaCache().resolve(shape(**model))
        return pruner.static_limit, pruner.relevant

    assert counts() == (150, 120)
    assert counts(cameras=2) == (150, 100)
    assert counts(cameras=2, side=8) == (38, 25)
    with pytest.raises(UserError, match="--relevant is 100; a camera of this model has 64 visual"):
        VlaCache(relevant=100).resolve(shape(4, side=8))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reuse_layers": (6, 2)}, "--reuse-layers is 6 2"),
        ({"entropy_layers": (-1, 2)}, "--entropy-layers is -1 2"),
        ({"reading": "readme"}, "--reading is readme"),
        ({"entropy_rows": "text"}, "--entropy-rows is text"),
        ({"similarity": 1.5}, "--similarity is 1.5"),
        ({"growth": -0.1}, "--growth is -0.1"),
        ({"relevant": -1}, "--relevant is -1"),
        ({"static_limit": -1}, "--static-limit is -1"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError, match=said):
        VlaCache(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reuse_layers": (2, 40)}, "--reuse-layers is 2 40.*0 to 31"),
        ({"relevance_layer": 32}, "--relevance-layer is 32.*0 to 31"),
        ({"entropy_layers": (4, 5)}, "--entropy-layers is 4 5.*first of --reuse-layers, 2"),
    ],
)
def test_layers_must_fit_the_model(options, said):
    with pytest.raises(UserError, match=said):
        VlaCache(**options).resolve(shape())


# on real networks

TASK = "pick up the black bowl on the stove and place it on the plate"


@pytest.fixture(scope="module", params=["tiny-untrained", "tiny-openvla"])
def policy(request):
    return load_policy(
        request.param, NoPruning(), suite="libero_spatial", device="cpu", count_every=1
    )


def play(policy, pruner, seeds):
    """An episode of one call per seed; equal seeds, equal frames."""
    policy.pruner = pruner
    memory = policy.start(TASK, seed=3)
    return [policy.act(memory, observe(seed), np.tile(np.eye(7)[6], (9, 1))) for seed in seeds]


def observe(seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    return Observation(np.zeros(3), np.array([1.0, 0, 0, 0]), np.array([0.04, -0.04]), images)


def test_an_episode_that_stands_still_costs_less(policy):
    method = VlaCache()
    full = play(policy, NoPruning(), [0])[0]
    first, *others = play(policy, method, [0, 0, 0])
    assert not first.measures.pruned
    np.testing.assert_array_equal(first.actions, full.actions)
    for chunk in others:
        m = chunk.measures
        assert m.pruned
        assert m.visual_tokens_kept < m.visual_tokens
        gone = m.visual_tokens - m.visual_tokens_kept
        assert m.tokens_per_layer[-1] == full.measures.tokens_per_layer[-1] - gone
        assert m.tokens_per_layer == sorted(m.tokens_per_layer, reverse=True)
        assert m.llm_prefill_macs < full.measures.llm_prefill_macs
        assert m.total_flops < full.measures.total_flops
        assert m.scoring_flops > 0
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)


def test_an_episode_of_new_frames_is_the_baselines(policy):
    baseline = play(policy, NoPruning(), [0, 1, 2])
    for ours, reference in zip(play(policy, VlaCache(), [0, 1, 2]), baseline, strict=True):
        np.testing.assert_array_equal(ours.actions, reference.actions)
        assert not ours.measures.pruned
        assert ours.measures.llm_prefill_macs == reference.measures.llm_prefill_macs
        assert ours.measures.counted_flops == pytest.approx(ours.measures.total_flops, rel=0.01)


def test_frames_are_compared_with_the_previous_call(policy):
    chunks = play(policy, VlaCache(), [0, 1, 1, 0])
    assert [chunk.measures.pruned for chunk in chunks] == [False, False, True, False]


def test_what_stands_still_is_reused_and_only_that(policy):
    cameras = len(policy.info.grids)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    images = images.repeat(16, axis=1).repeat(16, axis=2)
    moved = images.copy()
    moved[:, :, 128:] = 255 - moved[:, :, 128:]  # the right half of each frame changes
    policy.pruner = VlaCache(relevant=0, reuse_layers=(1,), growth=1.0)
    memory = policy.start(TASK, seed=3)
    for seen in (images, moved):
        observation = replace(observe(0), images=seen)
        measures = policy.act(memory, observation, np.eye(7)[6:]).measures
    reused = set(range(256 * cameras)) - set(measures.kept_visual)
    assert reused
    assert all(token % 16 < 8 for token in reused)
