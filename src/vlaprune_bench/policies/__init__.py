"""Policies: the models under test. `load_policy` is the way in.

Adding one is a folder here and a line in `POLICIES`: see docs/adding-a-policy.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlaprune_bench.types import OPENVLA_PROTOCOL, EvalProtocol, UserError

if TYPE_CHECKING:
    from vlaprune_bench.policies.base import SwappablePolicy
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.pruning.base import Pruner

HERE = "vlaprune_bench.policies"
POLICIES = {
    "openvla": f"{HERE}.prismatic.openvla:OpenVLA",
    "openvla-oft": f"{HERE}.prismatic.openvla_oft:OpenVLAOFT",
    "pi0": f"{HERE}.flow.pi0:Pi0",
    "pi05": f"{HERE}.flow.pi05:Pi05",
    "smolvla": f"{HERE}.flow.smolvla:SmolVLA",
    "remote": f"{HERE}.remote.policy:RemotePolicy",
}
"""Every policy by name: where its class is. No torch is needed to read this."""
REMOTE = "remote"
"""The one that runs elsewhere."""
SHAPES = {
    "openvla-7b": f"{HERE}.random_checkpoint:OPENVLA_7B",
    "openvla-oft-7b": f"{HERE}.random_checkpoint:OPENVLA_OFT_7B",
    "pi0": f"{HERE}.flow.shapes:PI0",
    "pi05": f"{HERE}.flow.shapes:PI05",
    "smolvla": f"{HERE}.flow.shapes:SMOLVLA",
}
"""Real architectures with random weights, by name: where each stands."""


def own_policies() -> tuple[str, ...]:
    """Names of those that run here, of a checkpoint."""
    return tuple(name for name in POLICIES if name != REMOTE)


def policy_names() -> str:
    """Every policy of a checkpoint, as a sentence lists them."""
    *first, last = own_policies()
    return f"{', '.join(first)} or {last}"


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
    options: Sequence[str] = (),
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
        policy: a name of `POLICIES`, or "auto": what the checkpoint's files say. No file tells
            OpenVLA-OFT without an action head (discrete tokens, decoded in parallel) from OpenVLA:
            say "openvla-oft" for it.
        cameras: how many an OpenVLA-OFT was trained with, which no file tells; None: two, as every
            published LIBERO checkpoint.
        unnorm_key: key of the normalisation statistics; None: the suite's.
        options: of the policy's own, each "key=value".

    Raises:
        UserError: the checkpoint cannot be read, or an option does not fit it.
    """
    from vlaprune_bench.policies.checkpoint import Checkpoint

    found = Checkpoint.find(checkpoint, suite) if isinstance(checkpoint, str) else checkpoint
    cls = _policy_class(found, policy)
    return cls(
        found,
        pruner,
        suite=suite,
        device=device,
        dtype=dtype,
        attention=attention,
        protocol=protocol,
        count_every=count_every,
        **cls.read_options(options, cameras, unnorm_key),
    )


def named_object(path: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _policy_class(checkpoint: Checkpoint, policy: str) -> Any:
    """The policy of that name; "auto" looks at the checkpoint's files."""
    if policy not in ("auto", *own_policies()):
        raise UserError(f"--policy is {policy}; it must be auto, {policy_names()}.")
    if policy != "auto":
        return named_object(POLICIES[policy])
    for name in own_policies():
        cls = named_object(POLICIES[name])
        if cls.reads(checkpoint):
            return cls
    raise UserError(
        f"checkpoint {checkpoint.source}: type in config.json is "
        f"{checkpoint.config.get('type')}; supported are {policy_names()}."
    )
