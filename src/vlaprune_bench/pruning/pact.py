"""PACT-VLA: as few tokens as cover enough of what is seen and of what actions looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, isfinite, log
from typing import TYPE_CHECKING

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.options import option, wrong
from vlaprune_bench.pruning.scores import prompt_rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class PactMemory:
    """Action attention of recent calls."""

    calls: list[Tensor] = field(default_factory=list)
    """(V,) distributions, oldest first; those of tokens that had left are next to 0."""


@Pruner.register_subclass("pact")
@dataclass(frozen=True)
class Pact(Pruner):
    """Keep the smallest of a few budgets that covers enough of prompt's and actions' attention.

    Source: github.com/yangmu-0/pact-vla-pruner, of August 2026; no paper is known, so there is one
    reading. p is the prompt's attention to all visual tokens in the layer before `layer`, q the
    actions' attention in the last `window` calls, newer ones counting more; an episode's first call
    has p for both. Of each budget the tokens with the largest max(p, q) stay; the smallest budget
    stands at which they hold `coverage` of p and of q, and more where p and q differ. Cameras
    compete. A call may find that only all tokens cover enough: its row says that it kept them.

    The code first nominates the best by p and by q, then keeps the best of those by max(p, q): the
    same tokens, since whichever is among the best by the larger of two is so by one of them. It
    runs on OpenVLA-OFT alone; the rule needs nothing that other policies lack. Invalid attention
    keeps all tokens there without a word; here it ends the episode with an error. At the defaults
    `least_coverage` and `most_coverage` never act.
    """

    layer: int | None = option(None, at_least=1, layers=True, published=4)
    """Decoder layer before which tokens leave, from 1; by default layer 4 of 32, scaled to the
    model's depth. The prompt's attention is of the layer before it."""
    action_layer: int | None = option(None, layers=True, published=15)
    """Decoder layer of the actions' attention; by default layer 15 of 32, scaled to the model's
    depth, or the next one that action tokens attend at."""
    rates: tuple[float, ...] = option((0.125, 0.25, 0.5, 0.75, 1.0), above=0, at_most=1)
    """Budgets, as shares of the visual tokens, rounded up; all of them is always one."""
    window: int = option(3, at_least=1)
    """Calls whose action attention is averaged."""
    decay: float = option(0.8, above=0, at_most=1)
    """Weight of a call relative to the next one of the window."""
    coverage: float = option(0.4, at_least=0, at_most=1)
    """Share of p and of q that the tokens kept must hold where p and q agree."""
    conflict_weight: float = option(0.1, at_least=0)
    """What is added to it, times the Jensen-Shannon divergence of p and q, 0 to 1."""
    least_coverage: float = option(0.15, at_least=0, at_most=1)
    """Lower bound of that sum."""
    most_coverage: float = option(0.7, at_least=0, at_most=1)
    """Upper bound of that sum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates:
            raise wrong("rates", (), "it must name a share at least, such as 0.25")
        if self.least_coverage > self.most_coverage:
            said = f"it must be at most --most-coverage, {self.most_coverage:g}"
            raise wrong("least_coverage", self.least_coverage, said)

    def resolve(self, model: ModelShape) -> Pact:
        resolved = Pruner.resolve(self, model)
        attended = model.action_layers
        if not resolved.layer:
            raise wrong("layer", resolved.layer, "it must be at least 1")
        if attended is None or resolved.action_layer in attended:
            return resolved
        if self.action_layer is not None:
            said = f"action tokens of this model attend at {' '.join(map(str, attended))}"
            raise wrong("action_layer", self.action_layer, said)
        later = [k for k in attended if k > (resolved.action_layer or 0)]
        return replace(resolved, action_layer=min(later, default=max(attended)))

    @property
    def layers(self) -> tuple[int, ...]:
        return () if self.layer is None else (self.layer,)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        assert self.layer is not None
        assert self.action_layer is not None
        return tuple(sorted({self.layer - 1, self.action_layer}))

    def start(self) -> PactMemory:
        return PactMemory()

    def select(self, context: PruneContext, memory: PactMemory) -> Selection | None:
        attention = context.decoder.attention(context.layer - 1, prompt_rows(context))
        p_V = distribution(attention.mean(0))
        q_V = self.prior(memory.calls) if memory.calls else p_V
        kept = self.choose(p_V, q_V, self.theta(divergence(p_V, q_V)))
        return None if len(kept) == len(p_V) else Selection(kept)

    def finish(self, context: PruneContext, memory: PactMemory) -> None:
        import torch

        assert self.action_layer is not None
        rows = torch.tensor(list(context.layout.action_rows), device=context.patches.device)
        attention_V = context.decoder.attention(self.action_layer, rows).mean(0)
        memory.calls = [*memory.calls, distribution(attention_V)][-self.window :]

    def prior(self, calls: list[Tensor]) -> Tensor:
        """(V,) mean of the remembered calls' distributions, the newest counting most."""
        import torch

        weights = [self.decay**age for age in reversed(range(len(calls)))]
        parts = [weight / sum(weights) * q_V for weight, q_V in zip(weights, calls, strict=True)]
        return distribution(torch.stack(parts).sum(0))

    def theta(self, conflict: float) -> float:
        """Share of p and q to be covered.

        Raises:
            RuntimeError: `conflict` is no number, hence neither was the attention.
        """
        if not isfinite(conflict):
            raise RuntimeError("pact: the attention it chooses by is not finite")
        wanted = self.coverage + self.conflict_weight * conflict
        return min(self.most_coverage, max(self.least_coverage, wanted))

    def choose(self, p_V: Tensor, q_V: Tensor, theta: float) -> Tensor:
        """Ascending indices of the tokens to keep."""
        import torch

        n = len(p_V)
        order = torch.maximum(p_V, q_V).argsort(descending=True, stable=True)
        covered_V = torch.minimum(p_V[order].cumsum(0), q_V[order].cumsum(0)).tolist()
        budgets = sorted(ceil(rate * n) for rate in self.rates)
        enough = next((k for k in budgets if covered_V[k - 1] >= theta), n)
        return order[:enough].sort().values


def distribution(scores_V: Tensor) -> Tensor:
    """(V,) float32 that sums to 1, none of it 0."""
    scores_V = scores_V.float() + 1e-8
    return scores_V / scores_V.sum()


def divergence(p_V: Tensor, q_V: Tensor) -> float:
    """Jensen-Shannon divergence of two distributions, 0 (equal) to 1 (disjoint)."""
    least = 2.0**-23  # as the code: what is below float32's step beside 1 has its logarithm
    m_V = (p_V + q_V) / 2
    ratios = ((x, x.clamp(min=least).log() - m_V.clamp(min=least).log()) for x in (p_V, q_V))
    nats = sum(float((x * ratio).sum()) for x, ratio in ratios) / 2
    return min(max(nats / log(2), 0.0), 1.0) if isfinite(nats) else nats
