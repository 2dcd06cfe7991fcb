"""What is wrong with a checkpoint is said in one sentence."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.types import UserError

SHARD = "model-00001-of-00002.safetensors"
HEAD = "action_head--150000_checkpoint.pt"


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of the golden checkpoint to damage."""
    return shutil.copytree(golden / "ckpt-oft-tiny", tmp_path / "ckpt")


@pytest.fixture
def refusal(keep):
    """Loads a folder that cannot be loaded and returns what is said about it."""

    def load(folder, suite="libero_spatial", **options):
        with pytest.raises(UserError) as caught:
            load_policy(str(folder), keep(), suite=suite, **options)
        return str(caught.value)

    return load


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_missing_tensor(folder, refusal):
    edit(folder / SHARD, lambda tensors: tensors.pop("projector.fc3.bias"))
    assert "1 missing: projector.fc3.bias (32,)" in refusal(folder)


def test_unexpected_tensor(folder, refusal):
    edit(folder / SHARD, lambda tensors: tensors.update({"film.scale": torch.zeros(3)}))
    assert "1 unexpected: film.scale (3,)" in refusal(folder)


def test_misshapen_tensors(folder, refusal):
    def change(tensors):
        for i in (1, 2, 3):
            tensors[f"projector.fc{i}.weight"] = torch.zeros(2, 2)
        tensors["projector.fc1.bias"] = torch.zeros(5)

    edit(folder / SHARD, change)
    said = refusal(folder)
    assert "4 misshapen: projector.fc1.weight (2, 2) instead of (448, 112)" in said
    assert ", ...;" in said or said.endswith(", ....")
    assert "\n" not in said


def test_head_of_another_shape(folder, refusal):
    tensors = torch.load(folder / HEAD, weights_only=True)
    tensors["module.model.fc2.weight"] = torch.zeros(9, 32)
    torch.save(tensors, folder / HEAD)
    said = refusal(folder)
    assert HEAD in said
    assert "model.fc2.weight (9, 32) instead of (7, 32)" in said


@pytest.mark.parametrize("name", [SHARD, HEAD])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_truncated_file(folder, refusal, name, part):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * part)])
    said = refusal(folder)
    assert name in said
    assert "truncated" in said
    assert "\n" not in said


def test_pickles_that_run_code_are_refused(folder, refusal):
    (folder / HEAD).write_bytes(pickle.dumps(print, protocol=2))
    assert HEAD in refusal(folder)


@pytest.mark.parametrize("name", [HEAD, SHARD])
def test_missing_file(folder, refusal, name):
    (folder / name).unlink()
    assert name.partition("--")[0] in refusal(folder)


def test_diffusion_head_is_refused(folder, refusal):
    shutil.copyfile(folder / HEAD, folder / "noisy_action_projector--150000_checkpoint.pt")
    for policy in ("auto", "openvla-oft"):
        assert "diffusion head" in refusal(folder, policy=policy)


def test_policy_of_another_name(folder, refusal):
    assert "--policy is octo" in refusal(folder, policy="octo")


def test_files_tell_the_policy(folder, keep):
    def load(**options):
        return load_policy(str(folder), keep(), suite="libero_spatial", **options)

    assert type(load()).__name__ == "OpenVLAOFT"
    assert type(load(policy="openvla")).__name__ == "OpenVLA"
    (folder / HEAD).unlink()
    policy = load(policy="openvla-oft")  # discrete tokens, proprio as before
    assert policy.proprio_projector is not None
    assert "lm_head.weight" in policy.prismatic.language_model.state_dict()
    (folder / "proprio_projector--150000_checkpoint.pt").unlink()
    assert load(policy="openvla-oft").proprio_projector is None
    assert type(load()).__name__ == "OpenVLA"


def test_two_heads(folder, refusal):
    shutil.copyfile(folder / HEAD, folder / "action_head--9_checkpoint.pt")
    assert "action_head--9_checkpoint.pt" in refusal(folder)


def test_missing_config(folder, refusal):
    (folder / "config.json").unlink()
    assert "config.json" in refusal(folder)


def test_broken_config(folder, refusal):
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)


def test_unknown_tower(folder, refusal):
    config = json.loads((folder / "config.json").read_text())
    config["timm_model_ids"][1] = "resnet50"
    (folder / "config.json").write_text(json.dumps(config))
    assert "resnet50" in refusal(folder)


def test_wrong_suite_lists_what_there_is(folder, refusal):
    said = refusal(folder, suite="libero_goal")
    assert "libero_goal" in said
    assert "libero_spatial_no_noops" in said


def test_statistics_fall_back_to_config(folder, keep):
    (folder / "dataset_statistics.json").unlink()
    policy = load_policy(str(folder), keep(), suite="libero_spatial")
    assert policy.info.unnorm_key == "libero_spatial_no_noops"


def test_tokenizer_is_needed_only_for_text(folder, keep):
    policy = load_policy(str(folder), keep(), suite="libero_spatial")
    policy.start_with_tokens([1, 2], seed=0)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        policy.start("open the drawer", seed=0)


@pytest.mark.parametrize(
    ("option", "value"), [("device", "tpu"), ("device", "cuda:99"), ("dtype", "int8")]
)
def test_wrong_place(folder, refusal, option, value):
    said = refusal(folder, **{option: value})
    assert f"--{option} is {value}" in said


def test_wrong_attention(folder, refusal):
    assert "--attention is flash" in refusal(folder, attention="flash")


def test_neither_folder_nor_hub_id(refusal):
    assert "no/such/folder" in refusal("no/such/folder")


def test_hub_out_of_reach(refusal, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot reach the hub\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fetch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    said = refusal("owner/name")
    assert "owner/name" in said
    assert "cannot reach the hub" in said
    assert "\n" not in said


def test_hash_follows_names_and_contents(folder):
    before = Checkpoint.find(str(folder)).hash
    assert before == Checkpoint.find(str(folder)).hash
    (folder / "notes.txt").write_text("not part of a checkpoint")
    assert before == Checkpoint.find(str(folder)).hash
    path = folder / SHARD
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = Checkpoint.find(str(folder)).hash
    assert changed != before
    (folder / HEAD).rename(folder / "action_head--2_checkpoint.pt")
    assert Checkpoint.find(str(folder)).hash not in (before, changed)


def test_hash_samples_large_files(folder, monkeypatch):
    from vlaprune_bench.policies import checkpoint

    whole = Checkpoint.find(str(folder)).hash
    monkeypatch.setattr(checkpoint, "HASH_WHOLE", 100_000)
    monkeypatch.setattr(checkpoint, "HASH_BLOCK", 1_000)
    sampled = Checkpoint.find(str(folder)).hash
    assert sampled != whole
    path = folder / SHARD
    content = bytearray(path.read_bytes())
    content[10] ^= 1  # in the header
    path.write_bytes(content)
    assert Checkpoint.find(str(folder)).hash != sampled


def test_golden_checkpoint_is_trained_on_real_assets_unless_it_says_otherwise(folder, keep):
    info = load_policy(str(folder), keep(), suite="libero_spatial").info
    assert (info.trained, info.assets) == (True, "real")
