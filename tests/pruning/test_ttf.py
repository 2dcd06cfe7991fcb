"""TTF-VLA: which outputs stand, by hand and in the real networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.methods import shape
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.base import Vision
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.ttf import Ttf, grey_change, on_patches
from vlaprune_bench.testing import CHECKPOINTS
from vlaprune_bench.types import TokenLayout, UserError

SHAPE = replace(shape(), shows_features=True)
LAYOUT = TokenLayout(((2, 2),), n_prompt=3, n_generated=7)
ALL = {"change": 1e9, "relevant": 0, "keyframe": 99}
"""Every output stands."""


def test_change_of_grey_by_hand():
    before = torch.zeros(1, 3, 4, 4)
    now = before.clone()
    now[0, 0, 0, 1] = 1.0  # red of one pixel of four
    now[0, :, 3, 2] = torch.tensor([-2.0, -2.0, -2.0])
    now[0, :, 3, 0], now[0, :, 3, 1] = 1.0, -1.0  # absolute: they do not cancel
    wanted = torch.tensor([[0.299 / 4, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(grey_change(now, before, side=2), wanted)


def test_tokens_may_be_blocks_of_patches():
    which = torch.tensor([True, False, False, True])
    assert on_patches(which, LAYOUT, 2).tolist() == [which.tolist()]
    rows = [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    assert on_patches(which, LAYOUT, 4).view(4, 4).tolist() == rows


def test_an_episode_by_hand(make_context):
    """Two towers, the second of which takes pixels twice as large; one relevant token."""
    pruner = Ttf(keyframe=3, change=0.03, relevant=1).resolve(SHAPE)
    memory, seen = pruner.start(), []
    for call in range(4):
        pixels = torch.zeros(1, 3, 4, 4)
        # patch 1 changes by 0.02 a call, patch 2 by 1, patches 0 and 3 not at all
        pixels[..., :2, 2:] = 0.02 * call
        pixels[..., 2:, :2] = 1.0 * call
        features = [torch.full((1, 4, width), float(call)) for width in (2, 3)]
        fused, count = pruner.fuse(Vision(LAYOUT, [pixels, 2 * pixels], features), memory)
        assert [f.shape[2] for f in fused] == [2, 3]
        assert all((f == f[..., :1]).all() for f in fused)
        assert all((f == call).all() for f in features)  # left as they are
        seen.append(([f[0, :, 0].tolist() for f in fused], count))
        maps = {15: torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(20, 4)}  # token 3 is looked at
        pruner.finish(make_context(LAYOUT, layer=32, maps=maps), memory)
    assert seen == [
        ([[0, 0, 0, 0], [0, 0, 0, 0]], 0),
        ([[0, 0, 1, 1], [0, 1, 1, 1]], 3),
        ([[0, 0, 2, 2], [0, 2, 2, 2]], 3),
        ([[3, 3, 3, 3], [3, 3, 3, 3]], 0),
    ]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_where_all_stands_the_policy_sees_the_first_frame(checkpoint):
    """Bit for bit, and so is the first call, in which nothing stands."""
    policy = load_policy(checkpoint, NoPruning(), suite="libero_spatial", device="cpu")
    fusing, plain = policy.start(INSTRUCTION, 0, Ttf(**ALL)), policy.start(INSTRUCTION, 0)
    first = observation(0)
    for call in range(2):
        now = observation(call)
        one = policy.act(fusing, now, poses(call))
        two = policy.act(plain, replace(now, images=first.images), poses(call))
        np.testing.assert_array_equal(one.actions, two.actions)
    m = one.measures
    patches = sum(f.shape[0] * f.shape[1] for f in fusing.pruner.features)
    assert m.fused_patches == patches >= m.visual_tokens
    assert (m.pruned, m.visual_tokens_kept) == (True, m.visual_tokens)
    assert m.kept_visual == list(range(m.visual_tokens))
    assert m.total_flops - m.scoring_flops == two.measures.total_flops


def test_masked_cameras_stay_as_they_are():
    policy = load_policy(
        "tiny-pi0-untrained", NoPruning(), suite="libero_spatial", device="cpu",
        options=("empty_cameras=keep",),
    )  # fmt: skip
    fusing, plain = policy.start(INSTRUCTION, 0, Ttf(**ALL)), policy.start(INSTRUCTION, 0)
    for call in range(2):
        now = observation(call)
        one = policy.act(fusing, now, poses(call))
        two = policy.act(plain, replace(now, images=observation(0).images), poses(call))
        np.testing.assert_array_equal(one.actions, two.actions)
    assert one.measures.fused_patches == one.measures.visual_tokens


def test_defaults_follow_reading_and_model():
    found = [Ttf(reading=reading).resolve(SHAPE) for reading in ("paper", "code")]
    assert [(t.keyframe, t.change, t.relevant) for t in found] == [(3, 0.03, 70), (5, 0.1, 120)]
    small = Ttf().resolve(replace(shape(4, side=8), shows_features=True))
    assert (small.relevant, small.tapped_layers) == (18, (2,))
    with pytest.raises(UserError, match="--relevant is 300; a camera of this model has 256"):
        Ttf(relevant=300).resolve(SHAPE)
    with pytest.raises(UserError, match="--method is ttf; this policy has no outputs of vision"):
        Ttf().resolve(shape())
    with pytest.raises(UserError, match="--keyframe is 0; it must be at least 1"):
        Ttf(keyframe=0)
