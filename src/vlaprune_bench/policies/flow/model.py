"""The networks of a flow-matching policy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint
from vlaprune_bench.policies.flow.expert import Expert
from vlaprune_bench.policies.flow.sizes import Sizes
from vlaprune_bench.policies.flow.vision import Connector, Eyes, Projector, Siglip
from vlaprune_bench.policies.transformer.gemma import Gemma, gemma_config
from vlaprune_bench.policies.transformer.llama import LanguageModel
from vlaprune_bench.policies.transformer.stack import Stack

Kept = Literal["lerobot", "openpi", "none"]
"""What stays in float32 where the model is in half precision."""


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
