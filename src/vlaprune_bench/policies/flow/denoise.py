"""Denoising as a request of `transformer.requests`; the decoder that looks at its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vlaprune_bench.policies.flow.expert import Expert
from vlaprune_bench.policies.flow.expert_layers import Look, Read
from vlaprune_bench.policies.transformer.cache import LayerCache
from vlaprune_bench.policies.transformer.prefill import Segment
from vlaprune_bench.policies.transformer.requests import Pure, Request, Work
from vlaprune_bench.policies.transformer.scoring import CallDecoder, mean_attention
from vlaprune_bench.types import UserError


@dataclass
class Denoise(Request):
    """All denoising steps of a call; the answer is (1, C, action_dim), x at t = 0."""

    expert: Expert
    noise_1CA: Tensor
    state_1D: Tensor | None
    """The state's token, where it is one of the suffix."""
    cache: LayerCache
    """The prefix's; only read."""
    starts: list[Tensor]
    """(1,) RoPE position of the suffix's first token, for each expert layer."""
    valid: list[Tensor | None]
    """(1, K) which keys count, for each expert layer; None: all."""
    looks: dict[int, Look | None]
    """By expert layer: those there are filled in."""
    look_at: int = 0
    """Step whose queries and keys `looks` is given."""

    def __post_init__(self) -> None:
        self.stage, self.order = "denoise", (1, 0)
        keys = tuple(self.cache.keys[layer].shape[2] for layer in self.expert.reads)
        masked = tuple(v is not None for v in self.valid)
        self.shape = (
            id(self.expert),
            tuple(self.noise_1CA.shape),
            keys,
            masked,
            tuple(sorted(self.looks)),
            self.look_at,
        )

    @classmethod
    def run(cls, requests: Sequence[Denoise]) -> list[Tensor | Request]:
        first = requests[0]
        state_BD = None
        if first.state_1D is not None:
            state_BD = _joined([r.state_1D for r in requests if r.state_1D is not None])
        looks: dict[int, Look] = {}
        x_BCA = first.expert.denoise(
            _joined([r.noise_1CA for r in requests]),
            state_BD,
            cls.reads(requests),
            looks if first.looks else None,
            first.look_at,
        )
        for row, request in enumerate(requests):
            for layer in request.looks:
                q, k = looks[layer].queries_BHSd, looks[layer].keys_BHKd
                request.looks[layer] = Look(q[row : row + 1], k[row : row + 1])
        return list(x_BCA.split(1))

    @staticmethod
    def reads(requests: Sequence[Denoise]) -> list[Read]:
        """What the expert's layers read for some calls."""
        first = requests[0]
        layers, n_actions = first.expert.reads, first.noise_1CA.shape[1]
        valid: list[Tensor | None] = []
        for index, one in enumerate(first.valid):
            rows = [r.valid[index] for r in requests]
            valid.append(None if one is None else _joined([v for v in rows if v is not None]))
        return first.expert.reading(
            [_joined([r.cache.keys[layer] for r in requests]) for layer in layers],
            [_joined([r.cache.values[layer] for r in requests]) for layer in layers],
            [_joined([r.starts[i] for r in requests]) for i in range(len(layers))],
            valid,
            n_actions + first.expert.config.state_in_suffix,
        )

    def pure(self) -> Pure:
        layers, looked = self.expert.reads, sorted(self.looks)
        kept = [v for v in self.valid if v is not None]
        state = [] if self.state_1D is None else [self.state_1D]
        before = self.cache.tensors(layers)
        inputs = [self.noise_1CA, *state, *self.starts, *kept, *before]

        def function(given: list[Tensor]) -> list[Tensor]:
            """x at t = 0, then queries and keys of the layers looked at."""
            own = len(given) - len(before)
            cache, rest = LayerCache(), iter(given[:own])
            cache.put(layers, given[own:])
            request = replace(
                self,
                noise_1CA=next(rest),
                state_1D=next(rest) if state else None,
                starts=[next(rest) for _ in self.starts],
                valid=[None if v is None else next(rest) for v in self.valid],
                cache=cache,
                looks=dict.fromkeys(looked),
            )
            (x_1CA,) = self.run([request])
            assert isinstance(x_1CA, Tensor)
            made = [request.looks[layer] for layer in looked]
            seen = [t for look in made if look for t in (look.queries_BHSd, look.keys_BHKd)]
            return [x_1CA, *seen]

        def give(outputs: list[Tensor]) -> Tensor:
            for index, layer in enumerate(looked):
                self.looks[layer] = Look(*outputs[1 + 2 * index : 3 + 2 * index])
            return outputs[0]

        key = (Denoise, id(self.expert), self.shape, self.look_at)
        return Pure(key, inputs, function, give)


