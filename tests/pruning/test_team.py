"""TEAM-VLA by hand: seeds, growth, context, merging; draws follow from the seed."""

import numpy as np
import pytest
import torch

from tests.methods import shape
from vlaprune_bench.pruning.team import Team
from vlaprune_bench.types import TokenLayout, UserError

LAYOUT = TokenLayout(((6, 6),), n_prompt=3, n_actions=2, has_stop=True)
QUIET = {"chance": 0.0, "context_share": 0.0}


def pictured(rows):
    return np.array([[c == "#" for c in row] for row in rows.split()])


def grow(seeds, **options):
    return Team(**options).grow(pictured(seeds), np.random.default_rng(0)).tolist()


def test_growth_by_hand():
    # one seed: every block it lies in has one, so nothing is sure, and chance reaches two patches
    lone = "...... ...... ..#... ...... ...... ......"
    assert grow(lone, chance=0.0) == pictured(lone).tolist()
    reached = "#####. #####. #####. #####. #####. ......"
    assert grow(lone, chance=1.0) == pictured(reached).tolist()
    some = np.array(grow(lone, chance=0.5))
    assert 1 < some.sum() < 25
    assert not (some & ~pictured(reached)).any()
    # two neighbours: the blocks around both hold two, and all of each joins
    two = "...... ...... ..##.. ...... ...... ......"
    sure = ".####. .####. .####. .####. .####. ......"
    assert grow(two, chance=0.0) == pictured(sure).tolist()
    assert grow(two, chance=0.0, density=2.0) == pictured(two).tolist()
    wide = "###### ###### ###### ###### ###### ......"
    assert grow(two, chance=1.0, density=2.0) == pictured(wide).tolist()
    # at the border blocks are cut off, and nothing comes in on the other side
    corner = "#..... #..... ...... ...... ...... ......"
    assert (
        grow(corner, chance=0.0) == pictured("###... ###... ###... ...... ...... ......").tolist()
    )


def test_seeds_are_the_patches_most_like_each_word(make_context):
    patches = torch.randn(36, 8, generator=torch.Generator().manual_seed(1))
    context = make_context(LAYOUT, patches=patches)
    # BOS would name patch 35; the words name 5 and then 30 and 31
    context.prompt = torch.stack([patches[35], patches[5], patches[30] + 0.9 * patches[31]])
    pruner = Team(**QUIET).resolve(shape())
    assert pruner.select(context, None).index.tolist() == [5, 30]
    assert context.decoder.macs == 2 * 36 * 8
    likeness = torch.nn.functional.cosine_similarity(
        context.prompt[1:, None], patches[None], dim=-1
    )
    three = Team(**QUIET, reading="code", density=9.0).resolve(shape())
    wanted = sorted(set(likeness.topk(3, dim=1).indices.flatten().tolist()))
    assert three.select(context, None).index.tolist() == wanted


def test_context_is_a_share_of_the_others_drawn_by_likeness(make_context):
    patches = torch.eye(36)[:, :8] + 0.01
    patches[20:24] = torch.eye(8)[0] + 0.02  # like the first word, but not the most
    context = make_context(LAYOUT, patches=patches)
    context.prompt = torch.eye(8)[[7, 0, 1]]
    pruner = Team(chance=0.0, density=9.0, context_share=0.12, sharpness=100.0).resolve(shape())
    kept = [pruner.select(context, None).index.tolist() for _ in range(2)]
    assert kept[0] == kept[1]  # one seed, one draw
    # seeds 0 and 1, then int(0.12 x 34) of the rest
    assert kept[0] == [0, 1, 20, 21, 22, 23]
    blunt = Team(chance=0.0, density=9.0, context_share=0.12, sharpness=0.0).resolve(shape())
    drawn = set()
    for seed in range(8):
        context.seed = seed
        index = blunt.select(context, None).index.tolist()
        assert len(index) == 6
        drawn.add(tuple(index))
    assert len(drawn) == 8


def test_merging_by_hand(make_context):
    """Three tokens are left, the two most like the guide stay, the third goes into both."""
    layout = TokenLayout(((2, 2),), n_prompt=2, n_actions=1, has_stop=True)
    alive = torch.tensor([0, 1, 3])
    context = make_context(layout, layer=16, alive=alive)
    s1, s2, t = (
        torch.tensor([3.0, 0, 0, 0]),
        torch.tensor([0, 3.0, 0, 0]),
        torch.tensor([1.0, 1, 4, 0]),
    )
    word, action = torch.tensor([2.0, 0, 0, 0]), torch.tensor([0, 5.0, 0, 0])
    far = torch.tensor([0.0, 0, 0, 9])
    # BOS and stop are no guides: the token like them goes
    context.decoder.hidden = torch.stack([t, t, s1, far, s2, word, action, t])
    pruner = Team(sources=2, merge_layer=16).resolve(shape())
    selection = pruner.select(context, None)
    assert selection.index.tolist() == [1, 3]  # s1 and s2; token 0 went
    # it is as much like the one as like the other
    wanted = torch.stack([(s1 + t / 2) / 1.5, (s2 + t / 2) / 1.5])
    torch.testing.assert_close(selection.values, wanted)
    assert context.decoder.macs == 4 * (3 * 2 + 2 * 2 * 1)
    few = Team(sources=3, merge_layer=16).resolve(shape())
    assert few.select(context, None) is None


def test_options_follow_reading_and_model():
    paper, code = Team().resolve(shape(4, side=8)), Team(reading="code").resolve(shape())
    assert (paper.seeds, paper.layers, paper.sources) == (1, (0, 2), 20)
    assert (code.seeds, code.layers, code.sources) == (3, (0, 16), 80)
    with pytest.raises(UserError, match="--sources is 300; a call of this model has 256 visual"):
        Team(sources=300).resolve(shape())
    with pytest.raises(UserError, match=r"--chance is 1\.5; it must be at least 0 and at most 1"):
        Team(chance=1.5)
    with pytest.raises(UserError, match="--merge-layer is 0; it must be at least 1"):
        Team(merge_layer=0)
