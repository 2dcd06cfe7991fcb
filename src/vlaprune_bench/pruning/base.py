"""What a pruning method is, and what it may look at.

A method is a frozen dataclass: its fields are its options, on the command line and in YAML alike.
Adding one is adding one file to this folder (or passing `--plugin FILE`):

    @Pruner.register_subclass("my-method")
    @dataclass(frozen=True)
    class MyMethod(ScoredPruner):
        '''One line for --help.'''

        def score(self, context, memory):
            return context.patches.norm(dim=-1)  # (V,): the larger, the likelier it stays

A method whose choice is no score has `select` instead; one that remembers calls has `start` and
`finish` as well, and keeps nothing on itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Self

import draccus
import numpy as np

from vlaprune_bench.pruning.decoder import Decoder, ModelShape
from vlaprune_bench.pruning.options import check_options, option, resolve_options, wrong
from vlaprune_bench.pruning.select import split_quotas, top_k_per_camera
from vlaprune_bench.types import TokenLayout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The visual tokens that stay, and what becomes of them."""

    index: Tensor
    """(k,) int64 indices into the V visual tokens, ascending, a subset of those still there."""
    values: Tensor | None = None
    """(k, width) new states of the tokens at `index`, for methods that merge tokens."""
    reuse: bool = False
    """Tokens not in `index` only leave the query side: from this layer on their keys and values are
    those of the previous call (VLA-Cache). Not possible in an episode's first call."""

    @classmethod
    def where(cls, stays_V: Tensor, *, reuse: bool = False) -> Selection:
        """The tokens where a (V,) bool is True."""
        return cls(stays_V.nonzero()[:, 0], reuse=reuse)


@dataclass
class Vision:
    """A call's frames in the vision towers, before anything is projected."""

    layout: TokenLayout
    pixels: Sequence[Tensor]
    """(cameras, 3, size, size) of each tower, normalised as the tower takes them."""
    features: Sequence[Tensor]
    """(cameras, patches, width): what each tower made of them."""


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

    @property
    def n_alive(self) -> int:
        """Visual tokens still there."""
        return self.layout.n_visual if self.alive is None else len(self.alive)


@dataclass(frozen=True)
class Pruner(draccus.ChoiceRegistry):
    """Base of every method. The object holds options only; an episode's memory is apart."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def name(self) -> str:
        """Name of the method, as registered."""
        return self.get_choice_name(type(self))

    @property
    def keep_ratio(self) -> float | None:
        """Fraction of visual tokens that stay in a pruned call; None: no such option."""
        return None

    def canonical(self) -> Pruner:
        """The method with options at their defaults that nothing reads because of what others say:
        it does the same. A sweep runs cells once that are equal by this."""
        return self._changed({k: held.canonical() for k, held in held_methods(self).items()})

    def resolve(self, model: ModelShape) -> Self:
        """The method as a model runs it: what it leaves open, such as layers, is filled in.

        A policy asks this first, and the rest of what it returns.

        Raises:
            UserError: an option does not fit the model.
        """
        changes = dict(resolve_options(self, model))
        return self._changed(
            changes | {k: held.resolve(model) for k, held in held_methods(self).items()}
        )

    def _changed(self, changes: dict[str, Any]) -> Self:
        return replace(self, **changes) if changes else self

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers before which `select` is asked, ascending; 0 is before the model."""
        return (0,)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        """Decoder layers whose attention the method asks for (`Decoder.attention`)."""
        return ()

    @property
    def renumber_positions(self) -> bool:
        """Whether tokens that stay get contiguous position ids (else they keep their own)."""
        return False

    @property
    def keeps_cache(self) -> bool:
        """Whether the next call of the episode may reuse this one's keys and values
        (`Selection.reuse`): the policy then keeps those of every layer until it has run."""
        return False

    @property
    def fuses(self) -> bool:
        """Whether `fuse` is asked at every call; models that cannot are refused by `resolve`."""
        return False

    @property
    def reads_motion(self) -> bool:
        """Whether it looks at the hand's poses (`PruneContext.eef_poses`)."""
        return False

    def caveat(self, checkpoint: str) -> str | None:
        """What the reader of a row must know where the method runs on a checkpoint of that name."""
        return None

    def start(self) -> Any:
        """Fresh memory for one episode: many episodes may share one pruner."""
        return None

    def fuse(self, vision: Vision, memory: Any) -> tuple[Sequence[Tensor], int]:
        """Outputs of the vision towers as they are to be projected, asked before any `select`.

        Returns:
            New `vision.features`, which are left as they are (they may be overwritten after the
            call: what is remembered is a copy); and how many outputs, of each tower's patches, are
            an earlier call's.
        """
        raise NotImplementedError

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        """Visual tokens to keep, asked before each of `layers`; None: what there is."""
        raise NotImplementedError

    def finish(self, context: PruneContext, memory: Any) -> None:
        """Called once a call's actions are known, to remember attention for the next call.

        `context.layer` is the number of decoder layers. It is part of the timed call.
        """


def held_methods(pruner: Pruner) -> dict[str, Pruner]:
    """Methods among a method's options, by name."""
    values = {f.name: getattr(pruner, f.name) for f in fields(pruner)}
    return {name: value for name, value in values.items() if isinstance(value, Pruner)}


@dataclass(frozen=True)
class BudgetPruner(Pruner):
    """A method that keeps a share of the visual tokens, split over the cameras."""

    keep: float = option(0.5, above=0, at_most=1)
    """Fraction of visual tokens kept, 0 < keep <= 1."""
    camera_split: tuple[float, ...] = option((), at_least=0)
    """Share of the kept tokens for each camera, e.g. 0.4 0.6; empty: in equal parts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum(self.camera_split)
        if self.camera_split and not (total > 0 and isfinite(total)):
            said = "a share at least must be above 0, and none infinite"
            raise wrong("camera_split", self.camera_split, said)

    def resolve(self, model: ModelShape) -> Self:
        shares, cameras = len(self.camera_split), len(model.grids)
        if shares not in (0, cameras):
            said = f"that is {shares} shares, and this policy has {cameras} cameras"
            raise wrong("camera_split", self.camera_split, said)
        return super().resolve(model)

    @property
    def keep_ratio(self) -> float | None:
        return self.keep

    def budget(self, n_visual: int) -> int:
        """How many of `n_visual` tokens stay; at least one."""
        return max(1, round(self.keep * n_visual))

    def choose(self, context: PruneContext, memory: Any, quotas: Sequence[int]) -> Tensor:
        """Ascending indices of the tokens to keep, `quotas[c]` of each camera's."""
        raise NotImplementedError

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        layout, alive = context.layout, context.alive
        k = self.budget(layout.n_visual)
        if k >= context.n_alive:
            return None
        left = layout.visual_counts if alive is None else layout.per_camera(alive.tolist())
        return Selection(self.choose(context, memory, split_quotas(k, left, self.camera_split)))


@dataclass(frozen=True)
class ScoredPruner(BudgetPruner):
    """A method that scores every visual token and keeps the best of each camera."""

    def score(self, context: PruneContext, memory: Any) -> Tensor:
        """(V,) scores; the larger, the likelier the token stays."""
        raise NotImplementedError

    def at_layer(self, layer: int) -> ScoredPruner:
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
        return top_k_per_camera(scores, context.layout, quotas)
