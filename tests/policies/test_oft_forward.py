"""The forward pass agrees with the reference implementation of OpenVLA-OFT."""

import numpy as np
import pytest
import torch

from vlaprune_bench.policies import load_policy


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_matches_reference(golden, forward_tensors, run_golden, keep, attention):
    policy = load_policy(
        str(golden / "ckpt-oft-tiny"), keep(), suite="libero_spatial", attention=attention
    )
    for n in range(4):
        result = run_golden(policy, forward_tensors, n)
        patches = result.prefix.patches_VD[None, ::16]
        actions = policy.action_bounds.unnormalize(result.prediction.actions)
        for ours, name in (
            (patches, "projected_patches_every16"),
            (result.prediction.hidden_BAD, "action_hidden"),
        ):
            torch.testing.assert_close(ours, forward_tensors[f"{n}.{name}"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(
            actions, forward_tensors[f"{n}.actions"].numpy(), rtol=0, atol=2e-5
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_stays_close(golden, forward_tensors, run_golden, keep, dtype, tolerance):
    policy = load_policy(str(golden / "ckpt-oft-tiny"), keep(), suite="libero_spatial", dtype=dtype)
    assert {p.dtype for p in policy.prismatic.parameters()} == {getattr(torch, dtype)}
    assert policy.info.dtype == dtype
    result = run_golden(policy, forward_tensors, 0)
    expected = forward_tensors["0.action_hidden"]
    relative = (result.prediction.hidden_BAD.float() - expected).norm() / expected.norm()
    assert relative < tolerance
