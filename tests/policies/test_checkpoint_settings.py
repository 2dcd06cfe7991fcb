"""Settings in a checkpoint's files are read, or must not contradict what is done."""

import shutil

import numpy as np
import pytest
import torch

from tests.policies.checkpoint_edits import edit_json, embedded
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.preprocess import pixel_values
from vlaprune_bench.types import UserError

KEY = "libero_spatial_no_noops"
PREPROCESSOR = {
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, 224, 224], [3, 224, 224]],
    "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
    "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
    "tvf_normalize_params": [
        {
            "inplace": False,
            "mean": [0.484375, 0.455078125, 0.40625],
            "std": [0.228515625, 0.2236328125, 0.224609375],
        },
        {"inplace": False, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ],
}
"""As in the released checkpoints: ImageNet's statistics rounded to bfloat16 are what is applied."""


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(embedded("tiny-untrained"), tmp_path / "ckpt")


def load(folder, keep, **options):
    policy = load_policy(str(folder), keep(), suite="libero_spatial", device="cpu", **options)
    policy.checkpoint.check_for("libero_spatial")
    return policy


@pytest.fixture
def refusal(folder, keep):
    """Changes a JSON file of the folder and returns what is said about it."""

    def change_and_load(name, change):
        edit_json(folder / name, change)
        with pytest.raises(UserError) as caught:
            load(folder, keep)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return change_and_load


def action(change):
    return lambda data: change(data[KEY]["action"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (action(lambda a: a.update(q99=a["q99"][:6])), "q99 is"),
        (action(lambda a: a.update(mask=a["mask"][:6])), "mask is"),
        (action(lambda a: a.update(mask=["false"] * 7)), "mask is"),
        (action(lambda a: a.update(q01=[float("nan")] * 7)), "7 finite numbers"),
        (action(lambda a: a.update(q01=None)), "7 finite numbers"),
        (action(lambda a: a.update(q01=["a"] * 7)), "7 finite numbers"),
        (action(lambda a: a.update(q01=a["q99"], q99=a["q01"])), "above q99"),
        (lambda data: data[KEY].update(action=None), "must be a mapping"),
        (lambda data: data[KEY].update(proprio={"q01": [0.0] * 8}), "has no q99"),
        (lambda data: data[KEY]["proprio"].update(q01=[0.0] * 7), "8 finite numbers"),
        (lambda data: data.update({KEY: [1]}), "must be a mapping"),
        (lambda data: [1], "holds a list"),
        (lambda data: {}, "statistics of: none"),
    ],
)
def test_statistics_are_checked_before_weights(refusal, monkeypatch, change, says):
    def read(*args):
        raise AssertionError("weights were read first")

    monkeypatch.setattr(Checkpoint, "load_model", read)
    assert says in refusal("dataset_statistics.json", change)


def text(**values):
    return lambda config: config["text_config"].update(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: [], "holds a list"),
        (lambda c: c.update(text_config=None), "text_config is None"),
        (lambda c: c.update(model_type="llava"), "model_type is llava"),
        (lambda c: c.update(quantization_config={"load_in_4bit": True}), "quantised"),
        (lambda c: c.update(timm_model_ids="x"), "list of two"),
        (lambda c: c.update(timm_override_act_layers=["quick_gelu", None]), "quick_gelu"),
        (lambda c: c.update(n_action_bins="256"), "n_action_bins is 256"),
        (lambda c: c.update(prompt_suffix_token_id=29871), "prompt_suffix_token_id is 29871"),
        (lambda c: c.update(prompt_suffix_token_id=None), "prompt_suffix_token_id is 29871"),
        (lambda c: c["timm_model_kwargs"][0].update(num_heads=5), "multiple of its num_heads"),
        (lambda c: c["timm_model_kwargs"][0].update(wings=2), "no model that can be built"),
        (lambda c: c.update(vlaprune={"trained": "yes"}), "vlaprune.trained"),
        (lambda c: c.update(vlaprune={"suites": "libero_10"}), "vlaprune.suites is libero_10"),
        (
            lambda c: c.update(vlaprune={"suites": ["libero_11"]}),
            "vlaprune.suites is ['libero_11",
        ),
        (lambda c: c.update(num_images_in_input=3), "num_images_in_input in config.json is 3"),
        (text(model_type="mistral"), "text_config.model_type is mistral"),
        (text(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
        (text(hidden_size="64"), "hidden_size is 64"),
        (text(num_key_value_heads=3), "num_key_value_heads"),
        (text(rope_scaling=[2.0]), "rope_scaling"),
    ],
)
def test_config_is_checked(refusal, change, says):
    assert says in refusal("config.json", change)


