"""VLA-Cache: patches that did not change keep the keys and values of the previous call."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.pruning.frames import patch_similarity
from vlaprune_bench.pruning.options import option, wrong
from vlaprune_bench.pruning.scores import Reading, mean_entropy, prompt_rows
from vlaprune_bench.pruning.select import best_of_each, mask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class EarlierCall:
    """What a call leaves to the next one."""

    frames: Tensor
    relevance_V: Tensor
    """(V,) attention of the prompt to each visual token."""
    fractions: tuple[float, ...]
    """Share of reusable tokens that is reused, for each of the entropy layers."""


@dataclass
class CacheMemory:
    """The previous call, and what this one may reuse of it."""

    earlier: EarlierCall | None = None
    reusable: Tensor | None = None
    """Visual tokens that may be reused, in the order in which they are."""


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
    their attention kernel writes out anyway; `entropy_rows` all is the nearest to it. Counts are
    the authors' at 16 x 16 patches a camera; on other grids the defaults scale.
    """

    similarity: float = option(0.996, at_least=-1, at_most=1)
    """Least cosine between a patch's pixels now and before, for it to count as unchanged."""
    static_limit: int = option(150, at_least=0, count="camera")
    """Unchanged patches of a camera that count, the most similar first; 150 is of 256 patches."""
    relevant: int | None = option(None, at_least=0, count="camera")
    """Patches of a camera that the prompt attends to most and that are never reused; by default
    the authors' 120 of 256 where there is one camera, and 100 of each where there are more."""
    relevance_layer: int | None = option(None, layers=True, published=15)
    """Decoder layer of that attention; by default layer 15 of 32, scaled to the model's depth."""
    reuse_layers: tuple[int, ...] = option((), layers=True, published=(2, 6, 9, 11))
    """Decoder layers from which more tokens are reused, ascending; empty: layers 2, 6, 9 and 11 of
    32, scaled to the model's depth."""
    entropy_layers: tuple[int, ...] = option((), layers=True)
    """Decoder layers whose entropies are compared, ascending; empty: all. A reuse layer takes the
    share of the last of them that is not after it."""
    entropy_rows: Literal["prompt", "all"] = "prompt"
    """Rows whose entropy is averaged: the prompt's, or all that a layer computed."""
    growth: float = option(0.55, at_least=0, at_most=1)
    """Part of a rise of the share from one layer to the next that counts (code)."""
    entropy_factor: float = option(1.0, at_least=0)
    """Factor of the summed relative falls of entropy (paper, which gives no number for it)."""
    reading: Reading = "code"
    """The share is 1 - entropy, normalised to the layers' range, rises damped (code), or the sum of
    the relative falls of entropy up to the layer (paper, which leaves its factor open). Reused
    first are the first of the first camera (code) or the most similar (paper)."""

    keeps_cache = True

    def resolve(self, model: ModelShape) -> VlaCache:
        relevant, entropies = self.relevant, self.entropy_layers or tuple(range(model.n_layers))
        if relevant is None:
            relevant = model.scale_count(120 if len(model.grids) == 1 else 100)
        filled = replace(self, relevant=relevant, entropy_layers=entropies)
        resolved = Pruner.resolve(filled, model)
        if entropies[0] > (first := resolved.reuse_layers[0]):
            said = f"the first must not be after the first of --reuse-layers, {first}"
            raise wrong("entropy_layers", entropies, said)
        return resolved

    @property
    def layers(self) -> tuple[int, ...]:
        return self.reuse_layers

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        assert self.relevance_layer is not None
        return tuple(sorted({self.relevance_layer, *self.entropy_layers}))

    def start(self) -> CacheMemory:
        return CacheMemory()

    def select(self, context: PruneContext, memory: CacheMemory) -> Selection | None:
        if memory.earlier is None:
            return None
        if memory.reusable is None or context.layer == self.layers[0]:
            memory.reusable = self.reusable(context, memory.earlier)
        share = memory.earlier.fractions[bisect(self.entropy_layers, context.layer) - 1]
        wanted = int(share * len(memory.reusable))
        if self.reading == "code":
            wanted = max(wanted, min(1, len(memory.reusable)))
        n_visual = context.layout.n_visual
        if wanted <= n_visual - context.n_alive:
            return None  # as many are reused already
        return Selection.where(~mask(memory.reusable[:wanted], n_visual), reuse=True)

    def reusable(self, context: PruneContext, earlier: EarlierCall) -> Tensor:
        """Visual tokens that did not change and are not what the prompt was about.

        Returns:
            (n,) int64 indices into the visual tokens, those to be reused first in front.
        """
        assert self.relevant is not None
        similarity_V = patch_similarity(context, earlier.frames)
        static_V = best_of_each(similarity_V, context.layout, self.static_limit)
        relevant_V = best_of_each(earlier.relevance_V, context.layout, self.relevant)
        reusable_V = (similarity_V >= self.similarity) & static_V & ~relevant_V
        index = reusable_V.nonzero()[:, 0]
        if self.reading == "code":
            return index
        return index[similarity_V[index].argsort(descending=True, stable=True)]

    def finish(self, context: PruneContext, memory: CacheMemory) -> None:
        import torch

        assert self.relevance_layer is not None
        attention, prompt = context.decoder.attention, prompt_rows(context)
        entropies = []
        for layer in self.entropy_layers:
            rows = prompt if self.entropy_rows == "prompt" else context.decoder.rows(layer)
            entropies.append(mean_entropy(attention(layer, rows)))
        fractions = self.fractions(torch.stack(entropies).tolist())
        relevance_V = attention(self.relevance_layer, prompt).mean(0)
        memory.earlier = EarlierCall(context.frames, relevance_V, fractions)

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
