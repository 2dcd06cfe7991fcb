"""Calls computed together: the networks run once for several, everything else is each call's own.

A call's way through the networks is a generator that yields requests and goes on with the answers.
`alone` answers those of one call, `together` those of several: requests of one shape are computed
at once. So neither a pruning method nor the code of a call knows how many others run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from vlaprune_bench.policies.transformer.cache import LayerCache, cache_of
from vlaprune_bench.policies.transformer.stack import Stack

T = TypeVar("T")


@dataclass
class Pure:
    """A request as a function of tensors alone."""

    key: tuple[Any, ...]
    """Requests of one key, whose inputs have the same shapes, are the same function."""
    inputs: list[Tensor]
    function: Callable[[list[Tensor]], list[Tensor]]
    give: Callable[[list[Tensor]], Tensor]
    """Puts results where the request wants them, and says the answer."""


class Request(ABC):
    """Something the networks compute for a call."""

    stage: str
    """Of `StageTimer`."""
    order: tuple[int, int]
    """The smallest of several is answered first, so that those behind catch up."""
    shape: tuple[Any, ...]
    """Requests of one class and one shape, which names the networks, can be computed together."""

    @classmethod
    @abstractmethod
    def run(cls, requests: Sequence[Any]) -> list[Tensor | Request]:
        """Compute some of one shape; for each its answer, or what is left of it."""

    @abstractmethod
    def pure(self) -> Pure | None:
        """This request as a function; None where it reads more than tensors of its own."""


Work: TypeAlias = Generator[Request, Any, T]
"""A call, or a part of one, that ends in a T; is sent the Tensor that answers its request."""


class Encoder(Protocol):
    """Vision towers and projector."""

    def patches(self, pixels_BCHW: Tensor) -> Tensor:
        """Projected patch embeddings, (B, V, width), of all cameras."""
        ...


class TwoStageEncoder(Encoder, Protocol):
    """One whose towers' outputs can be seen, and changed, before they are projected."""

    @property
    def tower_widths(self) -> tuple[int, ...]:
        """Width of each tower's outputs."""
        ...

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Outputs of the towers, (B, patches of all cameras, width), towers side by side."""
        ...

    def project(self, features_BPC: Tensor) -> Tensor:
        """What `patches` makes of `features`."""
        ...


@dataclass
class Patches(Request):
    """Projected patch embeddings, (1, V, width); or half of the way to them."""

    model: Encoder
    input_1: Tensor
    """Pixels, (1, channels of all cameras, H, W), or what `project` takes."""
    part: Literal["patches", "features", "project"] = "patches"

    def __post_init__(self) -> None:
        self.stage, self.order = "vision", (-1, int(self.part == "project"))
        self.shape = (id(self.model), self.part, *getattr(self.input_1, "shape", ()))

    @classmethod
    def run(cls, requests: Sequence[Patches]) -> list[Tensor | Request]:
        compute = getattr(requests[0].model, requests[0].part)
        return list(compute(_joined([r.input_1 for r in requests])).split(1))

    def pure(self) -> Pure:
        def function(inputs: list[Tensor]) -> list[Tensor]:
            return [getattr(self.model, self.part)(inputs[0])]

        key = (Patches, id(self.model), self.part)
        return Pure(key, [self.input_1], function, lambda outputs: outputs[0])


@dataclass
class Tap:
    """Queries of one tapped layer, before RoPE."""

    queries_NH: list[Tensor]
    query_N: list[Tensor]
    rope_N: list[Tensor]
    key_K: Tensor
    """Positions of the prefill's keys at this layer."""

    def add(self, queries_NH: Tensor, request: Layers) -> None:
        """Keep what q_proj gave for the tokens of a request."""
        self.queries_NH.append(queries_NH)
        self.query_N.append(request.query_N)
        self.rope_N.append(request.rope_N)