def test_rotary_settings_of_newer_files_are_read(folder, keep):
    plain = load(folder, keep).prismatic.language_model.rotary.inv_freq

    def newer(config):
        config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0}

    edit_json(folder / "config.json", newer)
    found = load(folder, keep).prismatic.language_model.rotary.inv_freq
    steps = torch.arange(len(plain)) / len(plain)
    torch.testing.assert_close(found, 500.0**-steps)
    assert not torch.equal(found, plain)


def test_normalisation_of_pixels_is_the_processors(folder, keep, observe):
    plain = load(folder, keep)
    before = plain.checkpoint.hash
    edit_json(folder / "preprocessor_config.json", lambda data: PREPROCESSOR)
    policy = load(folder, keep)
    assert policy.checkpoint.hash != before
    assert policy.normalization.means[0] == (0.484375, 0.455078125, 0.40625)
    frames = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    found = pixel_values(
        frames, torch.float32, policy.normalization.means, policy.normalization.stds
    )
    stored = PREPROCESSOR["tvf_normalize_params"][0]
    mean, std = (torch.tensor(stored[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(found[0, :3], (frames[0] / 255 - mean) / std)
    torch.testing.assert_close(found[0, 3:6], (frames[0] / 255 - 0.5) / 0.5)
    chunks = [p.act(p.start("open", 0), observe(), np.zeros((1, 7))) for p in (plain, policy)]
    assert not np.array_equal(chunks[0].actions, chunks[1].actions)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.update(input_sizes=[[3, 384, 384]] * 2), "images of 224"),
        (lambda p: p.update(tvf_normalize_params=[{"mean": [0.5]}]), "cannot be read"),
        (lambda p: p["tvf_normalize_params"][0].update(std=[0.0, 0.1, 0.1]), "above 0"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(folder, refusal, change, says):
    edit_json(folder / "preprocessor_config.json", lambda data: PREPROCESSOR)
    assert says in refusal("preprocessor_config.json", change)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("generation_config.json", {"repetition_penalty": 1.2}),
        ("generation_config.json", {"num_beams": 4}),
        ("tokenizer_config.json", {"add_eos_token": True}),
        ("tokenizer_config.json", {"add_bos_token": False}),
        ("processor_config.json", {"image_processor": {}}),
    ],
)
def test_settings_that_would_change_actions_are_refused(refusal, name, data):
    said = refusal(name, lambda _: data)
    assert name in said
    assert next(iter(data)) in said


def test_settings_as_published_are_fine(folder, keep):
    for name, data in (
        ("generation_config.json", {"bos_token_id": 1, "pad_token_id": 32000, "do_sample": True}),
        ("tokenizer_config.json", {"add_bos_token": True, "add_eos_token": False}),
        ("processor_config.json", {"processor_class": "PrismaticProcessor"}),
    ):
        edit_json(folder / name, lambda _, data=data: data)
    load(folder, keep)


def test_truncation_and_padding_in_a_tokenizer_change_no_prompt(folder, keep):
    words = "pick up the black bowl between the plate and the ramekin"
    before = load(folder, keep).start(words, 0).prompt_T

    def shorten(data):
        data["truncation"] = {
            "direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        data["padding"] = {
            "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None,
            "pad_id": 3, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    edit_json(folder / "tokenizer.json", shorten)
    assert torch.equal(load(folder, keep).start(words, 0).prompt_T, before)


def stops(data):
    data["post_processor"]["single"].append({"SpecialToken": {"id": "<s>", "type_id": 0}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(post_processor=None), "must begin with BOS"),
        (stops, "no other special token"),
        (lambda data: data["model"]["vocab"].update(zebra=93), "ids up to 93"),
        (lambda data: data.update(model=None), "tokenizer.json is damaged"),
    ],
)
def test_a_tokenizer_must_fit(refusal, change, says):
    assert says in refusal("tokenizer.json", change)


def test_a_tokenizer_cut_short(folder, keep):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged or truncated"):
        load(folder, keep)


def test_unnorm_key_names_statistics(folder, keep):
    edit_json(folder / "dataset_statistics.json", lambda data: {"all_four": data[KEY]})
    with pytest.raises(UserError, match=r"all_four; .*--unnorm-key"):
        load_policy(str(folder), keep(), suite="libero_spatial", device="cpu")
    options = {"suite": "libero_spatial", "device": "cpu"}
    info = load_policy(str(folder), keep(), **options, unnorm_key="all_four").info
    assert (info.unnorm_key, info.options) == ("all_four", '{"unnorm_key": "all_four"}')
    with pytest.raises(UserError, match="--unnorm-key is other"):
        load_policy(str(folder), keep(), **options, unnorm_key="other")
