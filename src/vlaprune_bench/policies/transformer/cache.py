"""Keys and values of one policy call: for decode steps, for attention maps, for the next call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class LayerCache:
    """Rotated keys and values of each decoder layer, as transformers' layers hand them over.

    The prefill runs each layer once; a layer that comes again is a decode step and is appended to.
    Each layer holds what that layer saw: fewer tokens after those where tokens left.
    """

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        """(1, kv heads, tokens, head_dim) by layer."""
        self.values: dict[int, Tensor] = {}
        self._previous: LayerCache | None = None
        self._fresh_N: Tensor | None = None

    def reuse(self, previous: LayerCache, fresh_N: Tensor) -> None:
        """From the next layer on, take the tokens that are not computed from the previous call.

        Args:
            previous: of the previous call, cut to its prefill.
            fresh_N: rows, ascending, of the tokens that are still computed.
        """
        self._previous, self._fresh_N = previous, fresh_N

    @property
    def reuses(self) -> bool:
        """Whether `reuse` was called."""
        return self._previous is not None

    def tensors(self, layers: Iterable[int]) -> list[Tensor]:
        """Keys, then values of those of some layers that are there."""
        there = [layer for layer in layers if layer in self.keys]
        return [held[layer] for held in (self.keys, self.values) for layer in there]

    def put(self, layers: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Set what `tensors` gives for the layers; nothing where `tensors` is empty."""
        if tensors:
            self.keys.update(zip(layers, tensors[: len(layers)], strict=True))
            self.values.update(zip(layers, tensors[len(layers) :], strict=True))

    def update(
        self, keys_BHNd: Tensor, values_BHNd: Tensor, layer: int, *_: Any
    ) -> tuple[Tensor, Tensor]:
        """What transformers' attention calls: store new ones, return all of the layer."""
        if layer in self.keys:
            keys_BHNd = torch.cat([self.keys[layer], keys_BHNd], dim=2)
            values_BHNd = torch.cat([self.values[layer], values_BHNd], dim=2)
        elif self._previous is not None and self._fresh_N is not None:
            # a copy: the previous call's stay as they were
            keys_BHNd = self._previous.keys[layer].index_copy(2, self._fresh_N, keys_BHNd)
            values_BHNd = self._previous.values[layer].index_copy(2, self._fresh_N, values_BHNd)
        self.keys[layer], self.values[layer] = keys_BHNd, values_BHNd
        return keys_BHNd, values_BHNd

    def cut(self, tokens: int) -> LayerCache:
        """The first `tokens` of each layer, without what this one itself reused."""
        first = LayerCache()
        first.keys = {layer: keys[:, :, :tokens] for layer, keys in self.keys.items()}
        first.values = {layer: values[:, :, :tokens] for layer, values in self.values.items()}
        return first


class BatchCache:
    """The caches of calls that are computed together, as the layers see them: a row for each."""

    def __init__(self, caches: Sequence[LayerCache]) -> None:
        self._caches = caches

    def update(
        self, keys_BHNd: Tensor, values_BHNd: Tensor, layer: int, *_: Any
    ) -> tuple[Tensor, Tensor]:
        """See `LayerCache.update`."""
        rows = zip(self._caches, keys_BHNd.split(1), values_BHNd.split(1), strict=True)
        # copies: a call's keys and values must not keep those of the others in memory
        all_of_layer = [
            cache.update(keys.clone(), values.clone(), layer) for cache, keys, values in rows
        ]
        if all_of_layer[0][0].shape[2] == keys_BHNd.shape[2]:
            return keys_BHNd, values_BHNd
        keys, values = zip(*all_of_layer, strict=True)
        return torch.cat(keys), torch.cat(values)


def cache_of(caches: Sequence[LayerCache]) -> LayerCache | BatchCache:
    """What the layers are given for some calls; one call's own where it is alone."""
    return caches[0] if len(caches) == 1 else BatchCache(caches)
