"""Named shapes of the flow-matching policies: real architectures with random weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlaprune_bench.policies.checkpoint import on_meta
from vlaprune_bench.policies.device import check_room
from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint, Names
from vlaprune_bench.policies.flow.expert_layers import ExpertShape
from vlaprune_bench.policies.flow.model import FlowModel
from vlaprune_bench.policies.flow.sizes import PI_NAMES, SMOL_NAMES, Sizes
from vlaprune_bench.policies.flow.vision import SiglipShape
from vlaprune_bench.policies.random_checkpoint import SEED, draw

M = TypeVar("M", bound=nn.Module)

SO400M = SiglipShape(width=1152, depth=27, heads=16, mlp_width=4304, patch=14, patches=256)
BASE = SiglipShape(width=768, depth=12, heads=12, mlp_width=3072, patch=16, patches=1024)
PI0_SIZES = Sizes(
    gemma=True,
    vision=SO400M,
    side=1,
    vocabulary=257152,
    width=2048,
    depth=18,
    mlp_width=16384,
    heads=8,
    kv_heads=1,
    head_dim=256,
    expert=ExpertShape(
        width=1024,
        mlp_width=4096,
        heads=8,
        kv_heads=1,
        head_dim=256,
        depth=18,
        every=1,
        norm="gemma",
        block="state",
        state_width=1024,
    ),
    names=PI_NAMES,
)
PI05_SIZES = replace(
    PI0_SIZES, expert=replace(PI0_SIZES.expert, norm="adaptive", block="all", state_width=0)
)
SMOLVLA_SIZES = Sizes(
    gemma=False,
    vision=BASE,
    side=4,
    vocabulary=49280,
    width=960,
    depth=16,
    mlp_width=2560,
    heads=15,
    kv_heads=5,
    head_dim=64,
    expert=ExpertShape(
        width=480,
        mlp_width=1280,
        heads=15,
        kv_heads=5,
        head_dim=64,
        depth=16,
        every=1,
        norm="llama",
        block="causal",
        cross=frozenset(range(16)),
        state_width=960,
    ),
    names=Names(SMOL_NAMES, PI_NAMES.unused),
)


@dataclass(frozen=True)
class RandomFlow(LeRobotCheckpoint):
    """Stands in for a checkpoint: the same shapes, weights drawn on the device."""

    kind: str = "pi0"
    sizes: Sizes = PI0_SIZES
    words: int = 20
    """Valid tokens of any prompt."""
    length: int | None = 48
    """Tokens it is filled up to; None: it is not."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of config.json that only this kind has."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """As config.json of the published checkpoints for LIBERO."""
        cameras = ["image", "image2"] + ([] if self.kind == "smolvla" else ["empty_camera_0"])
        return {
            "type": self.kind,
            "input_features": {f"observation.images.{c}": {"type": "VISUAL"} for c in cameras},
            "paligemma_variant": "gemma_2b",
            "action_expert_variant": "gemma_300m",
            "chunk_size": 50,
            "n_action_steps": 10,
            **self.extra,
            "vlaprune": {"name": self.source, "trained": False, "assets": "lite"},
        }

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """What no file of the real shapes says, for sizes of other widths."""
        head = {"head_dim": self.sizes.head_dim}
        heads = {"num_attention_heads": self.sizes.vision.heads}
        return {"vision": heads, "text": head, "gemma_2b": head, "gemma_300m": head}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors that a published file would hold."""
        with on_meta():
            model = FlowModel(self.sizes, "sdpa")
        names = self.sizes.names
        return {names.published(n): tuple(t.shape) for n, t in model.state_dict().items()}

    @cached_property
    def hash(self) -> str:
        """sha256 (16 hex digits) over shape and seed."""
        shape = json.dumps([self.config, repr(self.sizes), SEED], sort_keys=True)
        return hashlib.sha256(shape.encode()).hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> Any:
        """Any text becomes the same random tokens."""
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(3, self.sizes.vocabulary, (self.words,), generator=generator).tolist()
        return SimpleNamespace(encode=lambda text: SimpleNamespace(ids=list(ids)))

    def special_token(self, kind: str, default: str) -> int | None:
        """None: the tokens are random."""
        return None

    def step(self, processor: str, registry_name: str) -> tuple[dict[str, Any], str | None]:
        """The tokenizer's step, the only one asked for."""
        padding = "longest" if self.length is None else "max_length"
        return {"max_length": self.length or self.words, "padding": padding}, None

    def feature_statistics(
        self, processor: str, registry_name: str, feature: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Statistics that change nothing."""
        n = 7 if feature == "action" else 8
        norm_map = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        return {"norm_map": norm_map}, {"mean": torch.zeros(n), "std": torch.ones(n)}

    def load(
        self,
        module: M,
        names: Names,
        device: torch.device,
        dtype_of: Callable[[str], torch.dtype],
    ) -> M:
        """Draw the weights of `module` (on the meta device).

        Raises:
            UserError: the device has no room for them.
        """
        dtypes = [dtype_of(name) for name in module.state_dict()]
        usual = max(set(dtypes), key=dtypes.count)
        check_room(f"--shape is {self.source}", module, device, usual)
        return draw(module, device, dtype_of)


PI0 = RandomFlow("pi0", Path())
PI05 = RandomFlow("pi05", Path(), kind="pi05", sizes=PI05_SIZES, words=60, length=200)
SMOLVLA = RandomFlow(
    "smolvla",
    Path(),
    kind="smolvla",
    sizes=SMOLVLA_SIZES,
    length=None,
    extra={"self_attn_every_n_layers": 0, "resize_imgs_with_padding": [512, 512]},
)
"""SmolVLA's file of VLM layers is not known; 16 of 32 is the class default."""
