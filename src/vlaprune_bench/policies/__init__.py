"""Policies: the models under test. `load_policy` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaprune_bench.types import OPENVLA_PROTOCOL, Protocol

if TYPE_CHECKING:
    from vlaprune_bench.policies.base import Policy
    from vlaprune_bench.pruning.base import Pruner


def load_policy(
    checkpoint: str,
    pruner: Pruner,
    *,
    suite: str,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    protocol: Protocol = OPENVLA_PROTOCOL,
    count_every: int = 0,
) -> Policy:
    """Load a checkpoint with a pruning method.

    Args:
        checkpoint: a folder in the published layout, a Hugging Face hub id, or "tiny" for the
            embedded untrained one.
        pruner: the method, with its options.
        suite: LIBERO suite; chooses the normalisation statistics.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 on CUDA, else float32), "float32", "bfloat16" or "float16".
        attention: "sdpa" or "eager".
        protocol: how frames are prepared.
        count_every: repeat every so many calls under torch's FLOP counter, outside the timing;
            0: never.

    Raises:
        UserError: the checkpoint cannot be read, or an option does not fit it.
    """
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.policies.openvla_oft import OpenVLAOFT

    return OpenVLAOFT(
        Checkpoint.find(checkpoint),
        pruner,
        suite=suite,
        device=device,
        dtype=dtype,
        attention=attention,
        protocol=protocol,
        count_every=count_every,
    )
