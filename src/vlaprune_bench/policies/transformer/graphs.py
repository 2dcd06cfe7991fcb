"""CUDA graphs of what the networks compute: recorded once for each shape, then replayed.

A request of `batch` is a function of tensors whose shapes a method fixes with its keep ratio. What
stands between requests (scores, selection, the gate) is not recorded and may look at results as it
likes. So a replay launches a tower or a run of layers at once, whatever the method does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vlaprune_bench.policies.transformer.requests import Request, compute

Function: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
Record: TypeAlias = Callable[[Function, list[Tensor]], tuple[Callable[[], Any], list[Tensor]]]
"""Given a function and its inputs: what repeats it on those tensors, and where its results lie."""


@dataclass
class Graph:
    """A recorded function; its tensors belong to it and are overwritten by the next replay."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    replay: Callable[[], Any]


class Graphs:
    """Answers the requests of one call at a time, as `Request.run` does, by replaying.

    What it answers is overwritten when a request of the same shape comes again, in a later call:
    nothing of it may be remembered across calls (`Pruner.keeps_cache`).
    """

    def __init__(self, record: Record | None = None) -> None:
        """`record`: how to record and replay; by default as a CUDA graph."""
        self._record = record or record_cuda
        self._graphs: dict[Any, Graph] = {}

    def __len__(self) -> int:
        """Graphs recorded so far."""
        return len(self._graphs)

    def run(self, requests: Sequence[Request]) -> list[Tensor | Request]:
        """Compute one request; its first time it is recorded."""
        pure = requests[0].pure() if len(requests) == 1 else None
        if pure is None:
            return compute(requests)
        key = (*pure.key, *((tuple(x.shape), x.dtype) for x in pure.inputs))
        if key not in self._graphs:
            inputs = [x.clone() for x in pure.inputs]
            replay, outputs = self._record(pure.function, inputs)
            self._graphs[key] = Graph(inputs, outputs, replay)
        graph = self._graphs[key]
        for held, given in zip(graph.inputs, pure.inputs, strict=True):
            held.copy_(given)
        graph.replay()
        return [pure.give(graph.outputs)]


def record_cuda(function: Function, inputs: list[Tensor]) -> tuple[Callable[[], Any], list[Tensor]]:
    """As a CUDA graph with a memory pool of its own."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose kernels and allocate work space
        for _ in range(2):
            function(inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(inputs)
    return graph.replay, outputs
