"""Embedded untrained checkpoints of the flow-matching policies, in LeRobot's published layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from vlaprune_bench.policies.checkpoint import on_meta
from vlaprune_bench.policies.flow.checkpoint import Names
from vlaprune_bench.policies.flow.expert_layers import ExpertShape
from vlaprune_bench.policies.flow.model import FlowModel
from vlaprune_bench.policies.flow.sizes import PI_NAMES, SMOL_NAMES, Sizes
from vlaprune_bench.policies.flow.vision import SiglipShape

SEED = 20261126
DEPTH, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP = 4, 48, 4, 1, 12, 96
STATE_MEAN = [-0.05, 0.03, 0.8, 3.0, -0.15, -0.1, 0.027, -0.027]
STATE_STD = [0.1, 0.15, 0.4, 0.4, 0.9, 0.35, 0.014, 0.014]
ACTION_MEAN = [0.06, 0.09, -0.09, 0.0, 0.005, -0.005, -0.05]
ACTION_STD = [0.33, 0.38, 0.44, 0.04, 0.06, 0.08, 0.99]
"""About those of LIBERO's demonstrations."""
GAINS = {"q_proj.": 2.0, "k_proj.": 2.0, "action_out_proj.": 0.5}
"""Attention sharp enough to tell tokens apart; velocities that leave actions inside their range."""


def make_tokenizer(words: Iterable[str], bos: bool) -> Tokenizer:
    """Words, digits and marks as tokens; BOS in front as PaliGemma has it, or none as SmolVLM2."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    if not bos:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    marks = ["\n", ",", ":", ";", "-", *"0123456789", "Task", "State", "Action"]
    vocabulary = {word: i for i, word in enumerate([*special, *marks, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(Regex("[\n,:;-]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.add_special_tokens(special)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    return tokenizer


def pi_sizes(vocabulary: int, adaptive: bool) -> Sizes:
    """A pi0 or pi0.5 with the real grid, 256 tokens a camera."""
    return Sizes(
        gemma=True,
        vision=SiglipShape(24, 2, 2, 48, 14, 256),
        side=1,
        vocabulary=vocabulary,
        width=WIDTH,
        depth=DEPTH,
        mlp_width=MLP,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        expert=ExpertShape(
            width=32,
            mlp_width=48,
            heads=HEADS,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            depth=DEPTH,
            every=1,
            norm="adaptive" if adaptive else "gemma",
            block="all" if adaptive else "state",
            state_width=0 if adaptive else 32,
        ),
        names=PI_NAMES,
    )


def smolvla_sizes(vocabulary: int) -> Sizes:
    """A SmolVLA with the real grid, 64 tokens a camera, and every second layer cross-attention."""
    return Sizes(
        gemma=False,
        vision=SiglipShape(24, 2, 2, 48, 4, 1024),
        side=4,
        vocabulary=vocabulary,
        width=WIDTH,
        depth=DEPTH,
        mlp_width=MLP,
        heads=HEADS,
        kv_heads=2,
        head_dim=HEAD_DIM,
        expert=ExpertShape(
            width=32,
            mlp_width=48,
            heads=HEADS,
            kv_heads=2,
            head_dim=HEAD_DIM,
            depth=DEPTH,
            every=1,
            norm="llama",
            block="causal",
            cross=frozenset({1, 3}),
            state_width=WIDTH,
        ),
        names=Names(SMOL_NAMES, PI_NAMES.unused),
    )


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], gemma: bool) -> Tensor:
    """One tensor, scaled so that activations neither die out nor blow up on the way."""
    values = rng.standard_normal(shape)
    if name.endswith("bias"):
        values *= 0.02
    elif "norm" in name and "dense" not in name:
        # Gemma's norms scale by 1 + weight
        own = gemma and "layer_norm" not in name and "post_layernorm" not in name
        values = 0.1 * values + (0.0 if own else 1.0)
    elif "embed_tokens" in name or "position_embedding" in name:
        values *= WIDTH**-0.5
    else:
        values /= np.sqrt(np.prod(shape[1:]))
        values *= 0.3 if "dense" in name else 1.0
    values *= next((gain for suffix, gain in GAINS.items() if suffix in name), 1.0)
    return torch.from_numpy(values).to(torch.bfloat16)


def processors_of(kind: str, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """policy_preprocessor.json and policy_postprocessor.json."""
    norm_map = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    tokenizer = {
        "max_length": length,
        "task_key": "task",
        "padding_side": "right",
        "padding": "longest" if kind == "smolvla" else "max_length",
        "truncation": True,
        "tokenizer_name": "none: tokenizer.json lies in the folder",
    }
    pre = [
        {"registry_name": "tokenizer_processor", "config": tokenizer},
        {
            "registry_name": "normalizer_processor",
            "config": {"eps": 1e-8, "norm_map": norm_map},
            "state_file": "policy_preprocessor_step_1_normalizer_processor.safetensors",
        },
    ]
    post = [
        {
            "registry_name": "unnormalizer_processor",
            "config": {"eps": 1e-8, "norm_map": norm_map},
            "state_file": "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        }
    ]
    names = ("policy_preprocessor", "policy_postprocessor")
    made = [{"name": n, "steps": steps} for n, steps in zip(names, (pre, post), strict=True)]
    return made[0], made[1]


def make_config(kind: str, name: str, image: int) -> dict[str, Any]:
    """config.json with the keys of published ones that are read, and one of our own."""
    cameras = ["image", "image2"] + ([] if kind == "smolvla" else ["empty_camera_0"])
    visual = {
        f"observation.images.{camera}": {"type": "VISUAL", "shape": [3, 256, 256]}
        for camera in cameras
    }
    config: dict[str, Any] = {
        "type": kind,
        "input_features": visual | {"observation.state": {"type": "STATE", "shape": [8]}},
        "output_features": {"action": {"type": "ACTION", "shape": [7]}},
        "chunk_size": 10,
        "n_action_steps": 10,
        "max_state_dim": 32,
        "max_action_dim": 32,
        "min_period": 0.004,
        "max_period": 4.0,
        "empty_cameras": 0 if kind == "smolvla" else 1,
        "vlaprune": {"name": name, "trained": False, "assets": "lite"},
    }
    if kind == "smolvla":
        return config | {
            "resize_imgs_with_padding": [image, image],
            "num_steps": 10,
            "attention_mode": "cross_attn",
            "num_expert_layers": -1,
            "num_vlm_layers": 0,
            "self_attn_every_n_layers": 2,
        }
    variants = {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}
    return config | variants | {"num_inference_steps": 10, "image_resolution": [image, image]}


def make(kind: str, folder: Path, words: Iterable[str]) -> None:
    """Write one checkpoint.

    Args:
        kind: pi0, pi05 or smolvla.
        folder: named as the checkpoint is.
        words: of all instructions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(words, bos=kind != "smolvla")
    size = tokenizer.get_vocab_size()
    sizes = smolvla_sizes(size) if kind == "smolvla" else pi_sizes(size, kind == "pi05")
    with on_meta():
        model = FlowModel(sizes, "sdpa")
    rng = np.random.default_rng([SEED, *kind.encode()])
    tensors = {
        f"model.{sizes.names.published(name)}": draw(rng, name, tuple(value.shape), sizes.gemma)
        for name, value in sorted(model.state_dict().items())
    }
    save_file(tensors, folder / "model.safetensors")
    statistics = {
        "observation.state.mean": STATE_MEAN,
        "observation.state.std": STATE_STD,
        "action.mean": ACTION_MEAN,
        "action.std": ACTION_STD,
    }
    config = make_config(kind, folder.name, sizes.vision.image)
    write_files(folder, config, sizes.vision.heads, HEAD_DIM, tokenizer, statistics)


