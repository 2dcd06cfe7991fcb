"""pi0, pi0.5 and SmolVLA are LeRobot's, tensor by tensor, pruned prefixes included."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SHARED
from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.flow.denoise import Denoise
from vlaprune_bench.policies.flow.expert import time_embedding
from vlaprune_bench.policies.flow.expert_layers import Look
from vlaprune_bench.policies.flow.inputs import (
    Normaliser,
    openpi_prompt,
    pi05_prompt,
    pi_prompt,
    prepare_images,
    robot_state,
)
from vlaprune_bench.pruning.base import Pruner, Selection
from vlaprune_bench.types import PROTOCOLS, Observation

CUT = Path(__file__).parents[1] / "data" / "golden-flow" / "golden-flow.tar.xz"
FULL = SHARED / "golden-flow"
CHECKPOINTS = {
    "pi0": "ckpt-pi0-tiny",
    "pi05": "ckpt-pi05-tiny",
    "smolvla": "ckpt-smolvla-tiny",
    "smolvla_cross": "ckpt-smolvla-cross-tiny",
}
LEROBOT = PROTOCOLS["lerobot"]
ATOL = 5e-5
POSE = np.zeros((1, 7))


class Keep(Pruner):
    """Keeps given visual tokens before a layer; looks at the attention of every layer."""

    def __init__(self, kept=None, layer=0, renumber=False, taps=()) -> None:
        for name, value in (
            ("kept", kept),
            ("at", layer),
            ("contiguous", renumber),
            ("taps", taps),
        ):
            object.__setattr__(self, name, value)

    layers = property(lambda self: () if self.kept is None else (self.at,))
    tapped_layers = property(lambda self: self.taps)
    renumber_positions = property(lambda self: self.contiguous)

    def select(self, context, memory):
        return None if self.kept is None else Selection(self.kept)


class Fixtures:
    """One folder of fixtures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = cache(lambda name: load_file(folder / f"{name}.safetensors"))
        self.policy = cache(self._policy)

    def cases(self, name: str) -> list[dict]:
        return json.loads((self.folder / f"{name}_forward.json").read_text())["cases"]

    def _policy(self, name, empty="keep", attention="sdpa", dtype="float32"):
        return load_policy(
            str(self.folder / CHECKPOINTS[name]),
            Keep(),
            suite="libero_spatial",
            device="cpu",
            dtype=dtype,
            attention=attention,
            protocol=LEROBOT,
            options=[f"empty_cameras={empty}"],
        )

    def pixels(self, name: str, number: int, camera: int) -> torch.Tensor:
        key = f"{number}.pixel_values.{camera}"
        own = self.tensors(f"{name}_forward")
        return own[key] if key in own else self.tensors("smolvla_forward")[key]

    def inputs(self, name, case, policy):
        """A call's inputs: of the simulator's frames where they are there, else of the pixels."""
        tensors, number = self.tensors(f"{name}_forward"), case["index"]
        there, size = case["cameras_present"], policy.model.sizes.vision.image
        frames = np.zeros((there, size, size, 3), np.uint8)
        env = self.tensors("env_inputs")
        # input 4 uses the frames of 0
        keys = [f"{number % 4}.frame.{camera}" for camera in ("image", "image2")[:there]]
        if all(key in env for key in keys):
            frames = np.stack([env[key].numpy()[::-1, ::-1] for key in keys])
        state = tensors[f"{number}.state_raw"].numpy()
        if f"{number}.eef_pos" in env:
            state = robot_state(observation(env, number), "float32")
            close(state, tensors[f"{number}.state_raw"])
        inputs = policy.inputs_of(
            frames, state, case["task"], tensors[f"{number}.noise"][None], n_missing=2 - there
        )
        for camera in range(there):
            given, ours = self.pixels(name, number, camera), slice(3 * camera, 3 * camera + 3)
            if frames.any():
                close(inputs.pixels_1CHW[0, ours], given)
            inputs.pixels_1CHW[0, ours] = given
        return inputs

    def run(self, name, case, pruner, **options):
        """Policy, inputs and what a pass gave."""
        policy = self.policy(name, **options)
        policy.pruner = pruner
        inputs, memory = self.inputs(name, case, policy), policy.start(case["task"], 0)
        with torch.inference_mode():
            timer = StageTimer(policy.device)
            return policy, inputs, policy.forward(memory, memory.pruner, inputs, POSE, timer)


def observation(env, number) -> Observation:
    keys = ("eef_pos", "eef_quat", "gripper_qpos")
    return Observation(*(env[f"{number}.{key}"].numpy() for key in keys))


