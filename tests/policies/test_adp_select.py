"""ADP's token selection agrees with the reference: scores, and the tokens kept."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vlaprune_bench.measure.flops import llm_prefill_macs
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.static import Static


def test_selection_matches_reference(golden, forward_tensors, run_golden):
    cases = json.loads((golden / "adp_select.json").read_text())
    expected = load_file(golden / "adp_select.safetensors")
    policy = load_policy(str(golden / "ckpt-oft-tiny"), Static(), suite="libero_spatial")
    same = total = 0
    for case in cases:
        policy.pruner = Static(
            keep=case["keep"],
            camera_split=tuple(case["split"] or ()),
            qk_layer=case["qk_layer"],
            reading="code",
        )
        result = run_golden(policy, forward_tensors, case["input"])
        kept = result.decoder.kept_V.tolist()
        wanted = expected[f"{case['case']}.kept"].tolist()
        assert len(kept) == len(wanted)
        assert result.prediction.hidden_BAD.shape[1] == 56
        same += len(set(kept) & set(wanted))
        total += len(wanted)
    assert len(cases) >= 64
    assert same / total >= 0.999


@pytest.mark.parametrize("layer", [0, 3, 8, 17])
def test_importance_matches_reference(golden, forward_tensors, keep, layer):
    cases = json.loads((golden / "adp_select.json").read_text())
    expected = load_file(golden / "adp_select.safetensors")
    policy = load_policy(str(golden / "ckpt-oft-tiny"), keep(), suite="libero_spatial")
    for case in cases:
        if (case["qk_layer"], case["keep"], case["split"]) != (layer, 0.5, None):
            continue
        n = case["input"]
        memory = policy.start_with_tokens(forward_tensors[f"{n}.input_ids"][0].tolist(), 0)
        pixels = forward_tensors[f"{n}.pixel_values_28"].float()
        pixels = pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        with torch.inference_mode():
            prompt = policy.prismatic.language_model.embed(memory.prompt_T)
            sequence = policy._sequence(prompt, policy.prismatic.patches(pixels)[0], torch.zeros(8))
            decoder = CallDecoder(policy.prismatic.language_model, sequence, memory.layout)
            states = decoder.probe(layer)
            scores = decoder.mean_query_key(layer, queries=states[512:], keys=states[:512])
        torch.testing.assert_close(
            scores, expected[f"{case['case']}.importance"], rtol=0, atol=2e-5
        )
        # proprio is no part of the probe; with no layer to run, only the score itself costs
        shape = policy.prismatic.language_model.shape
        probe = llm_prefill_macs([memory.layout.length - 1] * layer, shape)
        assert decoder.scoring_macs == probe + 32 * (32 + 32 + 512)
