"""The model's side of a method: the shape it must fit, and what it may ask during a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED_DEPTH = 32
"""Decoder layers of the 7B models that papers name layers of."""
PUBLISHED_PATCHES = 256
"""Patches of a camera, 16 x 16, that papers count."""


@dataclass(frozen=True)
class ModelShape:
    """Depth and patch grids of a model; published layers and counts scaled to them."""

    n_layers: int
    """Decoder layers."""
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of visual tokens, one entry a camera."""
    action_layers: tuple[int, ...] | None = None
    """Decoder layers that action tokens attend at; None: all."""
    shows_features: bool = False
    """Whether outputs of the vision towers can be changed before they are projected."""

    @property
    def patches(self) -> int:
        """Visual tokens of a camera, of the one with the fewest."""
        return min(rows * columns for rows, columns in self.grids)

    def scale_layers(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Layers at the same relative depth, rounded up, each once; of 32 layers the same."""
        last = self.n_layers - 1
        scaled = {min(-(-k * self.n_layers // PUBLISHED_DEPTH), last) for k in layers}
        return tuple(sorted(scaled))

    def scale_count(self, count: int) -> int:
        """The same share of a camera's patches, at least one; of 16 x 16 patches the same."""
        return max(1, round(count * self.patches / PUBLISHED_PATCHES)) if count else 0


class Decoder(Protocol):
    """The language model during one call; every product it computes is charged to that call."""

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

    def attentions(self, layers: Sequence[int], rows: Tensor) -> Tensor:
        """`attention` at several layers: (layers, R, V), for less than one by one on a GPU."""
        ...

    def rows(self, layer: int) -> Tensor:
        """Positions of the prefill's tokens that a layer computed, which has run in this call.

        Returns:
            (R,) int64 ascending positions in the full sequence.
        """
        ...

    def states(self, rows: Tensor) -> Tensor:
        """Hidden states before the layer about to run: to be asked in `select` alone.

        Args:
            rows: (R,) int64 positions in the full sequence of tokens that are still there.

        Returns:
            (R, width) in the model's precision; before layer 0 the input embeddings.
        """
        ...

    def charge(self, macs: int) -> None:
        """Add multiply-adds a method did itself to the call's scoring cost."""
        ...
