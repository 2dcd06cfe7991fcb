"""random, uniform and downsample."""

import numpy as np
import pytest
import torch

from vlaprune_bench.pruning.downsample import Downsample, cut
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.uniform import Uniform, dither_rank
from vlaprune_bench.types import TokenLayout, UserError

FULL = TokenLayout(grids=((16, 16), (16, 16)), n_prompt=6, has_proprio=True, n_actions=56)


@pytest.mark.parametrize("policy", ["openvla", "oft"])
def test_random_depends_on_the_calls_seed_alone(layouts, make_context, policy):
    layout = layouts[policy]
    pruner = RandomTokens(keep=0.25)
    one = pruner.select(make_context(layout, seed=1), None).index
    torch.manual_seed(123)
    again = pruner.select(make_context(layout, seed=1, patches=torch.zeros(32, 8)), None).index
    assert one.tolist() == again.tolist() == sorted(set(one.tolist()))
    assert layout.per_camera(one.tolist()) == [4] * len(layout.grids)
    others = [pruner.select(make_context(layout, seed=s), None).index.tolist() for s in range(2, 9)]
    assert len({tuple(kept) for kept in others}) > 5


def test_random_favours_no_patch(make_context):
    counts = torch.zeros(16)
    for seed in range(400):
        counts[RandomTokens(keep=0.25).select(make_context(seed=seed), None).index] += 1
    assert counts.min() > 60  # 100 expected, standard deviation 9
    assert counts.max() < 140


@pytest.mark.parametrize(
    ("keep", "gap"),
    [(1 / 16, 4.0), (0.25, 2.0), (0.5, 2**0.5)],
)
def test_uniform_is_a_lattice_where_one_exists(make_context, keep, gap):
    kept = Uniform(keep=keep).select(make_context(FULL), None).index
    assert FULL.per_camera(kept.tolist()) == [keep * 256] * 2
    first = kept[kept < 256]
    assert (kept[kept >= 256] - 256).tolist() == first.tolist()
    points = torch.stack([first // 16, first % 16], 1).float()
    distances = torch.cdist(points, points) + 100 * torch.eye(len(points))
    assert distances.min(1).values.unique().tolist() == pytest.approx([gap])


@pytest.mark.parametrize("grid", [(16, 16), (5, 9), (1, 7), (27, 27)])
def test_uniform_spreads_any_number_over_any_grid(grid):
    rank = dither_rank(*grid)
    assert len(np.unique(rank)) == grid[0] * grid[1]
    order = rank.ravel().argsort()
    for k in range(len(order) // 4, len(order), 7):
        chosen = np.zeros(grid, bool)
        chosen.flat[order[:k]] = True
        share = k / chosen.size
        # every quarter of the grid gets its share within a few patches
        for rows in np.array_split(np.arange(grid[0]), min(2, grid[0])):
            for columns in np.array_split(np.arange(grid[1]), 2):
                part = chosen[np.ix_(rows, columns)]
                assert abs(part.sum() - share * part.size) <= 2 + 0.06 * part.size


def test_downsample_averages_blocks(make_context):
    context = make_context(FULL, patches=torch.randn(512, 8))
    selection = Downsample(pool=2).select(context, None)
    grids = context.patches.view(2, 16, 16, 8)
    assert selection.values.shape == (128, 8)
    assert selection.index.tolist() == sorted(set(selection.index.tolist()))
    for n in (0, 1, 8, 64, 127):
        camera, y, x = n // 64, n % 64 // 8, n % 8
        block = grids[camera, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        torch.testing.assert_close(selection.values[n], block.mean((0, 1)))
        assert selection.index[n] == 256 * camera + 16 * (2 * y + 1) + 2 * x + 1
    assert Downsample(pool=2).keep_ratio == 0.25
    assert Downsample(pool=4).select(context, None).index.shape == (32,)


def test_downsample_leaves_out_no_patch_where_the_side_does_not_divide(make_context):
    assert cut(16, 3) == [4, 3, 3, 3, 3]
    assert cut(16, 4) == [4, 4, 4, 4]
    assert cut(1, 4) == [1]
    context = make_context(FULL, patches=torch.randn(512, 8))
    selection = Downsample(pool=3).select(context, None)
    assert FULL.per_camera(selection.index.tolist()) == [25, 25]
    sizes = torch.tensor([[a * b for b in cut(16, 3)] for a in cut(16, 3)]).flatten()
    assert sizes.sum() == 256
    for camera in range(2):
        part = slice(25 * camera, 25 * camera + 25)
        total = (sizes[:, None] * selection.values[part]).sum(0)
        torch.testing.assert_close(total, context.patches[FULL.camera(camera)].sum(0))
        corner = context.patches[FULL.camera(camera)].view(16, 16, 8)[13:, 13:]
        torch.testing.assert_close(selection.values[part][-1], corner.mean((0, 1)))


def test_bad_pool_is_named():
    with pytest.raises(UserError, match=r"--pool is 5; it must be 2, 3 or 4\."):
        Downsample(pool=5)
