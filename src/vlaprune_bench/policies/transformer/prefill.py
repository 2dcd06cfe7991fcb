"""One policy call's pass through the language model: tokens leave on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlaprune_bench.measure.flops import decoder_layer_macs, llm_prefill_macs
from vlaprune_bench.policies.transformer.cache import LayerCache
from vlaprune_bench.policies.transformer.requests import Layers, Tap, Work, alone
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.pruning.base import Selection
from vlaprune_bench.types import TokenLayout


@dataclass
class Prefill:
    """What came out of the decoder layers."""

    hidden_BND: Tensor
    """States after the final norm, of the tokens that were computed to the end."""
    tokens_per_layer: list[int]
    """Tokens each layer computed."""
    keys_per_layer: list[int]
    """Tokens whose keys and values each layer attended to; more than those computed where some were
    reused."""


@dataclass
class Segment:
    """Successive layers of a prefill that see the same tokens."""

    layers: range
    query_N: Tensor
    """Positions, in the full sequence, of the tokens computed."""
    key_K: Tensor
    """Positions of the tokens whose keys are there."""
    rope_N: Tensor
    """RoPE positions of the tokens computed."""
    next_rope: int
    """RoPE position of the first token decoded after the prefill."""


class DecoderRun:
    """The language model's pass in one policy call: prefill, then decode steps.

    `prefill` and `step` run it alone, `prefilling` and `stepping` wherever `batch` runs them.
    Counts in `prefill_macs` and `decode_macs` what its layers computed (token logits not included).
    """

    def __init__(
        self,
        model: Stack,
        sequence_BLD: Tensor,
        layout: TokenLayout,
        *,
        tapped_layers: Sequence[int] = (),
        previous: LayerCache | None = None,
    ) -> None:
        """
        Args:
            model: the stack.
            sequence_BLD: input embeddings of the full sequence.
            layout: what stands where in it.
            tapped_layers: layers whose queries are kept for `attention`.
            previous: keys and values of the episode's previous call, for `Selection.reuse`.

        Raises:
            ValueError: `tapped_layers` names a layer there is not.
        """
        _check_layers(tapped_layers, model.n_layers)
        self.n_layers = model.n_layers
        self.prefill_macs = 0
        self.decode_macs = 0
        self.cache = LayerCache()
        self.kept_V: Tensor | None = None
        """Visual tokens (indices into all of them) computed so far; None: all."""
        self._model = model
        self._sequence_BLD = sequence_BLD
        self.layout = layout
        self._tapped = tuple(tapped_layers)
        self._previous = previous
        self._valid_L = _valid(layout, sequence_BLD.device)
        self._segments: list[Segment] = []
        self._taps: dict[int, Tap] = {}
        self._steps = 0
        self._before: tuple[Tensor, Tensor] | None = None
        """States before the layer about to run, and the positions of their tokens."""

    def prefill(
        self,
        select: Callable[[int], Selection | None],
        select_at: Iterable[int] = (),
        renumber: bool = False,
    ) -> Prefill:
        """See `prefilling`."""
        return alone(self.prefilling(select, select_at, renumber))

    def prefilling(
        self,
        select: Callable[[int], Selection | None],
        select_at: Iterable[int] = (),
        renumber: bool = False,
    ) -> Work[Prefill]:
        """Run all layers; visual tokens leave the tensors where `select` says so.

        Args:
            select: called with a layer's index before that layer; its answer is that of
                `Pruner.select`.
            select_at: layers before which `select` is called, ascending.
            renumber: give the tokens that stay contiguous RoPE positions; else they keep their own.

        Raises:
            ValueError: `select_at` names a layer there is not, or tokens are to be reused that the
                previous call does not have.
        """
        borders = set(select_at)
        _check_layers(borders, self.n_layers)
        hidden_BND, reusing = self._sequence_BLD, False
        query_N = key_K = torch.arange(self.layout.length, device=hidden_BND.device)
        # segments between decisions share their tokens, hence their rotation
        starts = sorted({0, *borders})
        for start, end in zip(starts, [*starts[1:], self.n_layers], strict=True):
            self._before = hidden_BND, query_N
            selection = select(start) if start in borders else None
            if selection is not None:
                hidden_BND, query_N = self._leave(hidden_BND, query_N, selection)
                if selection.reuse:
                    self._reuse(query_N, len(key_K))
                elif reusing:
                    raise ValueError("tokens cannot be dropped once others are reused")
                else:
                    key_K = query_N
                reusing = selection.reuse
            segment = self._segment(range(start, end), query_N, key_K, renumber)
            hidden_BND = yield self._layers(segment, hidden_BND)
        self._before = None
        tokens = [len(s.query_N) for s in self._segments for _ in s.layers]
        keys = [len(s.key_K) for s in self._segments for _ in s.layers]
        self.prefill_macs = llm_prefill_macs(tokens, self._model.shape, keys)
        return Prefill(self._model.norm(hidden_BND), tokens, keys)

    @property
    def segments(self) -> Sequence[Segment]:
        """What the layers of the prefill saw, first to last."""
        return self._segments

    def _segment(self, layers: range, query_N: Tensor, key_K: Tensor, renumber: bool) -> Segment:
        """Tokens of some layers with their RoPE positions; masked tokens advance nobody."""
        rope_N = query_N
        if renumber:
            rope_N = torch.searchsorted(key_K, query_N)
        if self._valid_L is not None:
            counted = self._valid_L[key_K] if renumber else self._valid_L
            # a masked first token would stand at -1: nobody sees it
            rope_N = (counted.cumsum(0) - 1)[rope_N]
        gone = self.layout.length - len(key_K) if renumber else 0
        return Segment(layers, query_N, key_K, rope_N, self.layout.n_valid - gone)

    def _leave(
        self, hidden_BND: Tensor, query_N: Tensor, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """Take all visual tokens but the selected out of the states; new states and positions."""
        self.kept_V = selection.index.to(query_N.device)
        stay_N = _sequence_positions(self.kept_V, self.layout)
        # `query_N` is sorted and contains `stay_N`: this finds their rows without a sync
        hidden_BND = hidden_BND[:, torch.searchsorted(query_N, stay_N)]
        if selection.values is not None:
            first = self.layout.visual.start
            hidden_BND[:, first : first + len(self.kept_V)] = selection.values.to(hidden_BND)
        return hidden_BND, stay_N

    def _reuse(self, query_N: Tensor, n_keys: int) -> None:
        length = self.layout.length
        if self._previous is None:
            raise ValueError("an episode's first call has no earlier keys and values to reuse")
        if {n_keys, *(k.shape[2] for k in self._previous.keys.values())} != {length}:
            raise ValueError("keys and values can be reused only where no token was dropped")
        self.cache.reuse(self._previous, query_N)

    def _layers(self, segment: Segment, hidden_BND: Tensor) -> Layers:
        """The layers of a prefill's segment, to be run."""
        self._segments.append(segment)
        for layer in set(self._tapped) & set(segment.layers):
            self._taps[layer] = Tap([], [], [], segment.key_K)
        visible_NK = None
        # where nothing but the order says who sees whom, a causal stack needs no mask
        plain = len(segment.query_N) == len(segment.key_K) and self._valid_L is None
        if not (self._model.causal and plain):
            visible_NK = self.visible(segment.query_N, segment.key_K)
        return Layers(
            self._model,
            hidden_BND,
            segment.layers,
            segment.query_N,
            segment.rope_N,
            len(segment.key_K),
            visible_NK,
            self.cache,
            self._taps,
        )

    def visible(self, row_N: Tensor, key_K: Tensor) -> Tensor | None:
        """Which keys each row may see, (N, K) bool; None: all. Arguments are positions.

        A masked row sees what a valid one there would: its state is finite and nobody reads it.
        """
        rule_NK = None
        if self._model.sees != "all":
            last_N = row_N
            if self._model.sees == "prefix":
                last_N = row_N.clamp(min=self.layout.n_prefix - 1)
            rule_NK = key_K[None] <= last_N[:, None]
        if self._valid_L is None:
            return rule_NK
        valid_1K = self._valid_L[key_K][None]
        return valid_1K.expand(len(row_N), -1) if rule_NK is None else rule_NK & valid_1K

    def step(self, embedding_BD: Tensor) -> Tensor:
        """See `stepping`."""
        return alone(self.stepping(embedding_BD))

    def stepping(self, embedding_BD: Tensor) -> Work[Tensor]:
        """Decode one token after the prefill (causal models).

        Args:
            embedding_BD: (1, width) input embedding of the token.

        Returns:
            (1, width) its state after the final norm.
        """
        hidden_B1D = embedding_BD[:, None]
        device = embedding_BD.device
        # filled on the device: nothing is copied there, hence nothing waits
        position_1 = torch.full((1,), self.layout.length + self._steps, device=device)
        for segment in self._segments:
            rope_1 = torch.full((1,), segment.next_rope + self._steps, device=device)
            n_keys = len(segment.key_K) + self._steps + 1
            hidden_B1D = yield Layers(
                self._model,
                hidden_B1D,
                segment.layers,
                position_1,
                rope_1,
                n_keys,
                None,
                self.cache,
                self._taps,
                step=self._steps + 1,
            )
            macs = decoder_layer_macs(1, self._model.shape, n_keys)
            self.decode_macs += len(segment.layers) * macs
        self._steps += 1
        return self._model.norm(hidden_B1D)[:, 0]


def _sequence_positions(kept_V: Tensor, layout: TokenLayout) -> Tensor:
    """Positions, in the full sequence, of what is left with `kept_V` of the visual tokens."""
    before = torch.arange(layout.visual.start, device=kept_V.device)
    after = torch.arange(layout.visual.stop, layout.length, device=kept_V.device)
    return torch.cat([before, layout.visual.start + kept_V, after])


def _valid(layout: TokenLayout, device: torch.device) -> Tensor | None:
    """(L,) bool: positions that are not masked; None: all."""
    if not layout.masked:
        return None
    valid_L = torch.ones(layout.length, dtype=torch.bool, device=device)
    for part in layout.masked:
        valid_L[part] = False
    return valid_L


def _check_layers(layers: Iterable[int], n_layers: int) -> None:
    if beyond := [k for k in layers if not 0 <= k < n_layers]:
        raise ValueError(f"no decoder layer {beyond}: there are 0 to {n_layers - 1}")
