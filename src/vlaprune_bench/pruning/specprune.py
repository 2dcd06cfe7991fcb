"""SpecPrune-VLA: keep what mattered in the last call, what moves, and what early layers look at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vlaprune_bench.pruning.base import PruneContext, Pruner
from vlaprune_bench.pruning.depth import PUBLISHED_DEPTH, check_layers, scale_layers
from vlaprune_bench.pruning.frames import patch_similarity
from vlaprune_bench.pruning.vla_cache import mean_entropy
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SpecMemory:
    """What an episode's calls leave to the next one, and the call under way."""

    frames: list[Tensor] = field(default_factory=list)
    """Of the last calls, oldest first."""
    global_V: Tensor | None = None
    """(V,) attention of the task to each visual token in the previous call's global layers."""
    call: int = -1
    """The call that the rest belongs to."""
    full: bool = False
    """Whether that call keeps every token."""
    base_V: Tensor | None = None
    """(V,) bool: tokens kept whatever this call's first layers say."""
    alive: list[tuple[int, Tensor]] = field(default_factory=list)
    """Layer, and (V,) bool of the visual tokens there from it on; ascending."""
    importance_V: Tensor | None = None
    """(V,) moving average of the tokens' importance over layers."""
    updated: int = -1
    """The last layer that is part of it."""


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
    that slip is not reproduced, the one named at `reading` is.
    """

    global_count: int = 30
    """Patches of a camera kept for the previous call's attention, at most."""
    dynamic_count: int = 20
    """Patches of a camera kept because they changed most, at most."""
    local_count: int = 24
    """Patches of a camera kept for the attention of each local layer."""
    local_count_fine: int = 40
    """The same in fine motion."""
    dynamic_similarity: float = 1.0
    """Only patches whose pixels have a smaller cosine with the earlier frame's count as changed."""
    frame_lag: int = 1
    """How many calls ago the earlier frame is; an episode's first one until there are so many."""
    speed: float = 0.02
    """Motion is fine below this translation, metres in a control step."""
    turn: float = 0.1
    """Motion is fine below this rotation, radians in a control step."""
    rise: float = 0.0
    """Motion is fine while the hand rises by no more than this, metres in a control step."""
    skip_text: int = 9
    """Prompt tokens after BOS that are not about the task: Llama's of OpenVLA's question."""
    local_layers: tuple[int, ...] = (0, 1)
    """Decoder layers, ascending, whose attention is local; tokens leave after the last of them."""
    global_layers: tuple[int, ...] = ()
    """Decoder layers whose mean attention is global; empty: the 15th and 32nd of 32, scaled to the
    model's depth."""
    prune_layers: tuple[int, ...] = ()
    """Decoder layers before which more tokens leave, ascending; empty: of 32, and scaled to the
    model's depth, 5, 10, 15, 20 and 25, or one later (code)."""
    update_layers: tuple[int, ...] = ()
    """Decoder layers that importance is averaged over, ascending; empty: the one before each of
    `prune_layers`, or 0, 1 and 12 of 32 (code)."""
    layer_keep: float | None = None
    """Share left before each of `prune_layers`; by default 0.9 of the visual tokens, or 0.8 of all
    tokens, only visual ones leaving (code)."""
    min_tokens: int | None = None
    """Visual tokens that `prune_layers` leave at least; by default 0, or 60 (code)."""
    rank_slope: float = 0.1
    """k of the rank's weight sigmoid(-k rank), scaled to sum 1 (paper, which gives no number)."""
    ema: float = 0.2
    """Weight of a new layer in the moving average of importance."""
    reading: Literal["paper", "code"] = "paper"
    """The code also drops tokens after the first local layer alone (keeping three times its count),
    counts the last one's choice from the camera's first patch instead of among those left, lets
    weights fall linearly from 10 to 0.1 with the rank in each camera, whatever the layer, and
    prunes an episode's first call too."""

    def __post_init__(self) -> None:
        for name in ("local_layers", "global_layers", "prune_layers", "update_layers"):
            check_layers(name.replace("_", "-"), getattr(self, name))
        if not self.local_layers:
            raise UserError("--local-layers is empty; it must name a layer at least, such as 0 1.")
        border = self.local_layers[-1] + 1
        if self.prune_layers and self.prune_layers[0] <= border:
            raise UserError(
                f"--prune-layers is {' '.join(map(str, self.prune_layers))}; "
                f"they must be after the local layers, from {border + 1}."
            )
        if self.reading not in ("paper", "code"):
            raise UserError(f"--reading is {self.reading}; it must be paper or code.")
        for name in ("layer_keep", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {value:g}; it must be above 0 and at most 1.")
        if self.frame_lag < 1:
            raise UserError(f"--frame-lag is {self.frame_lag}; it must be at least 1.")
        counts = ("global_count", "dynamic_count", "local_count", "local_count_fine", "min_tokens")
        for name in (*counts, "speed", "turn", "skip_text", "rank_slope"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 0.")
        if not self.local_count or not self.local_count_fine:
            flag = "local-count" if not self.local_count else "local-count-fine"
            raise UserError(f"--{flag} is 0; it must be at least 1.")

    def check(self, n_layers: int) -> None:
        if self.local_layers[-1] + 2 >= n_layers:
            raise UserError(
                f"--local-layers is {' '.join(map(str, self.local_layers))}; two of this model's "
                f"decoder layers, 0 to {n_layers - 1}, must come after them."
            )
        for name in ("global_layers", "prune_layers", "update_layers"):
            check_layers(name.replace("_", "-"), getattr(self, name), n_layers)
        if not self.fit(n_layers).prune_layers:
            raise UserError(
                "--prune-layers is empty, and none of the published ones is after the "
                f"local layers; name some from {self.local_layers[-1] + 2} on."
            )

    def fit(self, n_layers: int) -> SpecPrune:
        code = self.reading == "code"
        border = self.local_layers[-1] + 1
        prune = self.prune_layers
        if not prune:
            later = scale_layers((6, 11, 16, 21, 26) if code else (5, 10, 15, 20, 25), n_layers)
            prune = tuple(layer for layer in later if layer > border)
        before = tuple(layer - 1 for layer in prune)
        return replace(
            self,
            global_layers=self.global_layers or scale_layers((14, 31), n_layers),
            prune_layers=prune,
            update_layers=self.update_layers
            or (scale_layers((0, 1, 12), n_layers) if code else before),
            layer_keep=self.layer_keep or (0.8 if code else 0.9),
            min_tokens=(60 if code else 0) if self.min_tokens is None else self.min_tokens,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        after = [layer + 1 for layer in self.local_layers]
        static = after if self.reading == "code" else after[-1:]
        return (*static, *(self.prune_layers or self.fit(PUBLISHED_DEPTH).prune_layers))

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        fitted = self.fit(PUBLISHED_DEPTH)  # changes nothing where the layers are given
        return tuple(sorted({*fitted.local_layers, *fitted.global_layers, *fitted.update_layers}))

    def start(self) -> SpecMemory:
        return SpecMemory()

    def select(self, context: PruneContext, memory: SpecMemory) -> Tensor | None:
        import torch

        if memory.call != context.call:
            self._begin(context, memory)
        if memory.full:
            return None
        alive_V = _alive_at(context, memory, context.layer)
        if context.layer <= self.local_layers[-1] + 1:
            kept_V = self._static(context, memory, alive_V)
        else:
            kept_V = self._by_importance(context, memory, alive_V)
        if torch.equal(kept_V, alive_V):
            return None
        memory.alive.append((context.layer, kept_V))
        return kept_V.nonzero()[:, 0]

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
        (before, now), (p, q) = poses[-2:, :3], poses[-2:, 3:]
        cosine = abs(p @ q) / (np.linalg.norm(p) * np.linalg.norm(q))
        turn = 2 * np.arccos(min(cosine, 1.0))
        slow = bool(np.linalg.norm(now - before) < self.speed and turn < self.turn)
        return slow and bool(now[2] - before[2] <= self.rise)

    def _begin(self, context: PruneContext, memory: SpecMemory) -> None:
        """Start a call: what the previous one and the frames say."""
        import torch

        device, layout = context.patches.device, context.layout
        memory.call, memory.alive, memory.updated = context.call, [], -1
        memory.importance_V = torch.zeros(layout.n_visual, device=device)
        memory.base_V = torch.zeros(layout.n_visual, dtype=torch.bool, device=device)
        memory.full = memory.global_V is None and self.reading == "paper"
        if memory.global_V is None:
            return
        similarity_V = patch_similarity(context, memory.frames[0])
        for camera in range(len(layout.grids)):
            part = layout.camera(camera)
            seen = _best(memory.global_V[part], self.global_count)
            # tokens that had left before the global layers have no attention there
            memory.base_V[part.start + seen[memory.global_V[part][seen] > 0]] = True
            changed = _best(-similarity_V[part], self.dynamic_count)
            below = similarity_V[part][changed] < self.dynamic_similarity
            memory.base_V[part.start + changed[below]] = True

    def _static(self, context: PruneContext, memory: SpecMemory, alive_V: Tensor) -> Tensor:
        """(V,) bool of the tokens that stay after a local layer."""
        assert memory.base_V is not None
        layout, kept_V = context.layout, memory.base_V.clone()
        count = self.local_count_fine if self.is_fine(context.eef_poses) else self.local_count
        ran = [layer for layer in self.local_layers if layer < context.layer]
        # the code's first stage is a wider net
        wide = 3 if len(ran) < len(self.local_layers) else 1
        for layer in ran:
            score_V = self._task_attention(context, layer).mean(0)
            there_V = _alive_at(context, memory, layer)
            for camera in range(len(layout.grids)):
                part = layout.camera(camera)
                left = there_V[part].nonzero()[:, 0]
                best = _best(score_V[part][left], wide * count)
                slip = self.reading == "code" and layer != self.local_layers[0]
                kept_V[part.start + (best if slip else left[best])] = True
        return kept_V & alive_V

    def _by_importance(self, context: PruneContext, memory: SpecMemory, alive_V: Tensor) -> Tensor:
        """(V,) bool of the tokens that stay before one of `prune_layers`."""
        import torch

        assert memory.importance_V is not None
        assert self.layer_keep is not None
        assert self.min_tokens is not None
        for layer in self.update_layers:
            if memory.updated < layer < context.layer:
                memory.importance_V = self._update(context, memory, layer)
                memory.updated = layer
        alive = alive_V.nonzero()[:, 0]
        others = context.layout.length - context.layout.n_visual if self.reading == "code" else 0
        left = int(self.layer_keep * (len(alive) + others)) - others
        kept_V = torch.zeros_like(alive_V)
        kept_V[alive[_best(memory.importance_V[alive], max(left, self.min_tokens, 1))]] = True
        return kept_V

    def _update(self, context: PruneContext, memory: SpecMemory, layer: int) -> Tensor:
        """(V,) importance with one more layer; of the tokens that were there only."""
        import torch

        assert memory.importance_V is not None
        layout, there_V = context.layout, _alive_at(context, memory, layer)
        if self.reading == "paper":
            attention_RV = self._task_attention(context, layer)
            parts = [slice(0, layout.n_visual)]
            confidence = 1 / (float(mean_entropy(attention_RV)) + 1e-6)
        else:
            rows = torch.arange(layout.visual.stop, layout.length, device=there_V.device)
            attention_RV = context.decoder.attention(layer, rows)
            parts = [layout.camera(camera) for camera in range(len(layout.grids))]
            confidence = 1.0
        importance_V = memory.importance_V.clone()
        for part in parts:
            left = part.start + there_V[part].nonzero()[:, 0]
            ranked = left[_best(attention_RV.mean(0)[left], len(left))]
            ranks = torch.arange(len(ranked), device=ranked.device)
            if self.reading == "paper":
                weights = torch.sigmoid(-self.rank_slope * ranks)
                weights = weights / weights.sum()
            else:
                weights = torch.linspace(10, 0.1, len(ranked), device=ranked.device)
            old = importance_V[ranked]
            importance_V[ranked] = (1 - self.ema) * old + self.ema * confidence * weights
        return importance_V

    def _task_attention(self, context: PruneContext, layer: int) -> Tensor:
        """(R, V) attention of the words that say the task, at a layer that has run."""
        import torch

        layout = context.layout
        text = torch.arange(layout.length, device=context.patches.device)[layout.prompt_rest]
        if self.skip_text >= len(text):
            raise UserError(
                f"--skip-text is {self.skip_text}; the prompt has {len(text)} tokens after BOS."
            )
        return context.decoder.attention(layer, text[self.skip_text :])


def _alive_at(context: PruneContext, memory: SpecMemory, layer: int) -> Tensor:
    """(V,) bool of the visual tokens that `layer` computes, as far as decided in this call."""
    import torch

    decided = [alive_V for start, alive_V in memory.alive if start <= layer]
    if decided:
        return decided[-1]
    n_visual = context.layout.n_visual
    return torch.ones(n_visual, dtype=torch.bool, device=context.patches.device)


def _best(scores: Tensor, k: int) -> Tensor:
    """Indices of the `k` largest scores (or of all), best first, the first among equals."""
    return scores.argsort(descending=True, stable=True)[:k]
