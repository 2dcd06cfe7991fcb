"""Every registered method through one matrix, on the real networks of every policy.

The checks themselves are `vlaprune_bench.testing`, which methods of other packages pass too.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.methods import tiny
from vlaprune_bench.pruning import Pruner, ScoredPruner, methods
from vlaprune_bench.pruning.specprune import SpecPrune
from vlaprune_bench.pruning.vla_cache import VlaCache
from vlaprune_bench.testing import CHECKPOINTS, check_method


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("name", methods())
def test_matrix(name, checkpoint):
    pruner, full = tiny(name), tiny(name, keep=1.0)
    check_method(pruner, full=None if full == pruner else full, checkpoints=[checkpoint])


@pytest.mark.parametrize("name", ["divprune", "vla-pruner", "fastv"])
def test_a_camera_without_a_share(name):
    check_method(replace(tiny(name), camera_split=(0, 1)), checkpoints=["tiny-untrained"])


@pytest.mark.parametrize("pruner", [VlaCache(), SpecPrune(), SpecPrune(reading="code")])
def test_published_counts_prune_on_a_small_grid(pruner):
    """The embedded checkpoint has 8 x 8 patches a camera: fewer than `vla-cache` sets aside."""
    check_method(pruner, checkpoints=["tiny"])


@dataclass(frozen=True)
class Lists(Pruner):
    def select(self, context, memory):
        return [0, 1, 2]


def test_a_choice_that_is_no_selection_is_named(monkeypatch):
    monkeypatch.setitem(Pruner.get_known_choices(), "lists", Lists)
    with pytest.raises(TypeError, match=r"Lists\.select gives a list, not a Selection or None"):
        check_method(Lists(), checkpoints=["tiny-untrained"])


@dataclass(frozen=True)
class Faulty(ScoredPruner):
    """Keeps the first patches, with a fault of choice."""

    fault: str = "none"

    def score(self, context, memory):
        if self.fault == "undeclared cost":
            context.patches @ context.patches.T
        ranks = -context.patches.new_tensor(range(len(context.patches)))
        if self.fault == "remembers" and FIRST.setdefault(context.call, context) is not context:
            ranks = -ranks
        return ranks

    def budget(self, n_visual):
        wanted = super().budget(n_visual)
        return {"keeps all": n_visual, "keeps more": wanted + 9}.get(self.fault, wanted)


FIRST: dict[int, Any] = {}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("undeclared cost", "torch counts"),
        ("remembers", "the same episode again went differently"),
        ("keeps all", "no call of 4 dropped a token"),
        ("keeps more", "tokens kept, asked for 128"),
    ],
)
def test_a_fault_is_found_and_named(fault, sentence, monkeypatch):
    monkeypatch.setitem(Pruner.get_known_choices(), "faulty", Faulty)
    FIRST.clear()
    with pytest.raises(AssertionError, match=sentence):
        check_method(Faulty(keep=0.25, fault=fault), checkpoints=["tiny-untrained"])
