"""OpenVLA and discrete OpenVLA-OFT agree with the reference implementations."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.call_data import Inputs


def golden_pixels(tensors, name):
    return tensors[name].float().repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@pytest.fixture
def openvla(golden):
    def load(pruner, **options):
        folder = golden / "ckpt-openvla-tiny"
        return load_policy(str(folder), pruner, suite="libero_spatial", **options)

    return load


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_openvla_matches_reference(golden, openvla, run_golden, keep, attention):
    tensors = load_file(golden / "openvla_forward.safetensors")
    policy = openvla(keep(), attention=attention)
    model = policy.prismatic.language_model
    states = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, _i, out: states.append(out[0, -1]))
    for n in range(4):
        states.clear()
        result = run_golden(policy, tensors, n)
        assert result.prediction.tokens_A.tolist() == tensors[f"{n}.tokens"].tolist()
        actions = policy.action_bounds.unnormalize(result.prediction.actions)
        np.testing.assert_allclose(actions[0], tensors[f"{n}.actions"].numpy(), rtol=0, atol=1e-12)
        last = result.prefill.hidden_BND[0, -1]
        prefill = torch.stack([*states[: model.n_layers - 1], last])
        hidden = tensors[f"{n}.layer_last_hidden"][1:]
        torch.testing.assert_close(prefill, hidden, rtol=0, atol=2e-5)
        for ours, name in (
            (result.prefix.patches_VD[None, ::16], "projected_patches_every16"),
            (model.lm_head(last), "last_logits"),
        ):
            torch.testing.assert_close(ours, tensors[f"{n}.{name}"], rtol=0, atol=2e-5)


def test_pruned_openvla_generates_the_references_tokens(golden, openvla, keep):
    """The reference's own choice of tokens, dropped before layer 3; positions stay."""
    tensors = load_file(golden / "vlapruner_episodes.safetensors")
    cases = json.loads((golden / "vlapruner_episodes.json").read_text())
    policy = openvla(keep())
    same = total = 0
    for case in cases[::5]:
        kept = tensors[f"{case['case']}.kept_visual"].tolist()
        policy.pruner = keep({3: kept if len(kept) < 256 else None})
        prefix = f"ep{case['episode']}"
        memory = policy.start_with_tokens(tensors[f"{prefix}.input_ids"][0].tolist(), 0)
        pixels = golden_pixels(tensors, f"{prefix}.pixel_values_28")[case["frame"]][None]
        inputs = Inputs(pixels[0], pixels)
        with torch.inference_mode():
            result = policy.forward(
                memory, memory.pruner, inputs, np.zeros((1, 7)), StageTimer(policy.device)
            )
        wanted = tensors[f"{case['case']}.tokens"].tolist()
        same += result.prediction.tokens_A.tolist() == wanted
        total += 1
    assert total > 20
    assert same == total


def test_discrete_oft_matches_reference(golden, run_golden, keep, tmp_path):
    tensors = load_file(golden / "oft_forward.safetensors")
    folder = shutil.copytree(golden / "ckpt-oft-tiny", tmp_path / "ckpt")
    for path in folder.glob("*.pt"):
        path.unlink()
    policy = load_policy(str(folder), keep(), suite="libero_spatial", policy="openvla-oft")
    for n in range(4):
        result = run_golden(policy, tensors, n)
        actions = policy.action_bounds.unnormalize(result.prediction.actions)
        expected = tensors[f"{n}.actions_discrete_no_proprio"].numpy()
        np.testing.assert_allclose(actions, expected, rtol=0, atol=2e-5)