class FlowDecoder(CallDecoder):
    """A pass through the language model whose keys and values an action expert reads.

    To a method, action token i of the denoising step `look_at` stands at position length + i.
    """

    def __init__(self, *arguments: Any, expert: Expert, look_at: int, **options: Any) -> None:
        """As `CallDecoder`, and the expert with the step whose attention is looked at."""
        super().__init__(*arguments, **options)
        self._expert, self._look_at = expert, look_at
        tapped = [j for j, layer in enumerate(expert.reads) if layer in self._tapped]
        self._looks: dict[int, Look | None] = dict.fromkeys(tapped)
        self._denoised = False

    def seen_by_layer(self) -> list[Segment]:
        """What each expert layer reads of the prefix."""
        by_layer = {layer: s for s in self.segments for layer in s.layers}
        return [by_layer[layer] for layer in self._expert.reads]

    def denoising(self, noise_1CA: Tensor, state_1D: Tensor | None) -> Work[Tensor]:
        """From noise to actions over the prefix as it was left, (1, C, action_dim)."""
        segments, device = self.seen_by_layer(), noise_1CA.device
        starts = [torch.full((1,), s.next_rope, device=device) for s in segments]
        valid = [None if v is None else v[None] for v in map(self._counts, segments)]
        x_1CA = yield Denoise(
            self._expert,
            noise_1CA,
            state_1D,
            self.cache,
            starts,
            valid,
            self._looks,
            self._look_at,
        )
        self._denoised = True
        return x_1CA

    def _counts(self, segment: Segment) -> Tensor | None:
        """(K,) bool which keys count; None: all."""
        return None if self._valid_L is None else self._valid_L[segment.key_K]

    def attentions(self, layers: Sequence[int], rows: Tensor) -> Tensor:
        """Attention from `rows` to the visual tokens at tapped layers (see Decoder).

        Raises:
            ValueError: a layer is not tapped or has not run, or did not compute all of `rows`.
            UserError: rows of action tokens, at a layer that no layer of the expert reads.
        """
        length = self.layout.length
        # before the steps ran nobody can ask for them: no GPU is waited for
        if not self._denoised or not bool((rows >= length).any()):
            return super().attentions(layers, rows)
        action = rows >= length
        result_JRV = torch.zeros(
            len(layers), len(rows), self.layout.n_visual, device=self._sequence_BLD.device
        )
        if not bool(action.all()):
            result_JRV[:, ~action] = super().attentions(layers, rows[~action])
        looks = [self._action_look(layer) for layer in layers]
        shapes = [(id(segment), look.keys_BHKd.shape) for segment, look in looks]
        for _, group in groupby(range(len(layers)), lambda j: shapes[j]):
            at = list(group)
            segment, seen = looks[at[0]][0], [looks[j][1] for j in at]
            found = self._action_attention(segment, seen, rows[action] - length)
            result_JRV[at[0] : at[-1] + 1, action] = found
        return result_JRV

    def _action_look(self, layer: int) -> tuple[Segment, Look]:
        """What the expert's layer that reads this one saw at the step looked at."""
        if layer not in self._expert.reads:
            known = " ".join(map(str, self._expert.reads))
            raise UserError(
                f"decoder layer {layer} has no action attention; this policy's action expert reads "
                f"layers {known}: name some of them (--action-layers)."
            )
        index = self._expert.reads.index(layer)
        look = self._looks.get(index)
        if look is None:
            raise ValueError(f"decoder layer {layer} is not tapped, or has not run yet")
        return self.seen_by_layer()[index], look

    def _action_attention(self, segment: Segment, looks: list[Look], rows: Tensor) -> Tensor:
        """(layers, R, V) attention of action tokens at a step, mean over heads."""
        config, n_denoised = self._expert.config, self.layout.n_denoised
        queries_JHAd = torch.stack([look.queries_BHSd[0, :, -n_denoised:] for look in looks])
        queries_JRHd = queries_JHAd.transpose(1, 2)[:, rows]
        keys_JHKd, n_keys = torch.stack([look.keys_BHKd[0] for look in looks]), len(segment.key_K)
        self.charge(len(looks) * len(rows) * keys_JHKd.shape[2] * config.layer.query_width)
        visible = self._expert.visible_to_actions(
            self._counts(segment), n_keys, keys_JHKd.shape[2], n_denoised, rows
        )
        attention_JRK = mean_attention(queries_JRHd, keys_JHKd, visible)
        return self._on_visual(attention_JRK, segment.key_K)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Along the first dimension; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
