"""Weights: what is stored, in which precision, how much of it, and that it is copied."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.policies.checkpoint_edits import edit_json, edit_tensors, embedded
from vlaprune_bench.policies import device as device_module
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.device import check_room
from vlaprune_bench.types import UserError

HEAD = "action_head--0_checkpoint.pt"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(embedded("tiny-untrained"), tmp_path / "ckpt")


@pytest.fixture
def load(folder, keep):
    def load(**options):
        return load_policy(str(folder), keep(), suite="libero_spatial", device="cpu", **options)

    return load


@pytest.fixture
def refusal(load):
    def refused(**options):
        with pytest.raises(UserError) as caught:
            load(**options)
        said = str(caught.value)
        assert "\n" not in said
        assert "weights_only" not in said
        return said

    return refused


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_do_not_follow_a_file_that_is_overwritten(folder, load, observe, stored):
    path = folder / "model.safetensors"
    save_file({name: t.to(stored) for name, t in load_file(path).items()}, path)
    policy = load(dtype=str(stored).removeprefix("torch."))
    act = lambda: policy.act(policy.start("open", 0), observe(), np.zeros((1, 7))).actions  # noqa: E731
    before = act()
    with path.open("r+b") as file:  # in place: the file stays the one that was read
        size = path.stat().st_size
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        file.write(b"\1" * (size - 8 - header))
    np.testing.assert_array_equal(act(), before)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict"])
def test_a_wrapped_state_dict_is_told_where_it_is(folder, refusal, key):
    state = torch.load(folder / HEAD, weights_only=True)
    torch.save({key: state, "step": 150000}, folder / HEAD)
    said = refusal()
    assert f"under the key {key} (beside it: step)" in said
    assert "damaged" not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.nn.Linear(3, 3), "torch.nn.modules.linear.Linear, an object"),
        ([torch.zeros(2)], "holds a list"),
        ({"a": 3}, "holds a, a int"),
        ({3: torch.zeros(2)}, "holds 3, a Tensor"),
        ({"a": torch.zeros(2, dtype=torch.int8)}, "holds a in int8"),
        ({"module.a": torch.zeros(2), "a": torch.zeros(2)}, "twice"),
    ],
)
def test_a_part_that_is_no_state_dict(folder, refusal, content, says):
    torch.save(content, folder / HEAD)
    said = refusal()
    assert says in said
    assert HEAD in said


def test_garbage_in_a_part(folder, refusal):
    (folder / HEAD).write_bytes(b"hello world version https")
    assert "damaged" in refusal()


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(folder, refusal, stored):
    name = "projector.fc1.weight"
    edit_tensors(folder / "model.safetensors", lambda t: t.update({name: t[name].to(stored)}))
    said = refusal()
    assert f"{name} is stored as" in said
    assert "quantised" in said


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), "float32"), (float("inf"), "float32"), (7e4, "float16")]
)
@pytest.mark.parametrize("part", ["model", "head"])
def test_values_are_finite_in_the_precision_they_run_in(folder, refusal, value, dtype, part):
    if part == "model":
        name, file = "projector.fc1.bias", "model.safetensors"
        edit_tensors(folder / file, lambda tensors: tensors[name].index_fill_(
            0, torch.tensor([3]), value))  # fmt: skip
    else:
        file = HEAD
        state = torch.load(folder / HEAD, weights_only=True)
        name = next(key for key in state if key.endswith("fc2.bias"))
        state[name] = state[name].float().fill_(value)
        torch.save(state, folder / HEAD)
    said = refusal(dtype=dtype)
    assert name.removeprefix("module.") in said
    assert f"not finite in {dtype}" in said


def test_a_tensor_in_two_shards(golden_checkpoint, tmp_path, keep):
    folder = shutil.copytree(golden_checkpoint, tmp_path / "golden")
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    name, tensor = next(iter(load_file(folder / shards[0]).items()))
    edit_tensors(folder / shards[1], lambda tensors: tensors.update({name: tensor}))
    with pytest.raises(UserError, match="in another file"):
        load_policy(str(folder), keep(), suite="libero_spatial", device="cpu")


@pytest.mark.parametrize("weight_map", [None, {}, {"a": 3}, {"a": "../model.safetensors"}])
def test_an_index_that_names_no_files(golden_checkpoint, tmp_path, keep, weight_map):
    folder = shutil.copytree(golden_checkpoint, tmp_path / "golden")
    edit_json(folder / "model.safetensors.index.json", lambda d: d.update(weight_map=weight_map))
    with pytest.raises(UserError, match=r"weight_map in model\.safetensors\.index\.json"):
        load_policy(str(folder), keep(), suite="libero_spatial", device="cpu")


def large(folder):
    """Make the model 0.4 billion parameters of zeros in bfloat16, which take no disk."""
    from vlaprune_bench.policies.prismatic.model import Prismatic

    def widen(config):
        config["text_config"].update(hidden_size=4096, intermediate_size=11008)
        config["text_config"].update(num_attention_heads=32, num_key_value_heads=32)

    edit_json(folder / "config.json", widen)
    with torch.device("meta"):
        shapes = Prismatic(json.loads((folder / "config.json").read_text()), "sdpa").state_dict()
    header, end = {}, 0
    for name, tensor in shapes.items():
        size = 2 * tensor.numel()
        header[name] = {
            "dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end // 2


def test_weights_are_compared_with_memory_before_they_are_read(folder, refusal, monkeypatch):
    from vlaprune_bench.policies import checkpoint

    def read(*args):
        raise AssertionError("read")

    monkeypatch.setattr(checkpoint, "read_safetensors", read)
    count = large(folder)
    monkeypatch.setattr(device_module, "available_mib", lambda: 3 * count / 2**20)
    said = refusal(dtype="float32")
    assert f"its weights take {count * 4 / 1e9:.1f} GB in float32" in said
    # as stored they would fit: not blown up without a word, nor refused without a way out
    assert f"--dtype bfloat16 takes {count * 2 / 1e9:.1f} GB" in said
    monkeypatch.setattr(device_module, "available_mib", lambda: count / 2**20)
    assert "choose another --device or --dtype" in refusal(dtype="bfloat16")


def test_a_limit_on_the_process_counts_the_file_that_is_mapped(monkeypatch):
    with torch.device("meta"):
        module = torch.nn.Linear(1024, 1024, bias=False)
    place = (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(device_module, "available_mib", lambda: 1000)
    monkeypatch.setattr(device_module, "process_limit_mib", lambda: 5)
    check_room("it is", module, *place, mapped=2**20)
    with pytest.raises(UserError, match=r"0\.0 GB to read them"):
        check_room("it is", module, *place, mapped=2 * 2**20)
    monkeypatch.setattr(device_module, "process_limit_mib", lambda: float("inf"))
    check_room("it is", module, *place, mapped=2**40)