@dataclass
class Layers(Request):
    """Successive decoder layers; the answer is the states after them."""

    model: Stack
    hidden_1ND: Tensor
    layers: range
    query_N: Tensor
    """Positions, in the full sequence, of the tokens computed."""
    rope_N: Tensor
    """Their RoPE positions."""
    n_keys: int
    """Tokens whose keys each layer sees, those of `cache` included."""
    visible_NK: Tensor | None
    """See `Stack.run_layers`."""
    cache: LayerCache
    taps: dict[int, Tap]
    """By layer; are told the queries."""
    step: int = 0
    """0: prefill; then the decode steps, from 1."""

    def __post_init__(self) -> None:
        self.stage = "decode" if self.step else "prefill"
        self.order = (self.step, self.layers.start)
        plain = self.visible_NK is None
        self.shape = (id(self.model), self.layers.start, len(self.query_N), self.n_keys, plain)

    @classmethod
    def run(cls, requests: Sequence[Layers]) -> list[Tensor | Request]:
        """Up to where the first of them ends."""
        first = requests[0]
        layers = range(first.layers.start, min(r.layers.stop for r in requests))
        visible = [r.visible_NK[None] for r in requests if r.visible_NK is not None]
        with _tapping(requests, layers):
            hidden_BND = first.model.run_layers(
                _joined([r.hidden_1ND for r in requests]),
                _joined([r.rope_N[None] for r in requests]),
                layers,
                cache_of([r.cache for r in requests]),
                _joined(visible) if visible else None,
            )
        return [
            hidden_1ND
            if r.layers.stop == layers.stop
            else replace(r, hidden_1ND=hidden_1ND, layers=range(layers.stop, r.layers.stop))
            for r, hidden_1ND in zip(requests, hidden_BND.split(1), strict=True)
        ]

    def pure(self) -> Pure | None:
        if self.cache.reuses:
            return None
        tapped = sorted(set(self.taps) & set(self.layers))
        inputs = [self.hidden_1ND, self.rope_N]
        if self.visible_NK is not None:
            inputs.append(self.visible_NK)
        before = self.cache.tensors(self.layers)

        def function(given: list[Tensor]) -> list[Tensor]:
            """The states, the queries of tapped layers, then all keys and values."""
            own = len(given) - len(before)
            cache = LayerCache()
            cache.put(self.layers, given[own:])
            taps = {layer: Tap([], [], [], self.taps[layer].key_K) for layer in tapped}
            visible_NK = None if self.visible_NK is None else given[2]
            request = replace(
                self,
                hidden_1ND=given[0],
                rope_N=given[1],
                visible_NK=visible_NK,
                cache=cache,
                taps=taps,
            )
            (hidden_1ND,) = self.run([request])
            assert isinstance(hidden_1ND, Tensor)
            queries = [taps[layer].queries_NH[0] for layer in tapped]
            return [hidden_1ND, *queries, *cache.tensors(self.layers)]

        def give(outputs: list[Tensor]) -> Tensor:
            for layer, queries_NH in zip(tapped, outputs[1:], strict=False):
                self.taps[layer].add(queries_NH, self)
            self.cache.put(self.layers, outputs[1 + len(tapped) :])
            return outputs[0]

        key = (Layers, id(self.model), self.layers, self.step, tuple(tapped))
        return Pure(key, [*inputs, *before], function, give)


def compute(requests: Sequence[Request]) -> list[Tensor | Request]:
    """Compute requests of one class and shape; see `Request.run`."""
    return requests[0].run(requests)


def alone(work: Work[T]) -> T:
    """Run one call, or a part of one, by itself."""
    reply = None
    while True:
        try:
            request = work.send(reply)
        except StopIteration as done:
            return done.value
        (reply,) = compute([request])


def together(
    works: Sequence[Work[T]],
    enter: Callable[[str], None],
    run: Callable[[Sequence[Request]], list[Tensor | Request]] = compute,
) -> tuple[list[T | Exception], int]:
    """Run several calls side by side.

    Args:
        works: the calls.
        enter: told the stage of what comes next, see `StageTimer.enter`.
        run: computes requests of one class and shape.

    Returns:
        What each ends in, or the exception that ended it, which is no other call's concern; and
        how many were computed at once, at the most.

    Raises:
        Exception: whatever a computation for several of them raises.
    """
    answers: dict[int, T | Exception] = {}
    waiting: dict[int, Request] = {}
    most = 0

    def go_on(index: int, reply: Tensor | None, stage: str) -> None:
        enter(stage)
        try:
            waiting[index] = works[index].send(reply)
        except StopIteration as done:
            answers[index] = done.value
        except Exception as error:  # noqa: BLE001 - the answer to this call; the others go on
            answers[index] = error

    for index in range(len(works)):
        go_on(index, None, "preprocess")
    while waiting:
        first = min(waiting.values(), key=lambda request: request.order)
        group = {
            index: request
            for index, request in waiting.items()
            if type(request) is type(first) and request.shape == first.shape
        }
        most = max(most, len(group))
        enter(first.stage)
        for index, reply in zip(group, run(list(group.values())), strict=True):
            del waiting[index]
            if isinstance(reply, Request):
                waiting[index] = reply
            else:
                go_on(index, reply, first.stage)
    return [answers[index] for index in range(len(works))], most


@contextmanager
def _tapping(requests: Sequence[Layers], layers: range) -> Iterator[None]:
    """Keep what q_proj of the tapped layers among `layers` gives while this is open."""

    def keep(row: int, layer: int, _module: nn.Module, _inputs: Any, output_BNH: Tensor) -> None:
        requests[row].taps[layer].add(output_BNH[row], requests[row])

    handles = []
    try:
        for row, request in enumerate(requests):
            for layer in set(request.taps) & set(layers):
                block = request.model.block(layer)
                hook = partial(keep, row, layer)
                handles.append(block.self_attn.q_proj.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Along the first dimension; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
