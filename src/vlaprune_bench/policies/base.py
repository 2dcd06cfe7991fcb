"""What the episode loop knows of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vlaprune_bench.types import NO_OPTIONS, ActionChunk, Observation, TokenLayout

if TYPE_CHECKING:
    from torch import Tensor

    from vlaprune_bench.policies.transformer.cache import LayerCache
    from vlaprune_bench.pruning.base import Pruner


@dataclass(frozen=True)
class ServedMethod:
    """What a policy server prunes with, by its own word."""

    name: str
    """Of the method; unknown: it does not say."""
    options: str
    """All of them, JSON."""
    keep: float | None


@dataclass(frozen=True)
class PolicyInfo:
    """Facts about a loaded policy that rows and reports carry."""

    policy: str
    """A name of `POLICIES`."""
    name: str
    """Checkpoint name, folder or hub id, and the options where there are any."""
    checkpoint_hash: str
    trained: bool
    """False: an untrained checkpoint; success means nothing."""
    assets: str
    """Asset set it was made for: real or lite."""
    device: str
    """Device of the model, with its name."""
    dtype: str
    attention: str
    n_layers: int
    """Decoder layers."""
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of visual tokens, one entry a camera."""
    chunk: int
    """Actions per call."""
    unnorm_key: str
    """Dataset whose statistics scale proprio and actions."""
    action_steps: int = 0
    """Actions of a chunk that the checkpoint says to execute; 0: it does not say."""
    options: str = NO_OPTIONS
    """Options of the policy's own that are not what its checkpoint says by itself, JSON."""
    notes: tuple[str, ...] = ()
    """What the reader of a row must know."""
    served: ServedMethod | None = None
    """The method, of a policy that runs elsewhere; None: the episode's own."""


@dataclass
class Memory:
    """What a policy remembers of one episode."""

    prompt_T: Tensor
    """(T,) int64 prompt tokens, BOS and the trailing token included, on the model's device."""
    layout: TokenLayout
    """Of the first call, and of every call where the prompt does not follow the state."""
    seed: int
    """Of the episode; the seed of a call follows from it and the call's index alone."""
    method: Pruner
    """The pruning method of this episode, as the model runs it."""
    pruner: Any
    """The method's own memory."""
    call: int = 0
    """Calls made so far."""
    cache: LayerCache | None = None
    """Keys and values of the previous call's prefill, where the method asks for them."""

    def call_seed(self) -> int:
        """Seed of the call about to be made."""
        return int(np.random.SeedSequence([self.seed, self.call]).generate_state(1)[0])


@dataclass(frozen=True)
class PolicyCall:
    """One call of one episode; see `Policy.act`."""

    memory: Memory
    observation: Observation
    eef_poses: np.ndarray


class Policy(Protocol):
    """A loaded model with its pruning method. Holds nothing of an episode: see `Memory`."""

    info: PolicyInfo

    def start(
        self,
        instruction: str,
        seed: int,
        pruner: Pruner | None = None,
        noise_seed: int | None = None,
    ) -> Memory:
        """Begin an episode.

        Args:
            instruction: what the robot is to do.
            seed: of what its method draws.
            pruner: its method; None: the one the policy was loaded with.
            noise_seed: of what the policy itself draws (flow matching); None: `seed`.
        """
        ...

    def end(self, memory: Memory) -> None:
        """End an episode, whatever became of it; nobody asks for its calls any more."""
        ...

    def act(self, memory: Memory, observation: Observation, eef_poses: np.ndarray) -> ActionChunk:
        """One policy call.

        Args:
            memory: of this episode; updated.
            observation: the latest one, with images.
            eef_poses: (steps + 1, 7) poses observed over the window just executed, its first and
                last included, held steps left out; (1, 7) at the first call. Metres, then
                quaternion xyzw.

        Returns:
            (chunk, 7) actions ready for the environment, and what the call cost.

        Raises:
            RuntimeError: the model gave NaN or infinity; the message names the call.
        """
        ...

    def act_many(self, calls: Sequence[PolicyCall]) -> list[ActionChunk | Exception]:
        """Calls of several episodes at once, computed together as far as their lengths allow.

        Each is what `act` would make of it, up to the rounding of sums; its method may be another
        than the other calls'. Its latency is that of all of them, by what they waited for.

        Args:
            calls: of different episodes.

        Returns:
            In the order of `calls`: what `act` returns, or what it would raise, which leaves the
            other calls as they are.

        Raises:
            ValueError: two calls are of one episode.
            Exception: whatever a computation for several calls raises, such as a full GPU.
        """
        ...


class SwappablePolicy(Policy, Protocol):
    """A policy whose episodes may have different methods."""

    def resolve(self, pruner: Pruner) -> Pruner:
        """A method as this model runs it.

        Raises:
            UserError: it does not fit the model.
        """
        ...
