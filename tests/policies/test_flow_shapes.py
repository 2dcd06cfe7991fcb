"""Named shapes of the flow policies: the published sizes; a small one runs a profile."""

from dataclasses import replace

import pytest
import torch

from tests.policies.test_batch import act, call_of
from vlaprune_bench import policies
from vlaprune_bench.measure.inputs import INSTRUCTION
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import on_meta
from vlaprune_bench.policies.flow.model import FlowModel
from vlaprune_bench.policies.flow.shapes import PI0, PI05, SMOLVLA, RandomFlow
from vlaprune_bench.policies.flow.sizes import pi_sizes, smolvla_sizes
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.run import profile
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import LEROBOT_PROTOCOL, UserError


def small(shape: RandomFlow) -> RandomFlow:
    """The same at a width that a CPU runs at once."""
    s = shape.sizes
    vision = replace(s.vision, width=24, depth=1, heads=2, mlp_width=32)
    expert = replace(s.expert, width=24, mlp_width=32, depth=2, cross=s.expert.cross & {0, 1})
    expert = replace(expert, heads=4, kv_heads=1, head_dim=8)
    state = {"pi0": 24, "pi05": 0, "smolvla": 32}[shape.kind]
    sizes = replace(
        s, vision=vision, vocabulary=99, width=32, depth=2, mlp_width=48, heads=4, kv_heads=1,
        head_dim=8, expert=replace(expert, state_width=state),
    )  # fmt: skip
    return replace(shape, sizes=sizes)


SMALL = {shape.kind: small(shape) for shape in (PI0, PI05, SMOLVLA)}
SMALL_PI05 = SMALL["pi05"]


@pytest.mark.parametrize(
    ("shape", "gib", "in_float32"),
    [
        # all in bfloat16, with the expert's token logits, which nobody reads
        (PI0, 6.5, 0),
        # the adaptive norms in float32
        (PI05, 7.0, 37 * 3 * 1024 * 1025),
    ],
    ids=lambda x: getattr(x, "source", None),
)
def test_published_files_have_the_published_size(shape, gib, in_float32):
    with on_meta():
        model = FlowModel(shape.sizes, "sdpa")
    numbers = sum(p.numel() for p in model.parameters()) + 257152 * 1024
    assert 2 * (numbers + in_float32) / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize("shape", [PI0, PI05, SMOLVLA, *SMALL.values()])
def test_sizes_are_read_off_the_tensors(shape):
    read = (
        smolvla_sizes(shape) if shape.kind == "smolvla" else pi_sizes(shape, shape.kind == "pi05")
    )
    assert replace(read, names=shape.sizes.names) == shape.sizes


@pytest.mark.parametrize("kind", SMALL)
def test_a_call(kind):
    options = {"suite": "random", "device": "cpu", "protocol": LEROBOT_PROTOCOL}
    policy = load_policy(SMALL[kind], NoPruning(), **options, options=["empty_cameras=keep"])
    memory = policy.start(INSTRUCTION, 0)
    m = act(policy, call_of(memory)).measures
    # as at full size: 3 x 256 + 48, 3 x 256 + 200, 2 x 64 + text + state
    assert memory.layout.length == {"pi0": 816, "pi05": 968, "smolvla": 149}[kind]
    assert m.expert_keys_per_layer == m.tokens_per_layer == [memory.layout.length] * 2
    assert (policy.info.chunk, policy.info.name, policy.info.trained) == (50, kind, False)


def test_a_profile_of_a_shape(monkeypatch, tmp_path):
    path = "tests.policies.test_flow_shapes:SMALL_PI05"
    monkeypatch.setitem(policies.SHAPES, "pi05", path)
    config = ProfileConfig(
        shape="pi05", methods=("static",), keeps=(0.5,), rounds=1, warmup=1, device="cpu",
        output=tmp_path,
    )  # fmt: skip
    none, static = profile(config, tick=lambda _: None)
    assert (none.policy, none.random_weights) == ("pi05", True)
    assert none.latency_denoise_p50_ms > 0
    assert static.visual_tokens_kept == 256
    assert static.flops_ratio > 1


def test_a_shape_that_does_not_fit_is_refused(monkeypatch):
    from vlaprune_bench.policies import device

    monkeypatch.setattr(device, "available_mib", lambda: 1000)
    with pytest.raises(
        UserError, match=r"--shape is pi0; its weights take 13\.0 GB in float32 and cpu has 1"
    ):
        load_policy(PI0, NoPruning(), suite="random", device="cpu", dtype="float32")


def test_half_precision_draws_what_stays_in_float32():
    policy = load_policy(SMALL["pi0"], NoPruning(), suite="random", device="cpu", dtype="bfloat16")
    assert {p.dtype for p in policy.model.eyes.parameters()} == {torch.float32}
    assert policy.model.stack.model.embed_tokens.weight.dtype == torch.bfloat16
