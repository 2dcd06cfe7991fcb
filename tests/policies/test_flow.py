"""Flow-matching policies on the embedded checkpoints: measures, options, and checkpoints that do
not fit, each told in one sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.policies.test_batch import act, call_of, check_same, start
from vlaprune_bench import config
from vlaprune_bench.measure.inputs import INSTRUCTION, observation
from vlaprune_bench.policies import POLICIES, load_policy, named_object
from vlaprune_bench.policies.checkpoint import TINY_FLOW, Checkpoint
from vlaprune_bench.policies.declared import declared_protocol
from vlaprune_bench.policies.flow.inputs import noise
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.types import LEROBOT_PROTOCOL, OPENPI_PROTOCOL, UserError

STILL = observation(0)


def load(checkpoint, pruner=None, **options):
    options.setdefault("protocol", LEROBOT_PROTOCOL)
    options = {"suite": "libero_goal", "device": "cpu"} | options
    return load_policy(checkpoint, pruner or NoPruning(), **options)


@pytest.fixture(params=TINY_FLOW)
def kind(request):
    return request.param


@pytest.fixture
def copy(tmp_path):
    """A copy of an embedded checkpoint, to be spoilt."""

    def make(kind="pi05"):
        return shutil.copytree(Checkpoint.find(TINY_FLOW[kind]).folder, tmp_path / kind)

    return make


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_call_says_what_it_did(kind):
    policy = load(TINY_FLOW[kind], count_every=1)
    chunk = act(policy, call_of(policy.start(INSTRUCTION, 0)))
    m = chunk.measures
    assert chunk.actions.shape == (10, 7)
    assert chunk.actions.dtype == np.float64
    assert (m.latency_decode_ms, m.latency_denoise_ms > 0) == (0.0, True)
    assert m.expert_keys_per_layer == m.tokens_per_layer
    camera = 64 if kind == "smolvla" else 256
    assert m.kept_per_camera == [camera] * 2
    assert m.empty_tokens_dropped == (0 if kind == "smolvla" else 256)
    assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)
    assert policy.info.policy == kind
    assert json.loads(policy.info.options)["empty_cameras"] == "drop"


@pytest.mark.parametrize("layer", [0, 2])
def test_kept_tokens_leave_prefix_cache_and_expert(kind, layer):
    pruner = Static(0.25) if layer == 0 else FastV(0.25, layer=2)
    policy = load(TINY_FLOW[kind], pruner)
    memory = policy.start(INSTRUCTION, 0)
    m = act(policy, call_of(memory)).measures
    length, left = memory.layout.length, memory.layout.length - memory.layout.n_visual * 3 // 4
    assert m.tokens_per_layer == [length] * layer + [left] * (4 - layer)
    assert m.expert_keys_per_layer == m.tokens_per_layer
    full = act(load(TINY_FLOW[kind]), call_of(memory)).measures
    saved = full.total_flops - m.total_flops + m.scoring_flops
    assert saved > 2 * (full.llm_prefill_macs - m.llm_prefill_macs)  # the expert's steps too


def test_empty_cameras_are_dropped_or_kept(kind):
    kept, dropped = (
        load(TINY_FLOW[kind], options=[f"empty_cameras={e}"]) for e in ("keep", "drop")
    )
    one, two = (act(p, call_of(p.start(INSTRUCTION, 0))) for p in (kept, dropped))
    np.testing.assert_allclose(one.actions, two.actions, rtol=0, atol=2e-5)
    gone = one.measures.tokens_per_layer[0] - two.measures.tokens_per_layer[0]
    assert (one.measures.empty_tokens_dropped, two.measures.empty_tokens_dropped) == (0, gone)
    assert (one.measures.visual_tokens, one.measures.pruned) == (two.measures.visual_tokens, False)
    assert gone == (0 if kind == "smolvla" else 256)


def test_actions_follow_images_text_state_and_noise(kind):
    policy = load(TINY_FLOW[kind])

    def actions(seen=STILL, text=INSTRUCTION, noise_seed=0):
        memory = policy.start(text, 5, noise_seed=noise_seed)
        return policy.act(memory, seen, np.zeros((1, 7))).actions

    base = actions()
    np.testing.assert_array_equal(base, actions())
    moved = replace(STILL, eef_pos=STILL.eef_pos + 0.3)
    for other in (
        actions(observation(1)),
        actions(text="turn on the stove"),
        actions(moved),
        actions(noise_seed=1),
    ):
        assert np.abs(other - base).max() > 1e-4


def test_noise_is_the_seeds_and_the_calls():
    drawn = noise(3, 1, (10, 32))
    assert (drawn.shape, drawn.dtype) == ((1, 10, 32), torch.float32)
    assert torch.equal(drawn, noise(3, 1, (10, 32)))
    assert not torch.equal(drawn, noise(3, 2, (10, 32)))
    assert not torch.equal(drawn, noise(4, 1, (10, 32)))
    assert torch.equal(drawn[:, :5], noise(3, 1, (5, 32)))


def test_methods_stay_paired(kind):
    """The same noise whatever the method and the seed of its draws."""
    policy = load(TINY_FLOW[kind])
    one = policy.start(INSTRUCTION, 1, NoPruning(), 7)
    two = policy.start(INSTRUCTION, 2, VlaPruner(0.5), 7)
    np.testing.assert_array_equal(act(policy, call_of(one)).actions,
                                  act(policy, call_of(two)).actions)  # fmt: skip


@pytest.mark.parametrize("value", ["8", "32", "none"])
def test_state_in_the_prompt(value):
    policy = load(TINY_FLOW["pi05"], options=[f"state_in_prompt={value}"])
    ids, padding = policy.tokens("turn on the stove", np.linspace(-1.2, 1.2, 8, dtype=np.float32))
    text = policy.files.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ids) + padding == 200
    assert ("State" in text) == (value != "none")
    numbers = text.count("1 2 8")
    assert numbers == {"8": 0, "32": 24, "none": 0}[value]


def test_attention_step(kind):
    """The step whose attention a method is shown changes what it keeps."""
    first, last = (
        load(TINY_FLOW[kind], VlaPruner(0.25), options=[f"attention_step={step}"])
        for step in (0, 9)
    )
    memories = [start(policy, VlaPruner(0.25)) for policy in (first, last)]
    for _ in range(4):
        one, two = (
            act(p, call_of(m)).measures for p, m in zip((first, last), memories, strict=True)
        )
    assert one.kept_visual != two.kept_visual
    # what it costs differs by the diversity of more or fewer candidates alone
    assert one.total_flops - one.scoring_flops == two.total_flops - two.scoring_flops


def test_half_precision_options(kind):
    for kept in ("lerobot", "openpi", "none"):
        policy = load(TINY_FLOW[kind], dtype="bfloat16", options=[f"float32={kept}"])
        found = {
            part: {p.dtype for p in module.parameters()}
            for part, module in policy.model.named_children()
        }
        chunk = act(policy, call_of(policy.start(INSTRUCTION, 0)))
        assert np.isfinite(chunk.actions).all()
        if kept == "none":
            assert set().union(*found.values()) == {torch.bfloat16}
        elif kind == "smolvla":
            assert (found["eyes"], found["expert"]) == ({torch.bfloat16}, {torch.float32})
        else:
            both = {torch.bfloat16, torch.float32}
            assert found["eyes"] == ({torch.float32} if kept == "lerobot" else both)
            assert (found["stack"], found["expert"]) == (both, both)


def test_openpi_conventions():
    lerobot, openpi = (
        load(TINY_FLOW["pi05"], protocol=p) for p in (LEROBOT_PROTOCOL, OPENPI_PROTOCOL)
    )
    state = np.zeros(8, np.float32)
    ids, _ = openpi.tokens("turn_on the stove ", state)
    assert openpi.files.tokenizer.decode(ids) == "turn on the stove \n"
    assert len(lerobot.tokens("turn_on the stove ", state)[0]) > len(ids)
    assert (lerobot.state_normaliser.openpi, openpi.state_normaliser.openpi) == (False, True)


def test_names_with_and_without_model(kind, copy):
    folder = copy(kind)

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit_tensors(folder / "model.safetensors", strip)
    one, two = (load(source) for source in (TINY_FLOW[kind], str(folder)))
    check_same(*(act(p, call_of(p.start(INSTRUCTION, 0))) for p in (one, two)))


def test_embeddings_in_lm_head_alone(copy):
    folder = copy("pi0")
    base = "model.paligemma_with_expert.paligemma."

    def move(tensors):
        name = f"{base}model.language_model.embed_tokens.weight"
        tensors[f"{base}lm_head.weight"] = tensors.pop(name)
        tensors["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(8)  # very old files

    edit_tensors(folder / "model.safetensors", move)
    one, two = (load(source) for source in (TINY_FLOW["pi0"], str(folder)))
    check_same(*(act(p, call_of(p.start(INSTRUCTION, 0))) for p in (one, two)))


def test_vlm_layers_beyond_the_configs_are_not_read(copy):
    folder = copy("smolvla")
    edit_json(folder / "config.json", lambda c: c.update(num_vlm_layers=2))

    def drop(tensors):
        for name in [
            n for n in tensors if ".lm_expert.layers.2." in n or ".lm_expert.layers.3." in n
        ]:
            del tensors[name]

    edit_tensors(folder / "model.safetensors", drop)
    policy = load(str(folder))
    assert (policy.info.n_layers, policy.model.expert.reads) == (2, (0, 1))


def test_an_expert_at_every_second_layer(copy):
    folder = copy("smolvla")

    def drop(tensors):
        for name in [
            n for n in tensors if ".lm_expert.layers.2." in n or ".lm_expert.layers.3." in n
        ]:
            del tensors[name]
        # layer 2 of the language model is a multiple of 2: self-attention, with keys of its own
        for proj in ("k", "v"):
            stem = "model.vlm_with_expert.lm_expert.layers"
            own = tensors[f"{stem}.0.self_attn.{proj}_proj.weight"]
            tensors[f"{stem}.1.self_attn.{proj}_proj.weight"] = own.clone()

    edit_tensors(folder / "model.safetensors", drop)
    policy = load(str(folder), VlaPruner(0.5), count_every=1)
    assert policy.model.expert.reads == (0, 2)
    assert policy.pruner.action_layers == (2,)  # of the latter half, those that have an expert
    chunks = [act(policy, call_of(m)) for m in [policy.start(INSTRUCTION, 0)] for _ in range(4)]
    assert chunks[-1].measures.pruned
    assert chunks[-1].measures.counted_flops == pytest.approx(
        chunks[-1].measures.total_flops, rel=0.01
    )
    policy.pruner = VlaPruner(0.5, action_layers=(3,))
    with pytest.raises(UserError, match="reads layers 0 2: name some of them"):
        act(policy, call_of(policy.start(INSTRUCTION, 0)))


def test_the_table_knows_each_policy():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    says = Path(config.__file__).read_text()
    for name, path in POLICIES.items():
        assert named_object(path).name == name
        assert f"| `{name}` |" in page
    local = ", ".join(name for name in POLICIES if name != "remote")
    assert f'"""{local}, auto (what the checkpoint\'s files say), or remote' in says  # --help
    for source, protocol in (("tiny-pi0-untrained", "lerobot"), ("tiny", "openvla")):
        assert declared_protocol(source).name == protocol
    assert declared_protocol("nobody/has-this").name == "openvla"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["speed=3"], "has speed=3; there are: empty_cameras, float32"),
        (["empty_cameras=maybe"], "empty_cameras must be drop or keep"),
        (["attention_step=ten"], "attention_step must be a whole number"),
        (["attention_step=10"], "denoises in steps 0 to 9"),
    ],
)
def test_options_that_do_not_fit(options, sentence):
    with pytest.raises(UserError, match=sentence):
        load(TINY_FLOW["pi05"], options=options)


