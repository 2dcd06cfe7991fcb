"""Named shapes: real architectures with random weights, made where they run, from no file.

Speed and FLOPs of a model follow from its shape; what its weights are changes neither. So a 7B
model can be measured without its 15 GB download.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.device import check_room
from vlaprune_bench.policies.prismatic.vision import TOWERS
from vlaprune_bench.policies.settings import Normalization
from vlaprune_bench.policies.weights import ready

M = TypeVar("M", bound=nn.Module)
SEED = 0
PROMPT_TOKENS = 35
"""Tokens of any prompt. With OpenVLA-OFT's 512 patches, proprio, 56 placeholders and stop that is
a sequence of 605 (BOS among the 35), the length that papers on pruning count FLOPs for."""
LLAMA_2_7B = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
STATISTICS = {
    "action": {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]},
    "proprio": {"q01": [-1.0] * 8, "q99": [1.0] * 8},
}


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """Stands in for a checkpoint: the same shapes, weights drawn on the device.

    The same seed gives the same weights on every device of a kind.
    """

    text_config: dict[str, Any] = field(default_factory=lambda: dict(LLAMA_2_7B))
    towers: dict[str, Any] = field(default_factory=dict)
    """Changes to both vision towers (see `vision.ViTConfig`)."""
    parts: tuple[str, ...] = ()
    """What stands beside the model: action_head, proprio_projector."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """As config.json of the published checkpoints."""
        return {
            "use_fused_vision_backbone": True,
            "timm_model_ids": list(TOWERS),
            "timm_model_kwargs": [self.towers] * 2,
            "image_sizes": [224, 224],
            "text_config": self.text_config,
            "prompt_suffix_token_id": self._last_word,
            "vlaprune": {"name": self.source, "trained": False, "assets": "lite"},
        }

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Ranges of one made-up dataset."""
        return {"random": STATISTICS}

    def normalization(self, size: int) -> Normalization:
        """The published one."""
        return Normalization()

    @property
    def has_oft_code(self) -> bool:
        """No file comes with a shape."""
        return False

    @cached_property
    def hash(self) -> str:
        """sha256 (16 hex digits) over shape and seed."""
        shape = json.dumps([self.config, self.parts, SEED], sort_keys=True)
        return hashlib.sha256(shape.encode()).hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> Any:
        """Any text becomes BOS and the same random tokens; the policy adds the suffix."""
        n = PROMPT_TOKENS - 2
        draw = torch.randint(3, self._last_word, (n,), generator=_generator("cpu"))
        return SimpleNamespace(encode=lambda text: SimpleNamespace(ids=[1, *draw.tolist()]))

    @property
    def _last_word(self) -> int:
        """Llama 2's lone space, where the vocabulary goes so far."""
        return min(29871, self.text_config["vocab_size"] - 1)

    def load_model(
        self, module: M, unused: re.Pattern[str], device: torch.device, dtype: torch.dtype
    ) -> M:
        """Draw the weights of `module` (on the meta device).

        Raises:
            UserError: the device has no room for them.
        """
        check_room(f"--shape is {self.source}", module, device, dtype)
        return draw(module, device, lambda _: dtype)

    def has_part(self, stem: str) -> bool:
        """Whether the shape has that part."""
        return stem in self.parts

    def part_step(self, stem: str) -> str | None:
        """Nothing was trained."""
        return None

    def load_part(self, module: M, stem: str, device: torch.device, dtype: torch.dtype) -> M:
        """Draw the weights of `module` (on the meta device).

        Raises:
            UserError: the device has no room for them.
        """
        check_room(f"--shape is {self.source}", module, device, dtype)
        return draw(module, device, lambda _: dtype)


OFT_PARTS = ("action_head", "proprio_projector")
OPENVLA_7B = RandomCheckpoint("openvla-7b", Path())
"""OpenVLA (arXiv 2406.09246)."""
OPENVLA_OFT_7B = RandomCheckpoint("openvla-oft-7b", Path(), parts=OFT_PARTS)
"""OpenVLA-OFT with the L1 head (arXiv 2502.19645)."""


def draw(module: M, device: torch.device, dtype_of: Callable[[str], torch.dtype]) -> M:
    """Give a module on the meta device random weights that keep activations near 1.

    Args:
        module: the module.
        device: where the weights are drawn.
        dtype_of: precision of a parameter, by its name.
    """
    generator = _generator(device)
    state = {}
    for name, meta in module.state_dict().items():
        values = torch.empty(meta.shape, dtype=dtype_of(name), device=device)
        scale, shift = _spread(name, meta)
        # in place, in the target precision: no second copy of a large tensor
        state[name] = values.normal_(shift, scale, generator=generator)
    return ready(module, state, device)


def _spread(name: str, tensor: Tensor) -> tuple[float, float]:
    """Standard deviation and mean of a parameter's values."""
    if name.endswith("bias"):
        return 0.02, 0.0
    if tensor.dim() == 1:  # norms and layer scales
        return 0.1, 1.0
    if name.endswith(("_token", "pos_embed", "embed_tokens.weight", "embedding.weight")):
        return 1.0, 0.0
    return 1 / math.sqrt(math.prod(tensor.shape[1:])), 0.0


def _generator(device: str | torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)
