"""What a pruning method is, and what it may look at.

A method is a frozen dataclass: its fields are its options, on the command line and in YAML alike.
Adding one is adding one file to this folder (or passing `--plugin FILE`):

    @Pruner.register_subclass("my-method")
    @dataclass(frozen=True)
    class MyMethod(ScoredPruner):
        '''One line for --help.'''

        def score(self, context, memory):
            return context.patches.norm(dim=-1)  # (V,): the larger, the likelier it stays
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import draccus
import numpy as np

from vlaprune_bench.pruning.select import split_quotas, top_k_per_camera
from vlaprune_bench.types import TokenLayout, UserError

if TYPE_CHECKING:
    from torch import Tensor


class Decoder(Protocol):
    """The language model as a method sees it; every product it computes is charged to the call."""

    n_layers: int

    def probe(self, depth: int) -> Tensor:
        """Hidden states of the unpruned probe sequence after `depth` layers (0: embeddings).

        Only `depth` layers run. The sequence has BOS, patches, the rest of the prompt,
        placeholders and stop; for `depth` > 0 it has no proprio token (as in ADP's reference).

        Returns:
            (V + T, width): the V visual tokens first, then the T text tokens (BOS, the rest of
            the prompt, stop), placeholders and proprio left out.
        """
        ...

    def mean_query_key(self, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Mean over heads and over query rows of q k^T / sqrt(head_dim): no RoPE, no softmax.

        Both inputs pass `layer`'s input norm first, then its q_proj or k_proj.

        Args:
            layer: decoder layer, 0 <= layer < n_layers.
            queries: (T, width) hidden states.
            keys: (V, width) hidden states.

        Returns:
            (V,) float32.
        """
        ...

    def attention(self, layer: int, rows: Tensor) -> Tensor:
        """Attention probabilities from `rows` to the visual tokens at a tapped layer.

        Only these rows are computed, from the queries and keys the layer made anyway; the layer's
        own attention stays the fused kernel. The softmax runs over every token the row sees.

        Args:
            layer: one of the method's `tapped_layers`, already run in this call.
            rows: (R,) int64 positions in the full sequence (`layout`); position layout.length + i
                is the i-th generated token (autoregressive policies, after the call).

        Returns:
            (R, V) float32, mean over heads; 0 for visual tokens that had left before `layer`.
        """
        ...

    def charge(self, macs: int) -> None:
        """Add multiply-adds a method did itself to the call's scoring cost."""
        ...


@dataclass(frozen=True)
class Selection:
    """What stays, where indices alone do not say it."""

    index: Tensor
    """(k,) int64 indices into the V visual tokens, ascending."""
    values: Tensor | None = None
    """(k, width) new states of the tokens at `index`, for methods that merge tokens."""
    reuse: bool = False
    """Tokens not in `index` only leave the query side: from this layer on their keys and values are
    those of the previous call (VLA-Cache). Not possible in an episode's first call."""


@dataclass
class PruneContext:
    """What a method sees at one decision."""

    layout: TokenLayout
    layer: int
    """Decoder layer about to run; 0 is before the language model."""
    call: int
    """Index of the policy call within the episode, from 0."""
    seed: int
    """Seed of this call: a function of episode and call alone."""
    eef_poses: np.ndarray
    """(steps + 1, 7) end-effector poses observed over the window just executed: position in
    metres, then quaternion xyzw; the window's first and last pose included. (1, 7) at call 0."""
    patches: Tensor
    """(V, width) projected patch embeddings."""
    prompt: Tensor
    """(T, width) input embeddings of the prompt, BOS and the trailing empty token included."""
    frames: Tensor
    """(cameras, 3, size, size) float32, 0 to 255: the frames the vision towers see."""
    causal: bool
    """Whether a token sees only those before it (OpenVLA) or all (OpenVLA-OFT)."""
    decoder: Decoder
    alive: Tensor | None = None
    """(k,) int64 ascending indices of the visual tokens still there; None: all."""


@dataclass(frozen=True)
class Pruner(draccus.ChoiceRegistry):
    """Base of every method. The object holds options only; an episode's memory is apart."""

    @property
    def name(self) -> str:
        return self.get_choice_name(type(self))

    @property
    def keep_ratio(self) -> float | None:
        """Fraction of visual tokens that stay in a pruned call; None: no such option."""
        return None

    def without_unread(self) -> Pruner:
        """The method with options at their defaults that nothing reads because of what others say:
        it does the same. A sweep runs cells once that are equal by this."""
        inner = {f.name: getattr(self, f.name) for f in fields(self)}
        changes = {k: v.without_unread() for k, v in inner.items() if isinstance(v, Pruner)}
        return replace(self, **changes)

    def start(self) -> Any:
        """Fresh memory for one episode: many episodes may share one pruner."""
        return None

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers before which `select` is asked, ascending; 0 is before the model."""
        return (0,)

    @property
    def renumber_positions(self) -> bool:
        """Whether tokens that stay get contiguous position ids (else they keep their own)."""
        return False

    def check(self, n_layers: int) -> None:
        """Raise UserError where an option does not fit a model of `n_layers` decoder layers."""

    def fit(self, n_layers: int) -> Pruner:
        """The method as a model of `n_layers` decoder layers runs it: layers left to the method
        are filled in. A policy checks a method, then runs what this returns."""
        return self

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        """Decoder layers whose attention the method asks for (`Decoder.attention`)."""
        return ()

    @property
    def keeps_cache(self) -> bool:
        """Whether the next call of the episode may reuse this one's keys and values
        (`Selection.reuse`): the policy then keeps those of every layer until it has run."""
        return False

    def select(self, context: PruneContext, memory: Any) -> Tensor | Selection | None:
        """Visual tokens to keep, asked before each of `layers`.

        Returns:
            Sorted int64 indices into the V visual tokens, a subset of those still there; or a
            Selection; or None to keep what there is.
        """
        raise NotImplementedError

    def finish(self, context: PruneContext, memory: Any) -> None:
        """Called once a call's actions are known, to remember attention for the next call.

        `context.layer` is the number of decoder layers. It is part of the timed call.
        """


@dataclass(frozen=True)
class BudgetPruner(Pruner):
    """A method that keeps a share of the visual tokens, split over the cameras."""

    keep: float = 0.5
    """Fraction of visual tokens kept, 0 < keep <= 1."""
    camera_split: tuple[float, ...] = field(default=())
    """Share of the kept tokens for each camera, e.g. 0.4 0.6; empty: in equal parts."""

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise UserError(f"--keep is {self.keep:g}; it must be above 0 and at most 1.")
        if self.camera_split and (min(self.camera_split) < 0 or sum(self.camera_split) <= 0):
            raise UserError(
                f"--camera-split is {' '.join(map(str, self.camera_split))}; "
                "the shares must not be negative and must not all be 0."
            )

    @property
    def keep_ratio(self) -> float | None:
        return self.keep

    def budget(self, n_visual: int) -> int:
        """How many of `n_visual` tokens stay; at least one."""
        return max(1, round(self.keep * n_visual))

    def choose(self, context: PruneContext, memory: Any, quotas: Sequence[int]) -> Tensor:
        """Ascending indices of the tokens to keep, `quotas[c]` of each camera's."""
        raise NotImplementedError

    def select(self, context: PruneContext, memory: Any) -> Tensor | Selection | None:
        layout = context.layout
        left = list(layout.visual_counts)
        if context.alive is not None:
            left = layout.per_camera(context.alive.tolist())
        k = min(self.budget(layout.n_visual), sum(left))
        quotas = split_quotas(k, left, self.camera_split)
        if k == sum(left):
            return None
        return self.choose(context, memory, quotas)


@dataclass(frozen=True)
class ScoredPruner(BudgetPruner):
    """A method that scores every visual token and keeps the best of each camera."""

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        """(V,) scores; the larger, the likelier the token stays."""
        raise NotImplementedError

    def at(self, layer: int) -> ScoredPruner:
        """This method asked before decoder layer `layer`, which methods whose score depends on the
        layer must say."""
        return self

    def choose(self, context: PruneContext, memory: Any, quotas: Sequence[int]) -> Tensor:
        import torch

        scores = self.score(context, memory)
        if context.alive is not None:
            alive = context.alive.to(scores.device)
            gone = scores.new_ones(scores.shape, dtype=torch.bool).index_fill(0, alive, False)
            scores = scores.float().masked_fill(gone, -inf)
        return top_k_per_camera(scores, context.layout.visual_counts, quotas)
