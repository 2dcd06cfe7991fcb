"""The networks of a flow-matching policy, their sizes read off a checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import nn

from vlaprune_bench.measure.flops import DecoderShape
from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint, Names
from vlaprune_bench.policies.flow.expert import Expert, ExpertShape
from vlaprune_bench.policies.flow.vision import Connector, Eyes, Projector, Siglip, SiglipShape
from vlaprune_bench.policies.transformer.gemma import Gemma, gemma_config
from vlaprune_bench.policies.transformer.llama import LanguageModel
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.types import UserError

Kept = Literal["lerobot", "openpi", "none"]
"""What stays in float32 where the model is in half precision."""

VISION_HEADS = {1152: 16, 768: 12}
"""Heads of SigLIP towers by width: So400m, base."""
HEAD_DIM = {"gemma_2b": 256, "gemma_300m": 256}
"""Width of a head, by the name a config gives of a Gemma."""
SMOL_HEAD_DIM = 64
"""Width of a head of every SmolVLM2's language model."""

PI_NAMES = Names(
    (
        ("eyes.tower.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model."),
        ("eyes.connector.", "paligemma_with_expert.paligemma.model.multi_modal_projector."),
        ("stack.model.", "paligemma_with_expert.paligemma.model.language_model."),
        ("expert.layers.", "paligemma_with_expert.gemma_expert.model.layers."),
        ("expert.norm.", "paligemma_with_expert.gemma_expert.model.norm."),
        ("expert.", ""),
    ),
    re.compile(
        r"paligemma_with_expert\.(?:paligemma\.lm_head|gemma_expert\.lm_head|"
        r"gemma_expert\.model\.embed_tokens)\."
    ),
    (
        "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight",
        "paligemma_with_expert.paligemma.lm_head.weight",
    ),
)
SMOL_NAMES = (
    ("eyes.tower.", "vlm_with_expert.vlm.model.vision_model."),
    ("eyes.connector.", "vlm_with_expert.vlm.model.connector.modality_projection."),
    ("stack.model.", "vlm_with_expert.vlm.model.text_model."),
    ("expert.layers.", "vlm_with_expert.lm_expert.layers."),
    ("expert.norm.", "vlm_with_expert.lm_expert.norm."),
    ("expert.", ""),
)


@dataclass(frozen=True)
class Sizes:
    """Everything that shapes the networks."""

    gemma: bool
    vision: SiglipShape
    side: int
    """Patches along the side of the block that is one token."""
    vocabulary: int
    width: int
    depth: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    expert: ExpertShape
    names: Names


class FlowModel(nn.Module):
    """Vision tower, language model and action expert."""

    def __init__(self, sizes: Sizes, attention: str) -> None:
        """`attention` is "sdpa" or "eager"."""
        super().__init__()
        s = sizes
        self.sizes = s
        tower = Siglip(s.vision, attention)
        connector: Projector | Connector = Projector(s.vision.width, s.width)
        if not s.gemma:
            connector = Connector(s.vision.width, s.width, s.side)
        self.eyes = Eyes(tower, connector)
        self.stack: Stack = _gemma(s, attention) if s.gemma else _llama(s, attention)
        self.expert = Expert(s.expert, attention)

    def dtype_of(self, name: str, dtype: torch.dtype, kept: Kept) -> torch.dtype:
        """Precision of a parameter where the model is in `dtype`.

        In the reference pi0 and pi0.5 keep all norms and what leads into and out of the expert in
        float32, and of the vision tower everything (LeRobot 0.6.1) or the embeddings alone (openpi,
        LeRobot 0.4.4); SmolVLA everything but the VLM.
        """
        if dtype == torch.float32 or kept == "none":
            return dtype
        part = name.partition(".")[0]
        if not self.sizes.gemma:
            return torch.float32 if part == "expert" else dtype
        if part == "eyes":
            whole = kept == "lerobot" or ".embeddings." in name
            return torch.float32 if whole else dtype
        inside = name.startswith(("stack.", "expert.layers.")) and "norm" not in name
        return dtype if inside else torch.float32