def test_cameras_are_the_checkpoints():
    with pytest.raises(UserError, match="--cameras is 1; a pi0 checkpoint says so itself"):
        load(TINY_FLOW["pi0"], cameras=1)


def test_openvla_has_no_options():
    with pytest.raises(UserError, match="openvla-oft has no options"):
        load("tiny-untrained", options=["empty_cameras=drop"])


@pytest.mark.parametrize(
    ("policy", "checkpoint", "sentence"),
    [
        ("openvla", "tiny-pi0-untrained", "--policy is openvla; .* is a pi0"),
        ("pi0", "tiny-untrained", "--policy is pi0; .* is an OpenVLA"),
        ("pi05", "tiny-smolvla-untrained", "--policy is pi05; .* is smolvla"),
    ],
)
def test_a_checkpoint_of_another_family(policy, checkpoint, sentence):
    with pytest.raises(UserError, match=sentence):
        load(checkpoint, policy=policy)


def _camera(config):
    config["input_features"]["observation.images.left"] = {"type": "VISUAL"}


def _six(tensors):
    for name in list(tensors):
        if name.startswith("observation.state"):
            tensors[name] = tensors[name][:6].clone()


SPOILT = {
    "another type": (
        "config.json", lambda c: c.update(type="act"), "type in config.json is act; supported are"),
    "a camera": ("config.json", _camera, "camera observation.images.left; LIBERO has image"),
    "a variant": (
        "config.json", lambda c: c.update(paligemma_variant="gemma_9b"),
        "paligemma_variant in config.json is gemma_9b; known are gemma_2b"),
    "a number": (
        "config.json", lambda c: c.update(chunk_size="ten"),
        "config.json: chunk_size is ten; it must be a whole number"),
    "more steps than actions": (
        "config.json", lambda c: c.update(n_action_steps=11),
        "n_action_steps is 11; it must be at most chunk_size, 10"),
    "a size": (
        "architecture.json", lambda c: c["vision"].update(num_attention_heads=[2]),
        r"architecture.json: vision: num_attention_heads is \[2\]; it must be a whole number"),
    "no list": (
        "policy_preprocessor.json", lambda c: c.update(steps={"a": 1}),
        "steps is {'a': 1}; it must be a list of mappings"),
    "no finite number": (
        "policy_preprocessor_step_1_normalizer_processor.safetensors",
        lambda t: t["observation.state.mean"].fill_(float("nan")),
        "statistics observation.state.mean are not all finite"),
    "a mode": (
        "policy_preprocessor.json",
        lambda c: c["steps"][-1]["config"]["norm_map"].update(STATE="RANK"),
        "norm_map says STATE is RANK; it must be one of IDENTITY"),
    "quantiles": (
        "policy_preprocessor.json",
        lambda c: c["steps"][-1]["config"]["norm_map"].update(STATE="QUANTILES"),
        "have no observation.state.q01 and no observation.state.q99"),
    "a step": (
        "policy_postprocessor.json", lambda c: c["steps"].clear(),
        "policy_postprocessor.json has no step unnormalizer_processor"),
    "six numbers": (
        "policy_preprocessor_step_1_normalizer_processor.safetensors", _six,
        r"observation.state.mean have shape \(6,\); LIBERO's observation.state has 8 numbers"),
    "no mean": (
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        lambda t: t.pop("action.mean"), "have no action.mean"),
    "a tensor too few": (
        "model.safetensors", lambda t: t.pop("model.time_mlp_in.bias"),
        "1 missing: time_mlp_in.bias"),
    "a tensor too many": (
        "model.safetensors", lambda t: t.update({"model.state_proj.bias": torch.zeros(3)}),
        r"1 unexpected: state_proj.bias \(3,\)"),
    "a misshapen tensor": (
        "model.safetensors", lambda t: t.update({"model.time_mlp_in.bias": torch.zeros(3)}),
        r"1 misshapen: time_mlp_in.bias \(3,\) instead of \(32,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_checkpoint_is_told(case, copy):
    name, change, sentence = SPOILT[case]
    folder = copy()
    edit = edit_json if name.endswith(".json") else edit_tensors
    edit(folder / name, change)
    with pytest.raises(UserError, match=sentence):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("policy_preprocessor.json", "policy_preprocessor.json is missing"),
        ("policy_postprocessor_step_0_unnormalizer_processor.safetensors", "which is missing in"),
        ("model.safetensors", "model.safetensors is missing"),
    ],
)
def test_a_missing_file_is_told(name, sentence, copy):
    folder = copy()
    (folder / name).unlink()
    with pytest.raises(UserError, match=sentence):
        load(str(folder))


