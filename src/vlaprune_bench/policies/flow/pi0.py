"""pi0: the state is a token of the action expert, prefix attention is bidirectional.

Source: arXiv 2410.24164; LeRobot's port.
"""

from __future__ import annotations

import numpy as np

from vlaprune_bench.policies.flow.inputs import pi_prompt
from vlaprune_bench.policies.flow.policy import FlowVLA
from vlaprune_bench.policies.flow.sizes import Sizes, pi_sizes


class Pi0(FlowVLA):
    """pi0."""

    name = "pi0"
    pad = "centre"
    text_length = 48
    bos, pad_token = "<bos>", "<pad>"
    order = ("visual", "empty", "bos", "text", "padding")
    scales_images = False

    def _sizes(self) -> Sizes:
        return pi_sizes(self.files, adaptive=False)

    def _text(self, instruction: str, state: np.ndarray) -> str:
        return pi_prompt(instruction)