def _gemma(s: Sizes, attention: str) -> Stack:
    config = gemma_config(
        vocab_size=s.vocabulary,
        width=s.width,
        depth=s.depth,
        mlp_width=s.mlp_width,
        heads=s.heads,
        kv_heads=s.kv_heads,
        head_dim=s.head_dim,
    )
    return Gemma(config, attention, "all")


def _llama(s: Sizes, attention: str) -> Stack:
    config = {
        "vocab_size": s.vocabulary,
        "hidden_size": s.width,
        "num_hidden_layers": s.depth,
        "intermediate_size": s.mlp_width,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "rms_norm_eps": 1e-5,
        # not the VLM's own 100000: SmolVLA rotates by the same base as its expert
        "rope_theta": 10000.0,
    }
    # the state behind images and text is seen by itself alone
    return LanguageModel(config, attention, sees="prefix")


def _tower(c: LeRobotCheckpoint, prefix: str) -> SiglipShape:
    width, _, patch, _ = c.shape(f"{prefix}embeddings.patch_embedding.weight")
    heads = c.architecture.get("vision", {}).get("num_attention_heads") or VISION_HEADS.get(width)
    if not heads or width % heads:
        raise UserError(
            f"checkpoint {c.source}: the vision tower is {width} wide; known are SigLIP towers of "
            f"{' and '.join(map(str, VISION_HEADS))}."
        )
    patches = c.shape(f"{prefix}embeddings.position_embedding.weight")[0]
    if isqrt(patches) ** 2 != patches:
        raise UserError(
            f"checkpoint {c.source}: the vision tower has {patches} patches; they must be a square."
        )
    return SiglipShape(
        width=width,
        depth=c.count(re.escape(prefix) + r"encoder\.layers\.(\d+)\."),
        heads=heads,
        mlp_width=c.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        patch=patch,
        patches=patches,
    )


def _decoder(c: LeRobotCheckpoint, prefix: str, head_dim: int) -> tuple[int, DecoderShape]:
    """Layers stored and their sizes."""
    query, width = c.shape(f"{prefix}layers.0.self_attn.q_proj.weight")
    kv = c.shape(f"{prefix}layers.0.self_attn.k_proj.weight")[0]
    mlp = c.shape(f"{prefix}layers.0.mlp.gate_proj.weight")[0]
    if query % head_dim or kv % head_dim:
        raise UserError(
            f"checkpoint {c.source}: {prefix}layers have queries of {query} and keys of {kv}; they "
            f"must be multiples of {head_dim}, the width of a head."
        )
    depth = c.count(re.escape(prefix) + r"layers\.(\d+)\.")
    return depth, DecoderShape(width, mlp, query, kv)


def _variant(c: LeRobotCheckpoint, key: str) -> int:
    """Width of a head of the Gemma that the config names."""
    name = c.config.get(key)
    own = c.architecture.get(str(name), {}).get("head_dim")
    if not own and name not in HEAD_DIM:
        raise UserError(
            f"checkpoint {c.source}: {key} in config.json is {name}; known are "
            f"{' and '.join(HEAD_DIM)}."
        )
    return int(own or HEAD_DIM[str(name)])


def _flow_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "action_dim": int(config.get("max_action_dim", 32)),
        "state_dim": int(config.get("max_state_dim", 32)),
        "periods": (float(config.get("min_period", 4e-3)), float(config.get("max_period", 4.0))),
    }


def pi_sizes(c: LeRobotCheckpoint, adaptive: bool) -> Sizes:
    """Sizes of a pi0 (or, `adaptive`, a pi0.5).

    Raises:
        UserError: the files do not say them.
    """
    base = "paligemma_with_expert."
    text, expert = f"{base}paligemma.model.language_model.", f"{base}gemma_expert.model."
    head_dim = _variant(c, "paligemma_variant")
    if _variant(c, "action_expert_variant") != head_dim:
        raise UserError(
            f"checkpoint {c.source}: paligemma_variant and action_expert_variant in config.json "
            "must have heads of one width."
        )
    depth, lm = _decoder(c, text, head_dim)
    expert_depth, e = _decoder(c, expert, head_dim)
    if (expert_depth, e.query_width, e.kv_width) != (depth, lm.query_width, lm.kv_width):
        raise UserError(
            f"checkpoint {c.source}: its expert has {expert_depth} layers with queries of "
            f"{e.query_width}; the language model's {depth} layers have {lm.query_width}."
        )
    heads, kv_heads = lm.query_width // head_dim, lm.kv_width // head_dim
    embedding = next(name for name in PI_NAMES.tied if name in c.shapes or name == PI_NAMES.tied[1])
    return Sizes(
        gemma=True,
        vision=_tower(c, f"{base}paligemma.model.vision_tower.vision_model."),
        side=1,
        vocabulary=c.shape(embedding)[0],
        width=lm.width,
        depth=depth,
        mlp_width=lm.mlp_width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        expert=ExpertShape(
            width=e.width,
            mlp_width=e.mlp_width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            depth=depth,
            every=1,
            norm="adaptive" if adaptive else "gemma",
            block="all" if adaptive else "state",
            state_width=0 if adaptive else e.width,
            steps=int(c.config.get("num_inference_steps", 10)),
            **_flow_options(c.config),
        ),
        names=PI_NAMES,
    )


