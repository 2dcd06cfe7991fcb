"""Policies: the models under test. `load_policy` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaprune_bench.types import OPENVLA_PROTOCOL, EvalProtocol, UserError

if TYPE_CHECKING:
    from vlaprune_bench.policies.base import SwappablePolicy
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.policies.openvla import OpenVLA
    from vlaprune_bench.policies.openvla_oft import OpenVLAOFT
    from vlaprune_bench.pruning.base import Pruner


def load_policy(
    checkpoint: str | Checkpoint,
    pruner: Pruner,
    *,
    suite: str,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    protocol: EvalProtocol = OPENVLA_PROTOCOL,
    count_every: int = 0,
    policy: str = "auto",
    cameras: int | None = None,
    unnorm_key: str | None = None,
) -> SwappablePolicy:
    """Load a checkpoint with a pruning method.

    Args:
        checkpoint: a folder in the published layout, a Hugging Face hub id, or an embedded one
            ("tiny", which is one a suite, "tiny-untrained", "tiny-openvla"); or a `Checkpoint`
            found already.
        pruner: the method, with its options.
        suite: LIBERO suite; chooses the normalisation statistics.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 on CUDA, else float32), "float32", "bfloat16" or "float16".
        attention: "sdpa" or "eager".
        protocol: how frames are prepared.
        count_every: repeat every so many calls under torch's FLOP counter, outside the timing;
            0: never.
        policy: "openvla", "openvla-oft" or "auto": OpenVLA-OFT where the checkpoint has an
            action_head file, else OpenVLA. No file tells OpenVLA-OFT without an action head
            (discrete tokens, decoded in parallel) from OpenVLA: say "openvla-oft" for it.
        cameras: how many an OpenVLA-OFT was trained with, which no file tells; None: two, as every
            published LIBERO checkpoint.
        unnorm_key: key of the normalisation statistics; None: the suite's.

    Raises:
        UserError: the checkpoint cannot be read, or an option does not fit it.
    """
    from vlaprune_bench.policies.checkpoint import Checkpoint

    found = Checkpoint.find(checkpoint, suite) if isinstance(checkpoint, str) else checkpoint
    return _policy_class(found, policy)(
        found,
        pruner,
        suite=suite,
        device=device,
        dtype=dtype,
        attention=attention,
        protocol=protocol,
        count_every=count_every,
        cameras=cameras,
        unnorm_key=unnorm_key,
    )


def _policy_class(checkpoint: Checkpoint, policy: str) -> type[OpenVLA] | type[OpenVLAOFT]:
    """The policy of that name; "auto" looks at the checkpoint's files."""
    from vlaprune_bench.policies.openvla import OpenVLA
    from vlaprune_bench.policies.openvla_oft import OpenVLAOFT

    classes: dict[str, type[OpenVLA] | type[OpenVLAOFT]] = {
        "openvla": OpenVLA,
        "openvla-oft": OpenVLAOFT,
    }
    if policy not in ("auto", *classes):
        raise UserError(f"--policy is {policy}; it must be auto, {' or '.join(classes)}.")
    if policy != "auto":
        return classes[policy]
    if checkpoint.has_part("action_head"):
        return OpenVLAOFT
    if checkpoint.has_part("proprio_projector"):
        raise UserError(
            f"checkpoint {checkpoint.source}: it has a proprio_projector but no "
            "action_head--*_checkpoint.pt; add that file, or say --policy openvla-oft if its "
            "actions are discrete tokens."
        )
    if checkpoint.has_oft_code:
        raise UserError(
            f"checkpoint {checkpoint.source}: its code or its lora_adapter folder is OpenVLA-OFT's "
            "and there is no action_head--*_checkpoint.pt; add that file, or say --policy "
            "openvla-oft if its actions are discrete tokens, or --policy openvla."
        )
    return OpenVLA
