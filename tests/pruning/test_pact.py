"""PACT on made-up attention: conflict, budgets, history, and the union that changes nothing."""

from dataclasses import replace
from math import ceil, log

import pytest
import torch

from tests.methods import shape
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.pact import Pact, distribution, divergence
from vlaprune_bench.types import UserError

PACT = Pact().resolve(shape())


def test_scores_become_a_distribution():
    torch.testing.assert_close(
        distribution(torch.tensor([0.0, 1.0, 3.0])), torch.tensor([0, 0.25, 0.75])
    )
    torch.testing.assert_close(distribution(torch.zeros(4)), torch.full((4,), 0.25))


def test_divergence_by_hand():
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert divergence(one, one) == 0
    assert divergence(one, two) == pytest.approx(1, abs=1e-5)
    # p = (1, 0), q = m = (1/2, 1/2) + ...: 1/2 log(1/0.75) + 1/2 (1/2 log(2/3) + 1/2 log(2))
    wanted = 0.5 * log(1 / 0.75) + 0.5 * (0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25))
    assert divergence(one, torch.tensor([0.5, 0.5])) == pytest.approx(wanted / log(2), abs=1e-5)


def test_the_share_to_be_covered_is_bounded():
    assert [Pact().theta(d) for d in (0.0, 1.0)] == pytest.approx([0.4, 0.5])
    assert Pact(coverage=0.1).theta(0.0) == 0.15
    assert Pact(conflict_weight=5).theta(1.0) == 0.7
    with pytest.raises(RuntimeError, match="the attention it chooses by is not finite"):
        Pact().theta(float("nan"))


def test_the_newest_call_counts_most():
    old, new = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(
        Pact(decay=0.5).prior([old, new]), torch.tensor([1 / 3, 2 / 3]), rtol=0, atol=1e-6
    )


def test_the_smallest_budget_that_covers_both():
    p = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0])
    q = torch.tensor([0.1, 0.0, 0.0, 0.1, 0.0, 0.0, 0.6, 0.2])
    pruner = Pact(rates=(0.25, 0.5))
    # by max(p, q): 6 (0.6), 0 (0.5), then 1 and 7 (0.2), 2 and 3 (0.1)
    assert pruner.choose(p, q, 0.5).tolist() == [0, 6]  # holds 0.5 and 0.7
    assert pruner.choose(p, q, 0.6).tolist() == [0, 1, 6, 7]  # holds 0.7 and 0.9
    assert pruner.choose(p, q, 0.75).tolist() == list(range(8))


@pytest.mark.parametrize("seed", range(20))
def test_quotas_and_the_union_of_the_code(seed):
    """The code's way, the best by each, united, then the best of those, is the best by the larger
    of both. What stays is a budget and covers enough, and no smaller one does."""
    random = torch.Generator().manual_seed(seed)
    p, q = (distribution(torch.rand(64, generator=random) ** 6) for _ in range(2))
    rates, theta = (0.125, 0.25, 0.5, 0.75), 0.2 + 0.04 * seed
    kept = Pact(rates=rates).choose(p, q, theta).tolist()
    for budget in [ceil(rate * 64) for rate in rates] + [64]:
        union = torch.cat([p.topk(budget).indices, q.topk(budget).indices]).unique()
        best = union[torch.maximum(p, q)[union].topk(budget).indices].sort().values
        if min(p[best].sum(), q[best].sum()) >= theta or budget == 64:
            break
    assert kept == best.tolist()


def test_a_call_after_others(layouts, make_context):
    """Prompt rows of the layer before, action rows of `action_layer`, the first call without."""
    layout, pruner = layouts["oft"], PACT
    memory = pruner.start()
    for call in range(5):
        context = make_context(layout, layer=4, seed=call, call=call)
        prompt, actions = layout.prompt_rest, layout.action_rows
        p = distribution(context.decoder.maps[3][prompt].mean(0))
        q = pruner.prior(memory.calls) if call else p
        kept = pruner.select(context, memory)
        wanted = pruner.choose(p, q, pruner.theta(divergence(p, q)))
        assert kept.index.tolist() == wanted.tolist()
        assert 4 <= len(wanted) < 32
        pruner.finish(replace(context, layer=32), memory)
        torch.testing.assert_close(
            memory.calls[-1], distribution(context.decoder.maps[15][list(actions)].mean(0))
        )
    assert len(memory.calls) == 3
    assert memory.calls[0].sum() == pytest.approx(1)


def test_all_tokens_are_no_selection(layouts, make_context):
    pruner = Pact(coverage=1.0, most_coverage=1.0).resolve(shape())
    assert pruner.select(make_context(layouts["oft"], layer=4), pruner.start()) is None


def test_layers_follow_the_model():
    assert (PACT.layers, PACT.tapped_layers) == ((4,), (3, 15))
    assert Pact().resolve(shape(4)).tapped_layers == (0, 2)
    # an expert that reads every other layer
    expert = ModelShape(32, ((8, 8),), action_layers=tuple(range(0, 32, 2)))
    assert Pact().resolve(expert).action_layer == 16
    with pytest.raises(UserError, match=r"--action-layer is 15; action tokens .* attend at 0 2 4"):
        Pact(action_layer=15).resolve(expert)
    with pytest.raises(UserError, match=r"--action-layer is 40; .* 0 to 31\."):
        Pact(action_layer=40).resolve(shape())
    with pytest.raises(UserError, match=r"--layer is 0; it must be at least 1"):
        Pact().resolve(shape(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rates": ()}, "--rates is empty; it must name a share at least, such as 0.25."),
        ({"rates": (0.0, 0.5)}, "--rates is 0 0.5; each must be above 0 and at most 1."),
        ({"layer": 0}, "--layer is 0; it must be at least 1."),
        ({"least_coverage": 0.8}, "--least-coverage is 0.8; it must be at most --most-coverage"),
        ({"coverage": 2}, "--coverage is 2; it must be at least 0 and at most 1."),
        ({"window": 0}, "--window is 0; it must be at least 1."),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError) as caught:
        Pact(**options)
    assert str(caught.value).startswith(said)
