"""A file in a checkpoint folder is read, harmless, or refused by name."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.policies.checkpoint_edits import embedded
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.folder import refuse_unclaimed
from vlaprune_bench.types import UserError

PUBLISHED_OFT = (
    ".gitattributes README.md action_head--150000_checkpoint.pt added_tokens.json config.json "
    "configuration_prismatic.py dataset_statistics.json generation_config.json "
    "lora_adapter/README.md lora_adapter/adapter_config.json "
    "lora_adapter/adapter_model.safetensors model-00001-of-00003.safetensors "
    "model-00002-of-00003.safetensors model-00003-of-00003.safetensors "
    "model.safetensors.index.json modeling_prismatic.py preprocessor_config.json "
    "processing_prismatic.py proprio_projector--150000_checkpoint.pt special_tokens_map.json "
    "tokenizer.json tokenizer.model tokenizer_config.json"
).split()
HEAD, PROJECTOR = "action_head--0_checkpoint.pt", "proprio_projector--0_checkpoint.pt"


@pytest.fixture
def oft(tmp_path):
    """An embedded OpenVLA-OFT with token logits stored, as every 7B file has them."""
    folder = shutil.copytree(embedded("tiny-untrained"), tmp_path / "ckpt")
    tensors = load_file(folder / "model.safetensors")
    width = tensors["language_model.model.norm.weight"].shape[0]
    tensors["language_model.lm_head.weight"] = torch.zeros(93, width)
    save_file(tensors, folder / "model.safetensors")
    return folder


def refusal(folder):
    with pytest.raises(UserError) as caught:
        Checkpoint.find(str(folder))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "name",
    [
        "vision_backbone--150000_checkpoint.pt",
        "vision_backbone.pt",
        "film/vision_backbone--latest_checkpoint.pt",
        "noisy_action_projector--150000_checkpoint.pt",
        "action_head.pt",
        "action_head--150000_chkpt.pt",
        "heads/action_head--150000_checkpoint.pt",
        "logs/action_head--150000_checkpoint.pt",
        "lora_adapter/action_head--150000_checkpoint.pt",
        "action_head--150000_checkpoint.pt.bak",
        "proprio_projector.safetensors",
        "heads.pt",
        "model.gguf",
        "adapter_model.safetensors",
        "adapter_config.json",
        "pytorch_model.bin",
        "settings.json",
        "checkpoint-1000/model.safetensors",
        "model-00001-of-00002.safetensors",
    ],
)
def test_a_file_nobody_claims_is_refused_by_name(oft, name):
    path = oft / name
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(oft / HEAD, path)
    assert name in refusal(oft)


def test_what_a_name_tells_is_said(oft):
    torch.save({}, oft / "zz.pt")
    torch.save({}, oft / "vision_backbone--9_checkpoint.pt")
    assert "FiLM" in refusal(oft)
    (oft / "vision_backbone--9_checkpoint.pt").unlink()
    assert "zz.pt is in the folder and nothing reads it" in refusal(oft)


@pytest.mark.parametrize("where", ["{}.pt", "{}--150000_chkpt.pt", "heads/{}--0_checkpoint.pt"])
def test_renamed_parts_do_not_make_another_policy(oft, where):
    (oft / "heads").mkdir()
    for stem, old in (("action_head", HEAD), ("proprio_projector", PROJECTOR)):
        (oft / old).rename(oft / where.format(stem))
    assert "action_head--STEP_checkpoint.pt" in refusal(oft)


def test_a_link_to_a_folder_is_not_passed_over(oft, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (oft / "heads").symlink_to(tmp_path / "elsewhere")
    assert "heads is in the folder" in refusal(oft)


@pytest.mark.parametrize(
    "name",
    [
        "README.md", ".gitattributes", ".DS_Store", "._action_head--0_checkpoint.pt",
        ".cache/huggingface/x.metadata", "train.log", "loss.png", "events.out.tfevents.17.host",
        "wandb/run-1/files/wandb-summary.json", "config.json.back.20250101_101010",
        "modeling_prismatic.py.back.20250101", "tokenizer.model", "special_tokens_map.json",
        "optimizer.pt", "trainer_state.json", "rollouts/episode.mp4", "runs/rows.parquet",
        "action_head_loss.png", "notes.txt",
    ],
)  # fmt: skip
def test_harmless_files_change_nothing(oft, name):
    before = Checkpoint.find(str(oft)).hash
    path = oft / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"anything")
    assert Checkpoint.find(str(oft)).hash == before


def test_names_of_published_folders_are_known():
    from vlaprune_bench.policies.folder import READ

    visible = [name for name in PUBLISHED_OFT if not name.startswith(".")]
    refuse_unclaimed("published", visible, READ)


def test_links_to_nothing(oft):
    (oft / "README.md").symlink_to("nowhere")
    Checkpoint.find(str(oft))
    (oft / "tokenizer.json").unlink()
    (oft / "tokenizer.json").symlink_to("nowhere")
    assert "tokenizer.json is a link to nothing" in refusal(oft)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", HEAD, "config.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "empty"),
    ],
)
def test_every_file_is_looked_at_when_found(oft, name, content, says):
    (oft / name).write_bytes(content)
    said = refusal(oft)
    assert name in said
    assert says in said


def test_two_models_in_one_folder(golden_checkpoint, tmp_path):
    folder = shutil.copytree(golden_checkpoint, tmp_path / "ckpt")
    shutil.copyfile(folder / "model-00001-of-00002.safetensors", folder / "model.safetensors")
    assert "model.safetensors is in the folder" in refusal(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    assert "no model.safetensors.index.json" in refusal(folder)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter alone"),
        (["lora_adapter/adapter_config.json", HEAD], "LoRA adapter alone"),
        (["config.json", "checkpoints/step-1000-loss=0.1.pt"], "native training"),
        (["config.json", "model-q4.gguf"], "quantised"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], "pickled weights"),
        (["README.md"], "no config.json"),
    ],
)
def test_a_folder_of_another_kind_is_told_what_it_is(tmp_path, names, says):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert says in refusal(tmp_path)


def test_oft_code_without_a_head_is_asked_about(oft, keep):
    (oft / HEAD).unlink()
    (oft / PROJECTOR).unlink()
    load = {"suite": "libero_spatial", "device": "cpu"}
    assert load_policy(str(oft), keep(), **load).info.policy == "openvla"
    (oft / "modeling_prismatic.py").write_text("def predict_action(self, proprio_projector): ...")
    with pytest.raises(UserError, match=r"action_head--\*_checkpoint\.pt; add that file"):
        load_policy(str(oft), keep(), **load)
    assert load_policy(str(oft), keep(), **load, policy="openvla").info.policy == "openvla"


def test_parts_of_two_steps_do_not_belong_together(oft, keep):
    (oft / HEAD).rename(oft / "action_head--50000_checkpoint.pt")
    with pytest.raises(UserError, match="different steps"):
        load_policy(str(oft), keep(), suite="libero_spatial", device="cpu")


def test_names_on_the_hub_count_before_anything_is_fetched(monkeypatch):
    def on_hub(self, source, timeout):
        names = [*PUBLISHED_OFT, "vision_backbone--150000_checkpoint.pt"]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    def fetch(*args, **kwargs):
        raise AssertionError("fetched")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", on_hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert "vision_backbone--150000_checkpoint.pt" in refusal("owner/name")