def test_a_folder_in_a_files_place_is_told(copy):
    folder = copy()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(UserError, match=r"tokenizer\.json is a folder, not a file"):
        load(str(folder))


def test_a_missing_tokenizer_says_what_to_place_where(copy, monkeypatch):
    import huggingface_hub

    def offline(*_args, **_options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    folder = copy()
    (folder / "tokenizer.json").unlink()
    edit_json(
        folder / "policy_preprocessor.json",
        lambda c: c["steps"][0]["config"].update(tokenizer_name="google/paligemma-3b-pt-224"),
    )
    policy = load(str(folder))
    with pytest.raises(
        UserError, match=r"from google/paligemma-3b-pt-224 .*place that repository's"
    ):
        policy.start(INSTRUCTION, 0)


def test_a_tokenizer_comes_from_the_hub_repository_the_processor_names(copy, monkeypatch):
    import huggingface_hub

    folder, asked = copy(), []
    kept = shutil.move(folder / "tokenizer.json", folder.parent / "elsewhere.json")

    def fetch(repository, name, **_options):
        asked.append((repository, name))
        return str(kept if name == "tokenizer.json" else folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    policy = load(str(folder))
    policy.start(INSTRUCTION, 0)
    assert {name for _, name in asked} == {"tokenizer.json", "tokenizer_config.json"}
