"""Make the embedded untrained checkpoints: the published layouts at a ten-thousandth of the size.

    python scripts/make_tiny.py            # rewrites those in src/vlaprune_bench/checkpoints
    python scripts/make_tiny.py /some/dir

`tiny-untrained` is an OpenVLA-OFT, `tiny-openvla-untrained` an OpenVLA with the same weights where
both have them; `tiny-pi0-untrained` and the like are in `tiny.flow`. Nothing in them is trained:
they run every code path on any machine, and their success rates mean nothing. Weights come from a
seeded numpy generator, so they do not depend on the version of torch. Needs the libero package, for
the words of its instructions.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import flow
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from vlaprune_bench.policies.checkpoint import TINY, TINY_FLOW, TINY_OPENVLA, Checkpoint, on_meta
from vlaprune_bench.policies.prismatic.heads import L1Head, ProprioProjector
from vlaprune_bench.policies.prismatic.inputs import PROMPT
from vlaprune_bench.policies.prismatic.model import Prismatic
from vlaprune_bench.policies.prismatic.vision import TOWERS
from vlaprune_bench.types import SUITES

SEED = 20250711
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<empty>"]
"""Ids 1 and 2 are BOS and stop, as in Llama 2; <empty> stands for its lone space."""
WIDTH = 96
TOWER = {"depth": 3, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.0}

BINS = 256
"""Action tokens of the OpenVLA; they follow the words."""

GAINS = {"self_attn.q_proj.": 2.0, "self_attn.k_proj.": 2.0, "action_head.model.fc2.": 0.25}
"""Attention sharp enough to tell tokens apart, so that actions follow image, state and text; and
actions that stay well inside their range."""


def instructions() -> Iterator[str]:
    """Every instruction of the five LIBERO suites.

    The task map is loaded as a lone file: importing libero asks a question on first use.
    """
    package = importlib.util.find_spec("libero")
    if package is None or not package.submodule_search_locations:
        sys.exit("the libero package is needed for the words of its instructions")
    root = Path(package.submodule_search_locations[0])
    path = root / "libero" / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("libero_suite_task_map", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for suite in SUITES:
        for task in module.libero_task_map[suite]:
            yield re.sub(r"^[A-Z_]+_SCENE\d+_", "", task).replace("_", " ")


def make_tokenizer() -> Tokenizer:
    """One token a word: enough to tell instructions apart, small enough to ship."""
    splitter = pre_tokenizers.Whitespace()
    texts = [PROMPT.format(text.lower()) for text in instructions()]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(SPECIAL + sorted(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


def statistics() -> dict[str, dict]:
    """Ranges of actions and proprio about as LIBERO's demonstrations have them, for all suites."""
    action = {
        "q01": [-0.75, -0.8, -0.94, -0.11, -0.2, -0.18, 0.0],
        "q99": [0.94, 0.85, 0.94, 0.13, 0.18, 0.15, 1.0],
        "mask": [True] * 6 + [False],
    }
    proprio = {
        "q01": [-0.4, -0.3, 0.0, 1.5, -2.7, -1.1, 0.002, -0.04],
        "q99": [0.14, 0.33, 1.3, 3.6, 2.5, 0.8, 0.04, -0.002],
    }
    return {f"{suite}_no_noops": {"action": action, "proprio": proprio} for suite in SUITES}


def make_config(tokenizer: Tokenizer) -> dict:
    """config.json, with the keys published ones have and three of our own."""
    return {
        "model_type": "openvla",
        "arch_specifier": "no-align+gelu-mlp",
        "use_fused_vision_backbone": True,
        "timm_model_ids": list(TOWERS),
        "timm_model_kwargs": [TOWER, TOWER],
        "image_sizes": [224, 224],
        "text_config": {
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "eos_token_id": tokenizer.token_to_id("</s>"),
        },
        "prompt_suffix_token_id": tokenizer.token_to_id("<empty>"),
        "vlaprune": {"name": TINY, "trained": False, "assets": "lite"},
    }


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor, scaled so that activations neither die out nor blow up on the way."""
    values = rng.standard_normal(shape)
    if name.endswith("bias"):
        values *= 0.02
    elif "norm" in name or name.endswith(("scale_factor", "ffn.0.weight")):
        values = 1.0 + 0.1 * values
    elif not name.endswith(("_token", "pos_embed", "embed_tokens.weight")):
        values /= np.sqrt(np.prod(shape[1:]))
    values *= next((gain for suffix, gain in GAINS.items() if suffix in name), 1.0)
    return torch.from_numpy(values).to(torch.bfloat16)


def make_oft(folder: Path) -> None:
    """Write tiny-untrained."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, stats = make_tokenizer(), statistics()
    config = make_config(tokenizer)
    with on_meta():
        parts = {
            "model": Prismatic(config, "sdpa"),
            "proprio_projector": ProprioProjector(8, WIDTH),
            "action_head": L1Head(WIDTH, 7),
        }
    rng = np.random.default_rng(SEED)
    for part, module in parts.items():
        tensors = {
            name: draw(rng, f"{part}.{name}", tuple(value.shape))
            for name, value in sorted(module.state_dict().items())
        }
        if part == "model":
            save_file(tensors, folder / "model.safetensors")
        else:
            tensors = {f"module.{name}": value for name, value in tensors.items()}
            torch.save(tensors, folder / f"{part}--0_checkpoint.pt")
    write_json(folder / "config.json", config)
    write_json(folder / "dataset_statistics.json", stats)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")


def make_openvla(oft: Path, folder: Path) -> None:
    """Write tiny-openvla-untrained, from the files of tiny-untrained."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dataset_statistics.json", "tokenizer.json"):
        shutil.copyfile(oft / name, folder / name)
    config = json.loads((oft / "config.json").read_text())
    words = config["text_config"]["vocab_size"]
    config = with_action_tokens(config)
    config["vlaprune"]["name"] = TINY_OPENVLA
    write_json(folder / "config.json", config)

    rng = np.random.default_rng(SEED + 1)
    tensors = load_file(oft / "model.safetensors")
    embedding = "language_model.model.embed_tokens.weight"
    added = draw(rng, embedding, (BINS, WIDTH))
    tensors[embedding] = torch.cat([tensors[embedding], added])
    # the best action token is the angle of the state in a plane: it follows the state smoothly,
    # and words, which are no actions, stay below
    angles = 2.0 * np.pi * np.arange(BINS) / BINS
    plane = rng.standard_normal((2, WIDTH)) / np.sqrt(WIDTH)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane
    rows = np.concatenate([np.zeros((words, WIDTH)), rows])
    tensors["language_model.lm_head.weight"] = torch.from_numpy(rows).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")


def with_action_tokens(config: dict) -> dict:
    """config.json of an OpenVLA-OFT as that of an OpenVLA."""
    text = config["text_config"]
    # no rows beyond the vocabulary
    more = {"text_config": text | {"vocab_size": text["vocab_size"] + BINS}}
    return config | more | {"pad_to_multiple_of": 0}


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(root: Path) -> None:
    """Write all into folders of `root`."""
    make_oft(root / TINY)
    make_openvla(root / TINY, root / TINY_OPENVLA)
    words = {word for text in instructions() for word in text.split()}
    for kind, name in TINY_FLOW.items():
        flow.make(kind, root / name, words)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Checkpoint.find(TINY).folder.parent)
