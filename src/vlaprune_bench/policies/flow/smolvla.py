"""SmolVLA: the state is the prefix's last token, the expert reads the VLM by cross-attention.

Source: arXiv 2506.01844; LeRobot's port.
"""

from __future__ import annotations

import numpy as np

from vlaprune_bench.policies.flow.inputs import pi_prompt
from vlaprune_bench.policies.flow.policy import FlowVLA
from vlaprune_bench.policies.flow.sizes import Sizes, smolvla_sizes
from vlaprune_bench.types import UserError


class SmolVLA(FlowVLA):
    """SmolVLA."""

    name = "smolvla"
    pad = "top-left"
    text_length = 48
    bos, pad_token = None, "<|im_end|>"
    order = ("visual", "empty", "text", "padding", "proprio")
    scales_images = True

    def _sizes(self) -> Sizes:
        sizes = smolvla_sizes(self.files)
        wanted = self.files.config.get("resize_imgs_with_padding", [512, 512])
        if wanted != [sizes.vision.image] * 2:
            raise UserError(
                f"checkpoint {self.files.source}: resize_imgs_with_padding in config.json is "
                f"{wanted}; its vision tower takes {sizes.vision.image} x {sizes.vision.image}."
            )
        return sizes

    def _text(self, instruction: str, state: np.ndarray) -> str:
        return pi_prompt(instruction)

    def masked_cameras(self, missing: int) -> int:
        """Cameras that stand masked behind the others: at most as many as the config allows."""
        return min(missing, int(self.files.config.get("empty_cameras", 0)))
