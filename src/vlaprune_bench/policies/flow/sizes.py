"""Sizes of a flow-matching policy's networks, read off a checkpoint's tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt
from typing import Any

from vlaprune_bench.measure.flops import DecoderShape
from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint, Names
from vlaprune_bench.policies.flow.expert_layers import ExpertShape
from vlaprune_bench.policies.flow.vision import SiglipShape
from vlaprune_bench.types import UserError

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