@cache
def unpacked(target: Path) -> Path:
    with tarfile.open(CUT) as tar:
        tar.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return target


@pytest.fixture(params=["cut", "full"], scope="module")
def fixtures(request, tmp_path_factory):
    if request.param == "cut":
        return Fixtures(unpacked(tmp_path_factory.mktemp("golden-flow")))
    if not FULL.is_dir():
        pytest.skip(f"the full set of fixtures is not at {FULL}")
    return Fixtures(FULL)


def close(ours, reference, atol=ATOL):
    torch.testing.assert_close(
        torch.as_tensor(ours).to(reference.dtype), reference, rtol=0, atol=atol
    )


def same(ours, reference):
    assert torch.equal(torch.as_tensor(ours).to(reference.dtype), reference)


def request_of(policy, inputs, decoder) -> Denoise:
    """The denoising request of a call that has run."""
    expert, state = policy.model.expert, None
    if expert.config.state_in_suffix:
        state = expert.state_token(inputs.state_S[None])
    return next(decoder.denoising(inputs.noise_1CA, state))


def velocity(policy, inputs, decoder, step=0, x=None):
    """(C, 32) velocity at a step, and what the layers were seen to do."""
    request, looks = request_of(policy, inputs, decoder), {}
    noise = inputs.noise_1CA if x is None else x[None]
    with torch.inference_mode():
        reads = Denoise.reads([request])
        v = policy.model.expert.velocity(noise, step, request.state_1D, reads, looks)
    return v[0], looks


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_input_unpruned(fixtures, name, attention):
    tensors = fixtures.tensors(f"{name}_forward")
    for case in fixtures.cases(name):
        i = case["index"]
        policy, inputs, out = fixtures.run(name, case, Keep(), attention=attention)

        def golden(key, number=i):
            return tensors.get(f"{number}.{key}")

        layout, decoder, prefix = inputs.layout, out.decoder, out.prefix
        ids = torch.nn.functional.pad(inputs.prompt_T, (0, inputs.padding), value=policy.pad_id)
        same(ids, golden("tokens"))
        valid = torch.arange(len(ids)) < len(inputs.prompt_T)
        same(valid, golden("token_mask"))
        close(inputs.proprio, golden("state_normalized"), 1e-6)
        if golden("state_padded") is not None:
            close(inputs.state_S, golden("state_padded"), 1e-6)
        real = golden("prefix_pad_mask")
        same(torch.ones(layout.length, dtype=bool) if real.all() else decoder._valid_L, real)
        assert (layout.length, layout.n_valid) == (case["prefix_length"], case["prefix_valid"])
        embedded = golden("image_embeds.0")
        if embedded is not None:
            with torch.inference_mode():
                close(policy.model.eyes.patches(inputs.pixels_1CHW)[0, : len(embedded)], embedded)
        close(prefix.sequence_BLD[0], golden("prefix_embs"))
        if golden("prefix_position_ids") is not None:
            same(decoder.segments[0].rope_N, golden("prefix_position_ids"))
        if golden("prefix_att_2d") is not None:
            rows = torch.arange(layout.length)
            seen = decoder.visible(rows, rows)
            seen = torch.ones_like(golden("prefix_att_2d")) if seen is None else seen
            # the reference lets masked rows see nothing; ours are finite and nobody reads them
            same(seen & real[:, None], golden("prefix_att_2d"))
        for layer in range(policy.stack.n_layers):
            for kind, held in (("key", decoder.cache.keys), ("value", decoder.cache.values)):
                wanted = golden(f"prefix_{kind}.{layer}")
                if wanted is not None:
                    close(held[layer][0][:, real], wanted[:, real])
        if golden("prefix_last_hidden") is not None:
            close(out.prefill.hidden_BND[0][real], golden("prefix_last_hidden")[real])
        v, _ = velocity(policy, inputs, decoder)
        close(v, golden("velocity_first"))
        last, _ = velocity(policy, inputs, decoder, step=9, x=golden("x_t_last"))
        close(last, golden("velocity_last"))
        if golden("suffix_att_2d") is not None:
            own = policy.model.expert._own_mask(len(golden("suffix_att_2d")), torch.device("cpu"))
            same(own, golden("suffix_att_2d"))
        if golden("suffix_position_ids") is not None:
            start = request_of(policy, inputs, decoder).starts[0]
            same(start + torch.arange(len(golden("suffix_position_ids"))),
                 golden("suffix_position_ids"))  # fmt: skip
        close(out.prediction.hidden_BAD[0], golden("actions_normalized_32"))
        close(policy._actions(out.prediction.actions), golden("actions"))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_input_pruned(fixtures, name):
    tensors = fixtures.tensors(f"{name}_forward")
    checked = 0
    for case in fixtures.cases(name):
        for subset in ("half", "quarter", "uneven"):
            for mode in ("renumber", "original", "layer1"):
                stem = f"{case['index']}.pruned.{subset}"
                if f"{stem}.{mode}.actions_normalized_32" not in tensors:
                    continue
                pruner = Keep(tensors[f"{stem}.kept"], int(mode == "layer1"), mode == "renumber")
                policy, inputs, out = fixtures.run(name, case, pruner, empty="drop")
                golden = {
                    key.removeprefix(f"{stem}.{mode}."): value
                    for key, value in tensors.items()
                    if key.startswith(f"{stem}.{mode}.")
                }
                _check_pruned(policy, inputs, out, golden)
                checked += 1
    assert checked >= 8


