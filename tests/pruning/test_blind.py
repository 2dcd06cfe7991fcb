"""No visual token: the policy is the one whose sequence never had any, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rows import call_row, episode_row
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.base import PolicyCall
from vlaprune_bench.policies.call_data import Prefix
from vlaprune_bench.policies.transformer.requests import alone
from vlaprune_bench.pruning.blind import Blind
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.store import Store, load_calls
from vlaprune_bench.testing import CHECKPOINTS
from vlaprune_bench.video import dim_pruned


@pytest.fixture(params=CHECKPOINTS)
def policy(request):
    return load_policy(request.param, Blind(), suite="libero_spatial", device="cpu")


@torch.inference_mode()
def test_it_is_the_policy_on_a_sequence_without_an_image(policy):
    memory, timer = policy.start(INSTRUCTION, seed=0), StageTimer(policy.device)
    inputs = policy._inputs(memory, observation(0))
    blind = policy.forward(memory, memory.pruner, inputs, poses(0), timer)

    layout, whole = blind.prefix.layout, blind.prefix.sequence_BLD
    gone = layout.visual
    assert gone.stop - gone.start == layout.n_visual > 0
    bare = replace(layout, grids=(), n_prefix=max(0, layout.n_prefix - layout.n_visual))
    sequence_BLD = torch.cat([whole[:, : gone.start], whole[:, gone.stop :]], dim=1)
    prefix = Prefix(bare, sequence_BLD, blind.prefix.patches_VD[:0], blind.prefix.prompt_TD)
    decoder = policy._decoder(prefix)
    prefill = decoder.prefill(lambda layer: None)
    prediction = alone(policy._predict(decoder, prefill, inputs, timer))

    assert torch.equal(blind.prefill.hidden_BND, prefill.hidden_BND)
    assert blind.prefill.tokens_per_layer == prefill.tokens_per_layer
    assert blind.prediction.expert_keys == prediction.expert_keys
    assert blind.prediction.macs == prediction.macs
    for name in ("prefill_macs", "decode_macs", "scoring_macs"):
        assert getattr(blind.decoder, name) == getattr(decoder, name)
    np.testing.assert_array_equal(blind.prediction.actions, prediction.actions)


def test_frames_change_nothing(policy):
    """Alone and together with a call that sees."""
    one, other = policy.start(INSTRUCTION, 0), policy.start(INSTRUCTION, 0)
    seeing = policy.start(INSTRUCTION, 0, NoPruning())
    frames = replace(observation(0), images=observation(0).images[:, ::-1].copy())
    a = policy.act(one, observation(0), poses(0))
    b = policy.act(other, frames, poses(0))
    np.testing.assert_array_equal(a.actions, b.actions)
    m = a.measures
    assert (m.pruned, m.kept_visual, m.visual_tokens_kept) == (True, [], 0)
    assert m.kept_per_camera == [0] * len(policy.info.grids)
    calls = [PolicyCall(memory, frames, poses(1)) for memory in (one, other, seeing)]
    a, b, c = policy.act_many(calls)
    np.testing.assert_array_equal(a.actions, b.actions)
    assert a.measures.visual_tokens_kept == 0 < c.measures.visual_tokens_kept
    assert not np.array_equal(a.actions, c.actions)


def test_a_gate_may_open_its_eyes():
    policy = load_policy("tiny-untrained", Gated(Blind()), suite="libero_spatial", device="cpu")
    memory = policy.start(INSTRUCTION, 0)
    kept = [policy.act(memory, observation(i), poses(i)).measures for i in range(3)]
    assert [m.visual_tokens_kept for m in kept] == [0 if m.pruned else 512 for m in kept]
    assert not kept[0].pruned


def test_none_kept_is_written_as_none_kept(tmp_path):
    """An empty list is not null, which stands for all."""
    store = Store(tmp_path)
    store.append(episode_row(), [call_row(kept_visual=[], visual_tokens_kept=0)])
    store.compact()
    (kept,) = load_calls(tmp_path).kept_visual
    assert kept is not None
    assert len(kept) == 0
    images = np.full((1, 64, 64, 3), 200, np.uint8)
    assert (dim_pruned(images, [], ((4, 4),), crop_area=1.0) < 200).all()
