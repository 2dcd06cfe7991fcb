"""What a pass through the networks takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vlaprune_bench.policies.prismatic.prefill import Prefill
from vlaprune_bench.policies.prismatic.scoring import CallDecoder


@dataclass
class Inputs:
    """What a call feeds to the networks, beside the prompt."""

    frames_NCHW: Tensor
    """(cameras, 3, size, size) float32, 0 to 255."""
    pixels_1CHW: Tensor
    """The frames as `pixel_values` gives them."""
    proprio: np.ndarray | None = None
    """(8,) normalised robot state, where the policy takes one."""


@dataclass
class Prediction:
    """What came after the prefill."""

    actions: np.ndarray
    """(chunk, action_dim) float64, normalised; NaN where the network gave no finite number."""
    hidden_BAD: Tensor
    """(1, action tokens, width): the states that predict the actions."""
    head_macs: int
    """Of the action head or the token logits."""
    tokens_A: Tensor | None = None
    """(action tokens,) int64 predicted ids, where actions are tokens."""


@dataclass
class Forward:
    """What one pass through the networks gave."""

    patches_BVD: Tensor
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