def _check_pruned(policy, inputs, out, golden):
    last, decoder = policy.stack.n_layers - 1, out.decoder
    valid = decoder._valid_L
    key_K = decoder.segments[-1].key_K
    real = torch.ones(len(key_K), dtype=bool) if valid is None else valid[key_K]
    for kind, held in (("key", decoder.cache.keys), ("value", decoder.cache.values)):
        if f"prefix_{kind}.{last}" in golden:
            wanted = golden[f"prefix_{kind}.{last}"]
            assert held[last][0].shape == wanted.shape
            close(held[last][0][:, real], wanted[:, real])
    if "position_ids" in golden:
        same(decoder.segments[-1].rope_N, golden["position_ids"])
        n = len(golden["suffix_position_ids"])
        starts = request_of(policy, inputs, decoder).starts
        same(starts[-1] + torch.arange(n), golden["suffix_position_ids"])
    close(velocity(policy, inputs, decoder)[0], golden["velocity_first"])
    close(out.prediction.hidden_BAD[0], golden["actions_normalized_32"])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_attention_of_prefill_and_actions(fixtures, name):
    tensors = fixtures.tensors(f"{name}_forward")
    case = fixtures.cases(name)[0]
    layers = tuple(range(fixtures.policy(name).stack.n_layers))
    for empty in ("keep", "drop"):
        policy, inputs, out = fixtures.run(name, case, Keep(taps=layers), empty=empty)
        rows = out.decoder.rows(0)
        assert len(rows) == inputs.layout.n_valid
        actions = torch.tensor(list(inputs.layout.action_rows))
        for layer in layers:
            key = f"0.prefix_attn_to_visual.{layer}"
            if key in tensors:
                close(out.decoder.attention(layer, rows), tensors[key], 5e-6)
            if (key := f"0.action_attn_to_visual.{layer}") in tensors:
                assert layer in policy.model.expert.reads
                close(out.decoder.attention(layer, actions), tensors[key], 5e-6)
                both = torch.cat([actions[3:], rows[:2]])
                mixed = out.decoder.attention(layer, both)
                close(mixed[:-2], tensors[key][3:], 5e-6)
                close(mixed[-2:], out.decoder.attention(layer, rows[:2]))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_empty_cameras_change_nothing(fixtures, name):
    case = fixtures.cases(name)[0]
    kept, dropped = (fixtures.run(name, case, Keep(), empty=e) for e in ("keep", "drop"))
    close(kept[2].prediction.hidden_BAD, dropped[2].prediction.hidden_BAD, 2e-6)
    gone = kept[1].layout.length - dropped[1].layout.length
    assert gone == (0 if name == "smolvla" else 16)
    assert (kept[1].empty_tokens_dropped, dropped[1].empty_tokens_dropped) == (0, gone)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_half_precision_is_as_far_as_the_references(fixtures, name):
    case = fixtures.cases(name)[0]
    policy, _, out = fixtures.run(name, case, Keep(), dtype="bfloat16")
    reference = fixtures.tensors(f"{name}_forward").get("0.actions_normalized_bf16")
    wanted = fixtures.tensors(f"{name}_forward")["0.actions_normalized_32"][:, :7]
    far = np.abs(out.prediction.actions - wanted.numpy()).max()
    assert 0 < far < 5e-2
    if reference is not None:
        assert far < 3 * (reference - wanted).abs().max()
    kinds = {p.dtype for p in policy.model.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}


