"""Every registered method through one matrix, on both embedded checkpoints' real networks.

The checks themselves are `vlaprune_bench.testing`, which methods of other packages pass too.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.methods import tiny
from vlaprune_bench.pruning import Pruner, ScoredPruner, methods
from vlaprune_bench.testing import CHECKPOINTS, check_method


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("name", methods())
def test_matrix(name, checkpoint):
    pruner, full = tiny(name), tiny(name, keep=1.0)
    check_method(pruner, full=None if full == pruner else full, checkpoints=[checkpoint])


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
