"""VLA-Pruner: what the prompt looks at, what recent actions looked at, less what is redundant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vlaprune_bench.pruning.base import BudgetPruner, PruneContext, Pruner, Selection
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.options import option
from vlaprune_bench.pruning.scores import Criterion, Reading, most_diverse, prefill_attention
from vlaprune_bench.pruning.select import cameras

if TYPE_CHECKING:
    from torch import Tensor

CODE_LAYERS = (15,)
"""Where the release for OpenVLA reads action attention: the middle of its 32 layers."""


@dataclass
class ActionHistory:
    """Attention of recent calls' action rows to the visual tokens."""

    calls: list[Tensor] = field(default_factory=list)
    """(V,) float32 each, oldest first."""


@Pruner.register_subclass("vla-pruner")
@dataclass(frozen=True)
class VlaPruner(BudgetPruner):
    """Before decoder layer `layer`, keep patches that matter to the prompt or to recent actions.

    Source: arXiv 2511.16449. Of each camera's tokens those with the most prefill attention and
    those with the most action attention in recent calls are united; where the union is too large,
    greedy max-min (see `divprune`) keeps the most diverse of it. Until `window` calls were made
    nothing is dropped. Tokens that stay keep their positions; those that left count as not attended
    in later layers of that call, which the paper leaves open and the code does.

    Action attention is that of the rows that predict actions, one before each token or placeholder
    (the rule holds for both policies), mean over heads and rows. The release for OpenVLA-OFT drops
    tokens after `layer` and turns its bidirectional attention causal there; neither is done here.
    """

    layer: int = option(3, at_least=1, layers=True)
    """Decoder layer before which tokens leave, from 1; prefill attention is of the one before."""
    criterion: Criterion = "last"
    """Prefill attention of the last row (last; the mean where attention is bidirectional) or the
    mean over all rows (prefill)."""
    window: int = option(3, at_least=1)
    """Calls whose action attention is averaged."""
    decay: float = option(0.8, above=0, at_most=1)
    """Weight of a call relative to the next one of the window, above 0 and at most 1."""
    action_layers: tuple[int, ...] = option((), layers=True)
    """Decoder layers whose action attention is averaged; empty: the latter half of the model
    (paper), or layer 15 (code)."""
    reading: Reading = "paper"
    """Where paper and code differ: `action_layers`; the largest weight goes to the newest call
    (paper) or to the oldest (code), whose guide is also rounded to bfloat16 before it ranks."""

    def resolve(self, model: ModelShape) -> VlaPruner:
        attended = range(model.n_layers) if model.action_layers is None else model.action_layers
        latter_half = tuple(layer for layer in attended if layer >= model.n_layers // 2)
        default = latter_half if self.reading == "paper" else CODE_LAYERS
        filled = replace(self, action_layers=self.action_layers or default)
        return BudgetPruner.resolve(filled, model)

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return tuple(sorted({self.layer - 1, *self.action_layers}))

    def start(self) -> ActionHistory:
        return ActionHistory()

    def select(self, context: PruneContext, memory: ActionHistory) -> Selection | None:
        return super().select(context, memory) if len(memory.calls) == self.window else None

    def choose(self, context: PruneContext, memory: ActionHistory, quotas: Sequence[int]) -> Tensor:
        import torch

        scores = (prefill_attention(context, self.criterion), self.guide(memory))
        kept = []
        for part, quota in zip(cameras(context.layout), quotas, strict=True):
            best = torch.cat([scores_V[part].topk(quota).indices for scores_V in scores])
            kept.append(most_diverse(context, part.start + best.unique(), quota))
        return torch.cat(kept).sort().values

    def guide(self, memory: ActionHistory) -> Tensor:
        """(V,) weighted mean of the remembered calls' action attention; it sums to 1."""
        import torch

        weights = [self.decay**age for age in range(self.window)]  # newest call first
        if self.reading == "paper":
            weights.reverse()
        guide_V = torch.zeros_like(memory.calls[0])
        for weight, call_V in zip(weights, memory.calls, strict=True):
            guide_V += weight * call_V
        guide_V /= guide_V.sum()
        return guide_V if self.reading == "paper" else guide_V.bfloat16()

    def finish(self, context: PruneContext, memory: ActionHistory) -> None:
        import torch

        first, beyond = context.layout.action_rows.start, context.layout.action_rows.stop
        rows = torch.arange(first, beyond, device=context.patches.device)
        attention_JRV = context.decoder.attentions(self.action_layers, rows)
        memory.calls = [*memory.calls, attention_JRV.mean(1).mean(0)][-self.window :]
