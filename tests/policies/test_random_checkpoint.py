"""Named shapes: the published sizes, and random weights that run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlaprune_bench.measure.inputs import observation, poses
from vlaprune_bench.policies import SHAPES as NAMES
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import on_meta
from vlaprune_bench.policies.prismatic.heads import L1Head, ProprioProjector
from vlaprune_bench.policies.prismatic.model import Prismatic
from vlaprune_bench.policies.prismatic.vision import ViTConfig, tower_configs
from vlaprune_bench.policies.random_checkpoint import OPENVLA_7B, OPENVLA_OFT_7B
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.types import UserError

SHAPES = {"openvla-7b": OPENVLA_7B, "openvla-oft-7b": OPENVLA_OFT_7B}

PUBLISHED_7B = 7_541_237_184
SMALL = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
TOWER = {"depth": 3, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.0}


def small(name):
    return replace(SHAPES[name], text_config=SMALL, towers=TOWER)


def count(module):
    return sum(tensor.numel() for tensor in module.state_dict().values())


def block(c: ViTConfig) -> int:
    """Parameters of a block: norms, attention, MLP, layer scales."""
    w, m = c.embed_dim, c.mlp_dim
    return 4 * w + (4 * w * w + 4 * w) + (2 * w * m + m + w) + (2 * w if c.layer_scale else 0)


def test_openvla_7b_has_the_published_number_of_parameters():
    config = SHAPES["openvla-7b"].config
    with on_meta():
        model = Prismatic(config, "sdpa", sees="causal", logits=True)
    dino, siglip = tower_configs(config)
    # what a checkpoint stores and nothing reads: last blocks, final norms, SigLIP's pooling head
    w, m = siglip.embed_dim, siglip.mlp_dim
    pool = w + (4 * w * w + 4 * w) + 2 * w + (2 * w * m + m + w)
    unread = block(dino) + block(siglip) + 2 * dino.embed_dim + 2 * w + pool
    assert count(model) + unread == PUBLISHED_7B


def test_openvla_oft_7b_is_the_same_model_with_a_head_for_logits():
    with on_meta():
        model = Prismatic(SHAPES["openvla-oft-7b"].config, "sdpa")
        openvla = Prismatic(SHAPES["openvla-7b"].config, "sdpa", logits=True)
        head, projector = L1Head(4096, 7), ProprioProjector(8, 4096)
    assert count(openvla) - count(model) == 32064 * 4096
    assert count(head) == 151_117_831
    assert count(projector) == 16_818_176


def test_the_shapes_are_those_the_command_names():
    assert set(SHAPES) <= set(NAMES)


@pytest.mark.parametrize("name", SHAPES)
def test_random_weights_run_and_are_the_same_again(name):
    def act(dtype="float32"):
        policy = load_policy(small(name), Static(0.5), suite="random", device="cpu", dtype=dtype)
        memory = policy.start("anything", 0)
        assert memory.layout.n_prompt == 35
        return policy, policy.act(memory, observation(0), poses(0))

    policy, chunk = act()
    assert policy.info.policy == name.removesuffix("-7b")
    assert (policy.info.name, policy.info.trained) == (name, False)
    assert np.isfinite(chunk.actions).all()
    assert chunk.measures.pruned
    np.testing.assert_array_equal(chunk.actions, act()[1].actions)
    if name == "openvla-oft-7b":
        assert chunk.measures.tokens_per_layer == [605 - 256] * 2
    half = act("bfloat16")[0]
    language_model = half.prismatic.language_model
    assert {p.dtype for p in half.prismatic.parameters()} == {torch.bfloat16}
    # frequencies of positions stay exact, as with weights from a file
    assert language_model.rotary.inv_freq.dtype == torch.float32


def test_a_checkpoints_hash_tells_shapes_apart():
    hashes = {shape.hash for shape in (*SHAPES.values(), *map(small, SHAPES))}
    assert len(hashes) == 4


def test_a_device_without_room_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr("vlaprune_bench.policies.device.available_mib", lambda: 4000)
    with pytest.raises(UserError, match=r"--shape is openvla-7b; its weights take 30\.0 GB"):
        load_policy(SHAPES["openvla-7b"], Static(), suite="random", device="cpu", dtype="float32")
