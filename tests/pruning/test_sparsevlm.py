"""SparseVLM's one-layer form on made-up embeddings and attention."""

import numpy as np
import pytest
import torch

from vlaprune_bench.pruning.sparsevlm import SparseVlm
from vlaprune_bench.types import UserError


def relevant(patches, text):
    """Indices of the text tokens at least as relevant as the mean, one product at a time."""
    relevance = np.zeros(len(text))
    for patch in patches.double().numpy():
        weights = np.exp([float(patch @ word) for word in text.double().numpy()])
        relevance += weights / weights.sum() / len(patches)
    return [i for i, r in enumerate(relevance) if r >= relevance.mean()]


@pytest.mark.parametrize("policy", ["openvla", "oft"])
@pytest.mark.parametrize(("reading", "first", "last"), [("paper", 1, 6), ("code", 2, 5)])
def test_raters_are_the_relevant_text_tokens(layouts, make_context, policy, reading, first, last):
    layout = layouts[policy]
    context = make_context(layout, layer=3, seed=4)
    pruner = SparseVlm(keep=0.25, reading=reading)
    # text token 1 is the first after the patches (and proprio)
    offset = layout.prompt_rest.start - 1
    chosen = relevant(context.patches, context.prompt[first:last])
    rows = [offset + first + i for i in chosen]
    assert 0 < len(rows) < last - first
    assert pruner.raters(context).tolist() == rows

    kept = pruner.select(context, None).index.tolist()
    scores = context.decoder.maps[2][rows].mean(0)
    wanted = [
        layout.camera(c).start + scores[layout.camera(c)].topk(4).indices
        for c in range(len(layout.grids))
    ]
    assert kept == torch.cat(wanted).sort().values.tolist()
    assert context.decoder.asked == [(2, rows)]


def test_the_products_are_charged(make_context):
    context = make_context(layer=3)
    SparseVlm(reading="code").raters(context)
    assert context.decoder.macs == 16 * 3 * 8


def test_bad_reading_is_named():
    with pytest.raises(UserError, match="--reading is prose; it must be paper or code"):
        SparseVlm(reading="prose")


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.875])
def test_equals_the_reference_over_whole_episodes(reference_episodes, ratio):
    reference_episodes.check(SparseVlm(keep=1 - ratio, reading="code"), "sparsevlm", ratio)
