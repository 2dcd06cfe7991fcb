"""SpecPrune-VLA: keep what mattered in the last call, what moves, and what early layers look at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.frames import patch_similarity
from vlaprune_bench.pruning.gate import turns
from vlaprune_bench.pruning.options import option, wrong
from vlaprune_bench.pruning.scores import Reading, mean_entropy, prompt_rows
from vlaprune_bench.pruning.select import best_of_each, cameras, mask, ranked
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

PRUNE_LAYERS = {"paper": (5, 10, 15, 20, 25), "code": (6, 11, 16, 21, 26)}
CODE_UPDATE_LAYERS = (0, 1, 12)


@dataclass
class SpecMemory:
    """What an episode's calls leave to the next one, and the call under way."""

    frames: list[Tensor] = field(default_factory=list)
    """Of the last calls, oldest first."""
    global_V: Tensor | None = None
    """(V,) attention of the task to each visual token in the previous call's global layers."""
    base_V: Tensor | None = None
    """(V,) bool: tokens kept whatever this call's first layers say; None: all."""
    importance_V: Tensor | None = None
    """(V,) moving average of the tokens' importance over this call's layers."""


@Pruner.register_subclass("specprune")
@dataclass(frozen=True)
class SpecPrune(Pruner):
    """Keep what the last call, the motion in the frame and the first layers point to.

    Source: arXiv 2509.05614. After `local_layers` a patch stays if the task's words attended to it
    most in the previous call (global), if it changed most since then (dynamic), or if they attend
    to it most in one of those layers now (local). Before each of `prune_layers` the least important
    of the rest leave: importance is a moving average over layers of a token's rank by attention,
    weighted by how concentrated the layer's attention is. While the hand moves slowly and does not
    rise (fine motion), more local tokens stay. Counts are per camera, tokens keep their positions.

    Speeds are those observed in the last control step. The authors take the commanded action, so
    their thresholds of 0.4 and 0.2 stand here multiplied by LIBERO's 0.05 m and 0.5 rad; a hand
    lags behind its commands, so that more motion counts as fine here. The paper compares with a
    frame 4 to 11 control steps ago, by speed; a policy sees frames at its calls only, and
    `frame_lag` counts those. The code's last stage indexes a shortened list by original positions;
    that slip is not reproduced, the one named at `reading` is. Default counts are of 256 patches,
    and scale with the grid.
    """

    global_count: int = option(30, at_least=0, count="camera")
    """Patches of a camera kept for the previous call's attention, at most."""
    dynamic_count: int = option(20, at_least=0, count="camera")
    """Patches of a camera kept because they changed most, at most."""
    local_count: int = option(24, at_least=1, count="camera")
    """Patches of a camera kept for the attention of each local layer."""
    local_count_fine: int = option(40, at_least=1, count="camera")
    """The same in fine motion."""
    dynamic_similarity: float = 1.0
    """Only patches whose pixels have a smaller cosine with the earlier frame's count as changed."""
    frame_lag: int = option(1, at_least=1)
    """How many calls ago the earlier frame is; an episode's first one until there are so many."""
    speed: float = option(0.02, at_least=0)
    """Motion is fine below this translation, metres in a control step."""
    turn: float = option(0.1, at_least=0)
    """Motion is fine below this rotation, radians in a control step."""
    rise: float = 0.0
    """Motion is fine while the hand rises by no more than this, metres in a control step."""
    skip_text: int = option(9, at_least=0)
    """Prompt tokens after BOS that are not about the task: Llama's of OpenVLA's question."""
    local_layers: tuple[int, ...] = option((0, 1), layers=True)
    """Decoder layers, ascending, whose attention is local; tokens leave after the last of them."""
    global_layers: tuple[int, ...] = option((), layers=True, published=(14, 31))
    """Decoder layers whose mean attention is global; empty: the 15th and 32nd of 32, scaled to the
    model's depth."""
    prune_layers: tuple[int, ...] = option((), layers=True)
    """Decoder layers before which more tokens leave, ascending; empty: of 32, and scaled to the
    model's depth, 5, 10, 15, 20 and 25, or one later (code)."""
    update_layers: tuple[int, ...] = option((), layers=True)
    """Decoder layers that importance is averaged over, ascending; empty: the one before each of
    `prune_layers`, or 0, 1 and 12 of 32 (code)."""
    layer_keep: float | None = option(
        None, above=0, at_most=1, published={"paper": 0.9, "code": 0.8}
    )
    """Share left before each of `prune_layers`; by default 0.9 of the visual tokens, or 0.8 of all
    tokens, only visual ones leaving (code)."""
    min_tokens: int | None = option(
        None, at_least=0, count="call", published={"paper": 0, "code": 60}
    )
    """Visual tokens that `prune_layers` leave at least; by default 0, or 60 where a camera
    has 256 patches (code)."""
    rank_slope: float = option(0.1, at_least=0)
    """k of the rank's weight sigmoid(-k rank), scaled to sum 1 (paper, which gives no number)."""
    ema: float = option(0.2, above=0, at_most=1)
    """Weight of a new layer in the moving average of importance."""
    reading: Reading = "paper"
    """The code also drops tokens after the first local layer alone (keeping three times its count),
    counts the last one's choice from the camera's first patch instead of among those left, lets
    weights fall linearly from 10 to 0.1 with the rank in each camera, whatever the layer, and
    prunes an episode's first call too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.local_layers:
            raise wrong("local_layers", (), "it must name a layer at least, such as 0 1")
        first = self.local_layers[-1] + 2
        if self.prune_layers and self.prune_layers[0] < first:
            said = f"they must be after the local layers, from {first}"
            raise wrong("prune_layers", self.prune_layers, said)

    def resolve(self, model: ModelShape) -> SpecPrune:
        first = self.local_layers[-1] + 2
        if first >= model.n_layers:
            there = f"two of this model's decoder layers, 0 to {model.n_layers - 1}"
            raise wrong("local_layers", self.local_layers, f"{there}, must come after them")
        published = model.scale_layers(PRUNE_LAYERS[self.reading])
        prune = self.prune_layers or tuple(layer for layer in published if layer >= first)
        if not prune:
            said = "and none of the published ones is after the local layers; name some from"
            raise UserError(f"--prune-layers is empty, {said} {first} on.")
        update = self.update_layers or tuple(layer - 1 for layer in prune)
        if self.reading == "code" and not self.update_layers:
            update = model.scale_layers(CODE_UPDATE_LAYERS)
        return Pruner.resolve(replace(self, prune_layers=prune, update_layers=update), model)

    @property
    def layers(self) -> tuple[int, ...]:
        after = tuple(layer + 1 for layer in self.local_layers)
        return (*(after if self.reading == "code" else after[-1:]), *self.prune_layers)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        return tuple(sorted({*self.local_layers, *self.global_layers, *self.update_layers}))

    reads_motion = True

    def start(self) -> SpecMemory:
        return SpecMemory()

    def select(self, context: PruneContext, memory: SpecMemory) -> Selection | None:
        if context.layer == self.layers[0]:
            memory.base_V = self._base(context, memory)
            memory.importance_V = None
        if memory.base_V is None:
            return None
        if context.layer <= self.local_layers[-1] + 1:
            return Selection.where(self._with_local(context, memory.base_V))
        return Selection.where(self._by_importance(context, memory))

    def finish(self, context: PruneContext, memory: SpecMemory) -> None:
        import torch

        scores = [self._task_attention(context, layer).mean(0) for layer in self.global_layers]
        memory.global_V = torch.stack(scores).mean(0)
        memory.frames = [*memory.frames, context.frames][-self.frame_lag :]

    def is_fine(self, poses: np.ndarray) -> bool:
        """Whether the hand moved slowly and did not rise in the last control step.

        Args:
            poses: (steps + 1, 7) metres, then quaternion xyzw; one row: nothing is known.
        """
        if len(poses) < 2:
            return False
        (move,), (turn,) = np.diff(poses[-2:, :3], axis=0), turns(poses[-2:, 3:])
        slow = np.linalg.norm(move) < self.speed and turn < self.turn
        return bool(slow and move[2] <= self.rise)

    def _base(self, context: PruneContext, memory: SpecMemory) -> Tensor | None:
        """(V,) bool of what the previous call and the frames keep; None: keep all in this call."""
        if memory.global_V is None:
            no_V = context.patches.new_zeros(context.layout.n_visual).bool()
            return no_V if self.reading == "code" else None
        similarity_V = patch_similarity(context, memory.frames[0])
        seen_V = best_of_each(memory.global_V, context.layout, self.global_count)
        changed_V = best_of_each(-similarity_V, context.layout, self.dynamic_count)
        # tokens that had left before the global layers have no attention there
        seen_V &= memory.global_V > 0
        return seen_V | (changed_V & (similarity_V < self.dynamic_similarity))

    def _with_local(self, context: PruneContext, base_V: Tensor) -> Tensor:
        """(V,) bool of the tokens that stay after a local layer."""
        layout, kept_V = context.layout, base_V.clone()
        count = self.local_count_fine if self.is_fine(context.eef_poses) else self.local_count
        ran = [layer for layer in self.local_layers if layer < context.layer]
        if len(ran) < len(self.local_layers):
            count *= 3  # the code's first stage is a wider net
        for layer in ran:
            score_V = self._task_attention(context, layer).mean(0)
            there_V = _computed(context, layer)
            for part in cameras(layout):
                best = ranked(score_V, part, there_V)[:count]
                if self.reading == "code" and layer != self.local_layers[0]:
                    # its slip: places among those left, taken for places in the camera
                    best = part.start + there_V[part].cumsum(0)[best - part.start] - 1
                kept_V[best] = True
        return kept_V & _computed(context, context.layer - 1)

    def _by_importance(self, context: PruneContext, memory: SpecMemory) -> Tensor:
        """(V,) bool of the tokens that stay before one of `prune_layers`."""
        assert self.layer_keep is not None
        assert self.min_tokens is not None
        layout = context.layout
        since = max((layer for layer in self.prune_layers if layer < context.layer), default=0)
        if memory.importance_V is None:
            memory.importance_V = context.patches.new_zeros(layout.n_visual).float()
        for layer in self.update_layers:
            if since <= layer < context.layer:
                self._update(memory.importance_V, context, layer)
        everything = slice(0, layout.n_visual)
        best = ranked(memory.importance_V, everything, _computed(context, context.layer - 1))
        others = layout.length - layout.n_visual if self.reading == "code" else 0
        left = int(self.layer_keep * (len(best) + others)) - others
        return mask(best[: max(left, self.min_tokens, 1)], layout.n_visual)

    def _update(self, importance_V: Tensor, context: PruneContext, layer: int) -> None:
        """Bring the ranks of one more layer into the importance of the tokens it computed."""
        import torch

        layout, there_V = context.layout, _computed(context, layer)
        if self.reading == "paper":
            attention_RV = self._task_attention(context, layer)
            parts = [slice(0, layout.n_visual)]
            confidence = 1 / (float(mean_entropy(attention_RV)) + 1e-6)
        else:
            rows = torch.arange(layout.visual.stop, layout.length, device=there_V.device)
            attention_RV = context.decoder.attention(layer, rows)
            parts, confidence = cameras(layout), 1.0
        for part in parts:
            best = ranked(attention_RV.mean(0), part, there_V)
            if self.reading == "paper":
                ranks = torch.arange(len(best), device=best.device)
                weights = torch.sigmoid(-self.rank_slope * ranks)
                weights = weights / weights.sum()
            else:
                weights = torch.linspace(10, 0.1, len(best), device=best.device)
            old = importance_V[best]
            importance_V[best] = (1 - self.ema) * old + self.ema * confidence * weights

    def _task_attention(self, context: PruneContext, layer: int) -> Tensor:
        """(R, V) attention of the words that say the task, at a layer that has run."""
        rows = prompt_rows(context, self.skip_text)
        if not len(rows):
            n = context.layout.n_prompt - 1
            raise wrong("skip_text", self.skip_text, f"the prompt has {n} tokens after BOS")
        return context.decoder.attention(layer, rows)


def _computed(context: PruneContext, layer: int) -> Tensor:
    """(V,) bool of the visual tokens that a layer computed."""
    return mask(context.decoder.rows(layer), context.layout.length)[context.layout.visual]
