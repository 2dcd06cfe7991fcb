"""The policy that is served."""

from __future__ import annotations

from vlaprune_bench.measure.machine import model_threads
from vlaprune_bench.policies.base import SwappablePolicy
from vlaprune_bench.serve.config import ServeConfig


def load(config: ServeConfig) -> SwappablePolicy:
    """Load the policy, its threads set.

    Raises:
        UserError: it cannot be loaded, or the method does not fit it.
    """
    import torch

    from vlaprune_bench.policies import load_policy
    from vlaprune_bench.policies.checkpoint import Checkpoint

    checkpoint = Checkpoint.find(config.checkpoint, config.suite)
    checkpoint.check_for(config.suite, config.unnorm_key)
    threads = model_threads(config.threads, checkpoint.weight_bytes, workers=0)
    if threads is not None:
        torch.set_num_threads(threads)
    return load_policy(
        checkpoint,
        config.pruner,
        suite=config.suite,
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        protocol=config.evaluation,
        policy=config.policy,
        cameras=config.cameras,
        unnorm_key=config.unnorm_key,
        options=config.policy_options,
    )