def write_files(
    folder: Path,
    config: dict[str, Any],
    vision_heads: int,
    head_dim: int,
    tokenizer: Tokenizer,
    statistics: dict[str, list[float]],
) -> None:
    """Write what stands beside the weights: config, processors, tokenizer, statistics.

    Args:
        folder: of the checkpoint.
        config: config.json.
        vision_heads: of the tower.
        head_dim: width of a head of the language model and of the expert.
        tokenizer: of the checkpoint.
        statistics: mean and standard deviation, as observation.state.mean and the like.
    """
    kind = config["type"]
    head = {"head_dim": head_dim}
    vision = {"num_attention_heads": vision_heads}
    architecture = {"vision": vision, "text": head, "gemma_2b": head, "gemma_300m": head}
    pre, post = processors_of(kind, 200 if kind == "pi05" else 48)
    tokens = {"bos_token": "<bos>", "pad_token": "<pad>"}
    if kind == "smolvla":
        tokens = {"pad_token": "<|im_end|>"}
    for name, content in (
        ("config", config),
        ("architecture", architecture),
        ("policy_preprocessor", pre),
        ("policy_postprocessor", post),
        ("tokenizer_config", tokens),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    for steps in (pre["steps"], post["steps"]):
        save_file(
            {name: torch.tensor(values) for name, values in statistics.items()},
            folder / steps[-1]["state_file"],
        )
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")
