"""VLA-Cache: patches that did not change keep the keys and values of the previous call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.depth import PUBLISHED_DEPTH, check_layers, scale_layers
from vlaprune_bench.pruning.frames import patch_similarity
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CacheMemory:
    """What an episode's calls leave to the next one, and the call under way."""

    frames: Tensor | None = None
    """Of the previous call."""
    relevance_V: Tensor | None = None
    """(V,) attention of the prompt to each visual token in the previous call."""
    fractions: tuple[float, ...] = ()
    """Share of reusable tokens that is reused, for each of the entropy layers."""
    call: int = -1
    """The call that `reusable` and `reused` belong to."""
    reusable: Tensor | None = None
    """Visual tokens that may be reused, in the order in which they are."""
    reused: int = 0
    """How many of them are, so far."""
    computed: list[tuple[int, Tensor]] = field(default_factory=list)
    """Layer, and the visual tokens computed from it on; ascending, none: all."""


@Pruner.register_subclass("vla-cache")
@dataclass(frozen=True)
class VlaCache(Pruner):
    """Recompute only patches that changed or that the task is about; reuse the others.

    Source: arXiv 2502.02175. Reusable are, of each camera, the patches most similar to the previous
    call's frame, less those the prompt attended to most in that call. From each of `reuse_layers`
    on a growing share of them leaves the query side; their keys and values are those of the
    previous call. An episode's first call is full. Nothing is removed: visual tokens kept are those
    still computed in the last layer.

    The share at a layer follows the entropy of the previous call's attention there, which is taken
    over the visual tokens. The authors' code takes it over all tokens and all rows, from maps that
    their attention kernel writes out anyway; `entropy_rows` all is the nearest to it.
    """

    similarity: float = 0.996
    """Least cosine between a patch's pixels now and before, for it to count as unchanged."""
    static_limit: int = 150
    """Unchanged patches of a camera that count, the most similar first."""
    relevant: int | None = None
    """Patches of a camera that the prompt attends to most and that are never reused; by default
    the authors' 120 where there is one camera, and 100 of each where there are more."""
    relevance_layer: int | None = None
    """Decoder layer of that attention; by default layer 15 of 32, scaled to the model's depth."""
    reuse_layers: tuple[int, ...] = ()
    """Decoder layers from which more tokens are reused, ascending; empty: layers 2, 6, 9 and 11 of
    32, scaled to the model's depth."""
    entropy_layers: tuple[int, ...] = ()
    """Decoder layers whose entropies are compared, ascending; empty: all. A reuse layer takes the
    share of the last of them that is not after it."""
    entropy_rows: Literal["prompt", "all"] = "prompt"
    """Rows whose entropy is averaged: the prompt's, or all that a layer computed."""
    growth: float = 0.55
    """Part of a rise of the share from one layer to the next that counts (code)."""
    entropy_factor: float = 1.0
    """Factor of the summed relative falls of entropy (paper, which gives no number for it)."""
    reading: Literal["paper", "code"] = "code"
    """The share is 1 - entropy, normalised to the layers' range, rises damped (code), or the sum of
    the relative falls of entropy up to the layer (paper, which leaves its factor open). Reused
    first are the first of the first camera (code) or the most similar (paper)."""

    def __post_init__(self) -> None:
        check_layers("reuse-layers", self.reuse_layers)
        check_layers("entropy-layers", self.entropy_layers)
        if self.reading not in ("paper", "code"):
            raise UserError(f"--reading is {self.reading}; it must be paper or code.")
        if self.entropy_rows not in ("prompt", "all"):
            raise UserError(f"--entropy-rows is {self.entropy_rows}; it must be prompt or all.")
        if not -1 <= self.similarity <= 1:
            raise UserError(f"--similarity is {self.similarity:g}; a cosine lies between -1 and 1.")
        if not 0 <= self.growth <= 1:
            raise UserError(f"--growth is {self.growth:g}; it must be between 0 and 1.")
        for name in ("static_limit", "relevant", "relevance_layer", "entropy_factor"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 0.")

    def check(self, n_layers: int) -> None:
        check_layers("reuse-layers", self.reuse_layers, n_layers)
        check_layers("entropy-layers", self.entropy_layers, n_layers)
        if self.relevance_layer is not None:
            check_layers("relevance-layer", (self.relevance_layer,), n_layers)
        fitted = self.fit(n_layers)
        if fitted.entropy_layers[0] > fitted.reuse_layers[0]:
            raise UserError(
                f"--entropy-layers is {' '.join(map(str, fitted.entropy_layers))}; the first must "
                f"not be after the first of --reuse-layers, {fitted.reuse_layers[0]}."
            )

    def fit(self, n_layers: int) -> VlaCache:
        relevance = self.relevance_layer
        if relevance is None:
            (relevance,) = scale_layers([15], n_layers)
        return replace(
            self,
            relevance_layer=relevance,
            reuse_layers=self.reuse_layers or scale_layers((2, 6, 9, 11), n_layers),
            entropy_layers=self.entropy_layers or tuple(range(n_layers)),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        return self.reuse_layers or self.fit(PUBLISHED_DEPTH).reuse_layers

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        fitted = self.fit(PUBLISHED_DEPTH)  # changes nothing where the layers are given
        assert fitted.relevance_layer is not None
        return tuple(sorted({fitted.relevance_layer, *fitted.entropy_layers}))

    @property
    def keeps_cache(self) -> bool:
        return True

    def start(self) -> CacheMemory:
        return CacheMemory()

    def select(self, context: PruneContext, memory: CacheMemory) -> Selection | None:
        import torch

        if memory.frames is None or memory.relevance_V is None:
            return None
        if memory.call != context.call:
            memory.call, memory.reused, memory.computed = context.call, 0, []
            memory.reusable = self.reusable(context, memory.frames, memory.relevance_V)
        assert memory.reusable is not None
        there = [layer for layer in self.entropy_layers if layer <= context.layer]
        fraction = memory.fractions[len(there) - 1]
        wanted = int(fraction * len(memory.reusable))
        if self.reading == "code" and len(memory.reusable):
            wanted = max(wanted, 1)
        if wanted <= memory.reused:
            return None
        memory.reused = wanted
        computed_V = torch.ones(context.layout.n_visual, dtype=torch.bool)
        computed_V[memory.reusable[:wanted].cpu()] = False
        index = computed_V.nonzero()[:, 0].to(context.patches.device)
        memory.computed.append((context.layer, index))
        return Selection(index, reuse=True)

    def reusable(self, context: PruneContext, earlier: Tensor, relevance_V: Tensor) -> Tensor:
        """Visual tokens that did not change and are not what the prompt is about.

        Args:
            context: of this call.
            earlier: the previous call's frames.
            relevance_V: (V,) attention of the prompt in the previous call.

        Returns:
            (n,) int64 indices into the visual tokens, those to be reused first in front.
        """
        import torch

        layout = context.layout
        similarity_V = patch_similarity(context, earlier)
        relevant = self.relevant
        if relevant is None:
            relevant = 120 if len(layout.grids) == 1 else 100
        allowed_V = similarity_V >= self.similarity
        for camera, count in enumerate(layout.visual_counts):
            part = layout.camera(camera)
            order = similarity_V[part].argsort(descending=True, stable=True)
            allowed_V[part.start + order[self.static_limit :]] = False
            top = relevance_V[part].topk(min(relevant, count)).indices
            allowed_V[part.start + top.to(allowed_V.device)] = False
        index = allowed_V.nonzero()[:, 0]
        if self.reading == "code":
            return index
        return index[torch.argsort(similarity_V[index], descending=True, stable=True)]

    def finish(self, context: PruneContext, memory: CacheMemory) -> None:
        import torch

        layout, device = context.layout, context.patches.device
        assert self.relevance_layer is not None
        prompt = torch.arange(layout.length, device=device)[layout.prompt_rest]
        attention = context.decoder.attention
        entropies = []
        for layer in self.entropy_layers:
            rows = prompt
            if self.entropy_rows == "all":
                rows = self._computed_rows(context, memory, layer)
            entropies.append(mean_entropy(attention(layer, rows)))
        memory.fractions = self.fractions(torch.stack(entropies).tolist())
        memory.relevance_V = attention(self.relevance_layer, prompt).mean(0)
        memory.frames = context.frames

    def fractions(self, entropies: list[float]) -> tuple[float, ...]:
        """Share of the reusable tokens that is reused, from the entropies of successive layers."""
        if self.reading == "paper":
            shares, total = [0.0], 0.0
            for before, now in pairwise(entropies):
                total += (before - now) / before if before else 0.0
                shares.append(min(max(self.entropy_factor * total, 0.0), 1.0))
            return tuple(shares)
        low, span = min(entropies), max(entropies) - min(entropies)
        shares = [1 - (entropy - low) / (span + 1e-10) for entropy in entropies]
        for i in range(1, len(shares)):
            rise = shares[i] - shares[i - 1]
            if rise > 0:
                shares[i] = shares[i - 1] + self.growth * rise
        return tuple(shares)

    def _computed_rows(self, context: PruneContext, memory: CacheMemory, layer: int) -> Tensor:
        """Positions in the full sequence of the tokens that `layer` computed in this call."""
        import torch

        rows = torch.arange(context.layout.length, device=context.patches.device)
        computed = memory.computed if memory.call == context.call else []
        here = [index for start, index in computed if start <= layer]
        if not here:
            return rows
        visual = context.layout.visual
        return torch.cat([rows[: visual.start], visual.start + here[-1], rows[visual.stop :]])


def mean_entropy(attention_RV: Tensor) -> Tensor:
    """Entropy of each row's attention, scaled to sum to 1 over the visual tokens, mean over rows.

    Args:
        attention_RV: (R, V) attention to the visual tokens; those that are gone have 0.

    Returns:
        () float32, nats.
    """
    p_RV = attention_RV / (attention_RV.sum(1, keepdim=True) + 1e-10)
    return -(p_RV * (p_RV + 1e-10).log()).sum(1).mean()
