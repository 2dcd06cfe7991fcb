"""What a pass through the networks takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vlaprune_bench.policies.transformer.prefill import Prefill
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.types import TokenLayout


@dataclass
class Inputs:
    """What a call feeds to the networks, beside the prompt."""

    frames_NCHW: Tensor
    """(cameras, 3, size, size) float32, 0 to 255."""
    pixels_1CHW: Tensor
    """The frames as the vision towers take them, cameras along the channels."""
    proprio: np.ndarray | None = None
    """(8,) normalised robot state, where the policy takes one."""
    empty_tokens_dropped: int = 0
    """Masked tokens, of cameras the checkpoint declares empty, that are left out."""


@dataclass
class Prefix:
    """The sequence that the language model starts with."""

    layout: TokenLayout
    sequence_BLD: Tensor
    """(1, layout.length, width) input embeddings."""
    patches_VD: Tensor
    """(V, width) projected patch embeddings of the cameras that are there."""
    prompt_TD: Tensor
    """(T, width) input embeddings of the prompt."""
    fused_patches: int = 0
    """Outputs of vision towers that are an earlier call's."""


@dataclass
class Prediction:
    """What came after the prefill."""

    actions: np.ndarray
    """(chunk, action_dim) float64, normalised; NaN where the network gave no finite number."""
    hidden_BAD: Tensor
    """(1, action tokens, width): the states that predict the actions."""
    macs: int
    """Of the action head, the token logits or the denoising steps."""
    tokens_A: Tensor | None = None
    """(action tokens,) int64 predicted ids, where actions are tokens."""
    expert_keys: list[int] | None = None
    """Keys of the prefix that each layer of an action expert reads."""


@dataclass
class Forward:
    """What one pass through the networks gave."""

    prefix: Prefix
    prefill: Prefill
    prediction: Prediction
    decoder: CallDecoder


@dataclass
class Acted:
    """A call whose actions are known."""

    inputs: Inputs
    forward: Forward
    actions: np.ndarray
    """(chunk, 7) float64, ready for the environment."""
