"""The parts of a Prismatic VLA that one safetensors checkpoint holds."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from vlaprune_bench.policies.prismatic.heads import Projector
from vlaprune_bench.policies.prismatic.vision import VisionBackbone, tower_configs
from vlaprune_bench.policies.transformer.llama import LanguageModel
from vlaprune_bench.policies.transformer.stack import Sees
from vlaprune_bench.types import UserError


class Prismatic(nn.Module):
    """Vision towers, projector and language model, under their published parameter names."""

    def __init__(
        self,
        config: dict[str, Any],
        attention: str,
        *,
        sees: Sees = "all",
        logits: bool = False,
    ) -> None:
        """
        Args:
            config: config.json.
            attention: "sdpa" or "eager".
            sees: which tokens a token of the language model may see.
            logits: whether the language model predicts tokens.
        """
        super().__init__()
        if not config.get("use_fused_vision_backbone", True):
            raise UserError(
                "config.json: use_fused_vision_backbone is false; supported is the fused "
                "DINOv2 + SigLIP backbone of OpenVLA."
            )
        self.vision_backbone = VisionBackbone(config, attention)
        self.language_model = LanguageModel(
            config.get("text_config", {}), attention, sees=sees, logits=logits
        )
        self.projector = Projector(self.vision_backbone.width, self.language_model.width)

    def patches(self, pixels_BCHW: Tensor) -> Tensor:
        """Projected patch embeddings, (B, V, width), of all cameras."""
        return self.project(self.features(pixels_BCHW))

    @property
    def tower_widths(self) -> tuple[int, ...]:
        """Width of DINOv2's outputs and of SigLIP's."""
        return self.vision_backbone.tower_widths

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Outputs of both towers, (B, V, width), channels side by side."""
        return self.vision_backbone(pixels_BCHW)

    def project(self, features_BVC: Tensor) -> Tensor:
        """Patch embeddings of the towers' outputs."""
        return self.projector(features_BVC)

    def patch_macs(self, cameras: int) -> int:
        """MAC of `patches` for one sample."""
        rows, columns = self.vision_backbone.grid
        return self.vision_backbone.macs(cameras) + self.projector.macs(cameras * rows * columns)


def unused_tensors(config: dict[str, Any], logits: bool = False) -> re.Pattern[str]:
    """Names a checkpoint may hold that no computation here reads.

    Patch features leave before the last block and the final norm; SigLIP's pooling head and,
    unless `logits`, the token logits serve other uses of the model.
    """
    dino, siglip = (c.depth - 1 for c in tower_configs(config))
    return re.compile(
        r"vision_backbone\.(?:"
        rf"(?:fused_)?featurizer\.(?:norm|attn_pool)\.|"
        rf"featurizer\.blocks\.{dino}\.|fused_featurizer\.blocks\.{siglip}\.)"
        + ("" if logits else r"|language_model\.lm_head\.")
    )