def smolvla_sizes(c: LeRobotCheckpoint) -> Sizes:
    """Sizes of a SmolVLA.

    Raises:
        UserError: the files do not say them, or ask for what is not supported.
    """
    for key in ("add_image_special_tokens", "prefix_length"):
        value = c.config.get(key, 0)
        if value and (key != "prefix_length" or value > 0):
            raise UserError(
                f"checkpoint {c.source}: {key} in config.json is {value}; supported is 0 or false."
            )
    if c.config.get("attention_mode", "cross_attn") != "cross_attn":
        raise UserError(
            f"checkpoint {c.source}: attention_mode in config.json is "
            f"{c.config['attention_mode']}; supported is cross_attn."
        )
    vlm, expert = "vlm_with_expert.vlm.model.", "vlm_with_expert.lm_expert."
    head_dim = int(c.architecture.get("text", {}).get("head_dim", SMOL_HEAD_DIM))
    stored, lm = _decoder(c, f"{vlm}text_model.", head_dim)
    depth = int(c.config.get("num_vlm_layers", 0))
    depth = depth if depth > 0 else stored
    expert_depth, e = _decoder(c, expert, head_dim)
    if depth % expert_depth:
        raise UserError(
            f"checkpoint {c.source}: its expert has {expert_depth} layers; they must divide the "
            f"language model's {depth}."
        )
    every, own = depth // expert_depth, int(c.config.get("self_attn_every_n_layers", 0))
    cross = frozenset(j for j in range(expert_depth) if own <= 0 or (j * every) % own)
    vision = _tower(c, f"{vlm}vision_model.")
    width, values = c.shape(f"{vlm}connector.modality_projection.proj.weight")
    left_out = "|".join(str(k) for k in range(depth, stored)) or "none"
    return Sizes(
        gemma=False,
        vision=vision,
        side=isqrt(values // vision.width),
        vocabulary=c.shape(f"{vlm}text_model.embed_tokens.weight")[0],
        width=width,
        depth=depth,
        mlp_width=lm.mlp_width,
        heads=lm.query_width // head_dim,
        kv_heads=lm.kv_width // head_dim,
        head_dim=head_dim,
        expert=ExpertShape(
            width=e.width,
            mlp_width=e.mlp_width,
            heads=e.query_width // head_dim,
            kv_heads=e.kv_width // head_dim,
            head_dim=head_dim,
            depth=expert_depth,
            every=every,
            norm="llama",
            block="causal",
            cross=cross,
            state_width=width,
            steps=int(c.config.get("num_steps", 10)),
            **_flow_options(c.config),
        ),
        names=Names(
            SMOL_NAMES,
            re.compile(
                r"vlm_with_expert\.(?:vlm\.lm_head\.|lm_expert\.embed_tokens\.|"
                rf"vlm\.model\.text_model\.layers\.(?:{left_out})\.)"
            ),
        ),
    )


def load_model(
    checkpoint: LeRobotCheckpoint,
    model: FlowModel,
    device: torch.device,
    dtype: torch.dtype,
    kept: Kept,
) -> FlowModel:
    """Fill the networks (on the meta device) with a checkpoint's tensors."""
    return checkpoint.load(
        model, model.sizes.names, device, lambda name: model.dtype_of(name, dtype, kept)
    )
