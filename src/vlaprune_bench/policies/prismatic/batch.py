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
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from vlaprune_bench.policies.prismatic.cache import LayerCache, cache_of
from vlaprune_bench.policies.prismatic.llama import LanguageModel
from vlaprune_bench.policies.prismatic.model import Prismatic

T = TypeVar("T")


class Request(ABC):
    """Something the networks compute for a call."""

    stage: str
    """Of `StageTimer`."""
    order: tuple[int, int]
    """The smallest of several is answered first, so that those behind catch up."""
    shape: tuple[Any, ...]
    """Requests of one class and one shape can be computed together."""

    @classmethod
    @abstractmethod
    def run(cls, requests: Sequence[Any]) -> list[Tensor | Request]:
        """Compute some of one shape; for each its answer, or what is left of it."""


Work: TypeAlias = Generator[Request, Any, T]
"""A call, or a part of one, that ends in a T; is sent the Tensor that answers its request."""


@dataclass
class Patches(Request):
    """Projected patch embeddings, (1, V, width)."""

    model: Prismatic
    pixels_1CHW: Tensor

    def __post_init__(self) -> None:
        self.stage, self.order, self.shape = "vision", (-1, 0), ()

    @classmethod
    def run(cls, requests: Sequence[Patches]) -> list[Tensor | Request]:
        patches_BVD = requests[0].model.patches(_joined([r.pixels_1CHW for r in requests]))
        return list(patches_BVD.split(1))


@dataclass
class Tap:
    """Queries of one tapped layer, before RoPE."""

    queries_NH: list[Tensor]
    query_N: list[Tensor]
    rope_N: list[Tensor]
    key_K: Tensor
    """Positions of the prefill's keys at this layer."""


@dataclass
class Layers(Request):
    """Successive decoder layers; the answer is the states after them."""

    model: LanguageModel
    hidden_1ND: Tensor
    layers: range
    query_N: Tensor
    """Positions, in the full sequence, of the tokens computed."""
    rope_N: Tensor
    """Their RoPE positions."""
    n_keys: int
    """Tokens whose keys each layer sees, those of `cache` included."""
    visible_NK: Tensor | None
    """See `LanguageModel.run_layers`."""
    cache: LayerCache
    taps: dict[int, Tap]
    """By layer; are told the queries."""
    step: int = 0
    """0: prefill; then the decode steps, from 1."""

    def __post_init__(self) -> None:
        self.stage = "decode" if self.step else "prefill"
        self.order = (self.step, self.layers.start)
        plain = self.visible_NK is None
        self.shape = (self.layers.start, len(self.query_N), self.n_keys, plain)

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


def alone(work: Work[T]) -> T:
    """Run one call, or a part of one, by itself."""
    reply = None
    while True:
        try:
            request = work.send(reply)
        except StopIteration as done:
            return done.value
        (reply,) = request.run([request])


def together(
    works: Sequence[Work[T]], enter: Callable[[str], None]
) -> tuple[list[T | Exception], int]:
    """Run several calls side by side.

    Args:
        works: the calls.
        enter: told the stage of what comes next, see `StageTimer.enter`.

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
        for index, reply in zip(group, first.run(list(group.values())), strict=True):
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
        request = requests[row]
        tap = request.taps[layer]
        tap.queries_NH.append(output_BNH[row])
        tap.query_N.append(request.query_N)
        tap.rope_N.append(request.rope_N)

    handles = []
    try:
        for row, request in enumerate(requests):
            for layer in set(request.taps) & set(layers):
                block: Any = request.model.model.layers[layer]
                hook = partial(keep, row, layer)
                handles.append(block.self_attn.q_proj.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Along the first dimension; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