def test_a_look_holds_what_the_step_used(fixtures):
    policy, inputs, out = fixtures.run("pi0", fixtures.cases("pi0")[0], Keep(taps=(1,)))
    _, looks = velocity(policy, inputs, out.decoder)
    look = out.decoder._looks[1]
    assert isinstance(look, Look)
    torch.testing.assert_close(look.queries_BHSd, looks[1].queries_BHSd)
    torch.testing.assert_close(look.keys_BHKd, looks[1].keys_BHKd)


def test_time_embedding(fixtures):
    path = fixtures.folder / "time_embedding.safetensors"
    if not path.is_file():
        pytest.skip("the cut set has no time embedding of the real widths")
    tensors = load_file(path)
    config = fixtures.policy("pi0").model.sizes.expert
    for width in (32, 480, 1024):
        shape = type(config)(**{**vars(config), "width": width})
        close(time_embedding(shape), tensors[f"embedding_{width}"], 1e-6)


def test_images(fixtures):
    env, wanted = fixtures.tensors("env_inputs"), fixtures.tensors("preprocess")
    checked = 0
    for key, value in wanted.items():
        number, name, *rest = key.split(".")
        if f"{number}.frame.image" not in env:
            continue
        source = rest[0] if rest else "from_256"
        frame = env[f"{number}.frame.image"].numpy()
        upright = frame[::-1, ::-1]
        if source == "from_360":
            wrapped = np.pad(frame, ((0, 104), (0, 104), (0, 0)), "wrap")
            upright = wrapped[::-1, ::-1]
        elif source == "from_180x256":
            upright = upright[38:218]
        upright = np.ascontiguousarray(upright)[None]
        cpu = torch.device("cpu")
        if name == "openpi_client_224":
            image = prepare_images(upright, PROTOCOLS["openpi"], 224, "centre", cpu)[0]
            ours = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
            same(ours[::4, ::4] if rest else ours, value)
        else:
            smol = name == "lerobot_smolvla_512"
            size, padding = (512, "top-left") if smol else (224, "centre")
            image = prepare_images(upright, LEROBOT, size, padding, cpu)[0] * 2 - 1
            step = 16 if smol else 7
            mean = rest[-1] == "channel_mean"
            close(image.mean((1, 2)) if mean else image[:, ::step, ::step], value)
        checked += 1
    assert checked >= 5


def test_state(fixtures):
    tensors = fixtures.tensors("state")
    for number in range(len(tensors["eef_pos"])):
        seen = Observation(
            *(tensors[k][number].numpy() for k in ("eef_pos", "eef_quat_xyzw", "gripper_qpos"))
        )
        close(robot_state(seen, "float32"), tensors["lerobot_state"][number], 2e-6)
        close(robot_state(seen, "float64"), tensors["openpi_state"][number], 1e-12)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_normalising(fixtures, mode):
    tensors = fixtures.tensors("normalize")
    statistics = {
        key.removeprefix("stats."): value.numpy()
        for key, value in tensors.items()
        if key.startswith("stats.")
    }
    ours = Normaliser(mode, statistics, 1e-8)
    forth = ours.normalise(tensors["raw"].numpy())
    torch.testing.assert_close(torch.from_numpy(forth), tensors[f"lerobot.{mode}.normalize"])
    back = ours.unnormalise(tensors["normalized_input"].numpy())
    torch.testing.assert_close(torch.from_numpy(back), tensors[f"lerobot.{mode}.unnormalize"])
    name = {"MEAN_STD": "zscore", "QUANTILES": "quantile"}.get(mode)
    if name:
        openpi = Normaliser(mode, statistics, 1e-8, openpi=True)
        forth = openpi.normalise(tensors["raw"].numpy())
        wanted = tensors[f"openpi.{name}.normalize"].float()
        torch.testing.assert_close(torch.from_numpy(forth), wanted, rtol=1e-5, atol=1e-5)
        back = openpi.unnormalise(tensors["normalized_input"].numpy())
        wanted = tensors[f"openpi.{name}.unnormalize"].float()
        torch.testing.assert_close(torch.from_numpy(back), wanted, rtol=1e-5, atol=1e-5)


def test_prompts(fixtures):
    for case in json.loads((fixtures.folder / "prompts.json").read_text()):
        task, state = case["task"], np.array(case["state_normalized"], np.float32)
        assert pi05_prompt(task, state) == case["lerobot_pi05_prompt"]
        padded = np.pad(state, (0, 24))
        assert pi05_prompt(task, padded) == case["lerobot_044_pi05_prompt"]
        assert pi_prompt(task) == case["lerobot_pi0_and_smolvla_prompt"]
        assert openpi_prompt(task) == case["openpi_pi0_prompt"]
        assert openpi_prompt(task) == case["openpi_pi05_libero_prompt"]
