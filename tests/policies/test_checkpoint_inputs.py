"""OpenVLA-OFT of one camera, or without proprio, as its training script makes them by default."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.policies.checkpoint_edits import edit_json
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.policies import load_policy
from vlaprune_bench.rollout.identity import Facts, identity, specs
from vlaprune_bench.types import UserError

HEAD, PROJECTOR = "action_head--150000_checkpoint.pt", "proprio_projector--150000_checkpoint.pt"


@pytest.fixture
def folder(golden_checkpoint, tmp_path):
    return shutil.copytree(golden_checkpoint, tmp_path / "ckpt")


@pytest.fixture
def load(folder, keep):
    def load(**options):
        return load_policy(str(folder), keep(), suite="libero_spatial", device="cpu", **options)

    return load


@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("proprio", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_actions_are_those_of_a_call_made_by_hand(
    folder, load, golden_checkpoint, run_golden, cameras, proprio, head
):
    if not proprio:
        (folder / PROJECTOR).unlink()
    if not head:
        (folder / HEAD).unlink()
    policy = load(cameras=cameras, policy="openvla-oft")
    golden = load_file(golden_checkpoint.parent / "oft_forward.safetensors")
    golden["0.pixel_values_28"] = golden["0.pixel_values_28"][:, : 6 * cameras]
    if not proprio:
        del golden["0.proprio_normalized"]
    ids = golden["0.input_ids"][0].tolist()
    memory = policy.start_with_tokens(ids, seed=0)
    assert len(memory.layout.grids) == cameras
    assert memory.layout.has_proprio == proprio
    found = run_golden(policy, golden, 0, memory)

    # by hand: the tokens that there are, in the order of the paper, through every layer
    model = policy.prismatic.language_model
    pixels = golden["0.pixel_values_28"].float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.inference_mode():
        patches = policy.prismatic.patches(pixels)[0]
        assert len(patches) == 256 * cameras
        prompt = model.embed(memory.prompt_T)
        stop = model.embed(torch.tensor([policy.checkpoint.config["text_config"]["eos_token_id"]]))
        state = []
        if proprio:
            state = [policy.proprio_projector(golden["0.proprio_normalized"].float())]
        parts = [prompt[:1], patches, *state, prompt[1:], torch.zeros(56, model.width), stop]
        hidden = torch.cat(parts)[None]
        hidden = model.run_layers(hidden, torch.arange(hidden.shape[1]), range(model.n_layers))
        first = len(patches) + proprio + len(prompt) - 1
        states = model.model.norm(hidden)[:, first : first + 56]
        if head:
            expected = policy.head(states)[0].double().numpy()
        else:
            logits, tokens = model.lm_head(states[0]).max(-1)
            expected = policy.head.actions(tokens, logits).reshape(8, 7)
    np.testing.assert_allclose(found.prediction.actions, expected, atol=1e-5)


def test_one_camera_is_the_first_one(load, observe):
    policy = load(cameras=1)
    seen, other = observe(0), observe(1)

    def act(first, second):
        images = np.stack([first.images[0], second.images[1]])
        memory = policy.start_with_tokens([1, 5, 6], seed=0)
        return policy.act(memory, replace(seen, images=images), np.zeros((1, 7))).actions

    np.testing.assert_array_equal(act(seen, seen), act(seen, other))
    assert not np.array_equal(act(seen, seen), act(other, seen))


def test_without_a_projector_the_state_does_not_matter_and_the_row_says_so(folder, load, observe):
    assert not load().info.notes
    (folder / PROJECTOR).unlink()
    policy = load()
    assert "no proprio_projector" in policy.info.notes[0]

    def act(height):
        memory = policy.start_with_tokens([1, 5, 6], seed=0)
        return policy.act(memory, observe(0, height), np.zeros((1, 7))).actions

    np.testing.assert_array_equal(act(1.0), act(1.2))


def test_how_many_cameras_there_may_be(folder, load):
    assert len(load().info.grids) == 2
    assert load(cameras=2).info.options == load().info.options == "{}"
    one = load(cameras=1).info
    assert one.options == '{"cameras": 1}'
    assert one.name == f"{folder} (cameras 1)"
    with pytest.raises(UserError, match="--cameras is 2; openvla on LIBERO takes 1"):
        load(cameras=2, policy="openvla")
    with pytest.raises(UserError, match="--cameras is 3; LIBERO has 2"):
        EvalConfig.of(cameras=3)
    edit_json(folder / "config.json", lambda config: config.update(num_images_in_input=1))
    assert len(load().info.grids) == 1
    with pytest.raises(UserError, match="--cameras is 2; num_images_in_input"):
        load(cameras=2)


def test_an_episode_with_other_inputs_is_another_episode():
    config = EvalConfig()
    facts = Facts("openvla-oft", "hash", "assets", "float32", chunk=8)
    usual = identity(config, specs(config)[0], facts)
    assert "policy_options" not in usual  # what ran before keeps its id
    other = identity(config, specs(config)[0], replace(facts, policy_options='{"cameras": 1}'))
    assert other == {**usual, "policy_options": '{"cameras": 1}'}
