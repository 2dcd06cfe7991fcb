"""LightVLA's votes by hand, and what they are asked with."""

import pytest
import torch

from tests.fakes import LOADED
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.lightvla import LightVla
from vlaprune_bench.pruning.scores import rms_normed
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.types import TokenLayout


def test_vectors_of_one_length():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    root = (25 / 2) ** 0.5
    torch.testing.assert_close(rms_normed(x), torch.tensor([[3 / root, 4 / root], [0, 0]]))
    assert rms_normed(x.bfloat16()).dtype == torch.bfloat16


def test_votes_by_hand(make_context):
    """Two words: patch 0 asks 14 degrees from the first and votes for itself, 1 asks at 37 degrees
    and votes for itself, 2 and 3 ask at 76 and 73 degrees and vote for 3, which stands at 84."""
    layout = TokenLayout(((2, 2),), n_prompt=3, n_generated=7)
    patches = 9 * torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [0.1, 1]])
    context = make_context(layout, patches=patches)
    words = torch.tensor([[100.0, 0], [0, 100.0]])
    context.decoder.hidden = torch.cat([torch.full((1, 2), 7.0), patches, words])
    assert LightVla().select(context, None).index.tolist() == [0, 1, 3]
    assert context.decoder.macs == 4 * 2 * (2 * 2 + 4)


def test_what_follows_the_patches_is_asked(layouts, make_context):
    """Proprio, text, placeholders and stop; neither BOS nor masked tokens."""
    layout = layouts["oft"]
    asked = []

    class Recorded:
        def states(self, rows):
            asked.append(rows.tolist())
            return torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(0))

        def charge(self, macs):
            pass

    for one in (
        layout,
        TokenLayout(((2, 2),), 3, order=("visual", "empty", "text", "padding"), has_bos=False,
                    n_padding=4, n_empty=2),
    ):  # fmt: skip
        context = make_context(one)
        context.decoder = Recorded()
        kept = LightVla().select(context, None).index.tolist()
        assert 0 < len(kept) < one.n_visual
    assert asked == [list(range(33, layout.length)), [6, 7, 8]]


@pytest.mark.parametrize("pruner", [LightVla(), Gated(LightVla())], ids=lambda p: p.name)
def test_a_row_says_that_the_checkpoint_was_not_trained_with_it(pruner):
    caveat = pruner.caveat("moojink/openvla-7b-oft-finetuned-libero-goal")
    assert caveat.startswith("lightvla ran on moojink/openvla-7b-oft-finetuned-libero-goal, which")
    assert pruner.caveat("TTJiang/LightVLA-libero-goal") is None
    setup = Setup(EvalConfig.of(pruner=pruner), LOADED)
    assert setup.warnings == [*LOADED.warnings, pruner.caveat(LOADED.info.name)]
    assert Setup(EvalConfig(), LOADED).warnings == LOADED.warnings
