"""A tiny SmolVLA under training: prefix and action expert, on batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from tiny import flow
from tiny.dropout import Leaving
from tiny.network import (
    ACTION_DIM,
    PROPRIO_DIM,
    Batch,
    Learned,
    Subject,
    auxiliary_head,
    run_stack,
)
from vlaprune_bench.policies.flow.expert_layers import ExpertShape
from vlaprune_bench.policies.flow.inputs import pi_prompt
from vlaprune_bench.policies.flow.model import FlowModel
from vlaprune_bench.policies.flow.sizes import Sizes
from vlaprune_bench.policies.flow.smolvla import SmolVLA
from vlaprune_bench.policies.flow.vision import Connector, SiglipShape
from vlaprune_bench.policies.transformer.cache import LayerCache
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.types import TokenLayout

CHUNK = 8
"""Actions of a call: as many as a demonstration's row has."""
CAMERAS = 2
DRAWS = 3
"""Denoising steps that a sample is trained at: the prefix, which costs most, runs once."""
HEAD_DIM, EXPERT_WIDTH = 32, 96


def sizes_of(vocabulary: int, size: dict[str, int], image: int) -> Sizes:
    """Sizes of the networks; see `TinySmolVLA.config`."""
    width, depth = size["width"], size["depth"]
    heads = width // HEAD_DIM
    tower = size["tower_width"]
    expert = ExpertShape(
        width=EXPERT_WIDTH * width // 128,
        mlp_width=2 * EXPERT_WIDTH * width // 128,
        heads=heads,
        kv_heads=heads,
        head_dim=HEAD_DIM,
        depth=depth,
        every=1,
        norm="llama",
        block="causal",
        cross=frozenset(range(1, depth, 2)),
        action_dim=ACTION_DIM,
        state_dim=PROPRIO_DIM,
        state_width=width,
    )
    patches = (image // size["patch"]) ** 2
    return replace(
        flow.smolvla_sizes(vocabulary),
        vision=SiglipShape(
            tower, size["tower_depth"], tower // 32, 2 * tower, size["patch"], patches
        ),
        side=1,
        width=width,
        depth=depth,
        mlp_width=2 * width,
        heads=heads,
        kv_heads=heads,
        head_dim=HEAD_DIM,
        expert=expert,
    )


class TinySmolVLA(Subject):
    """A SmolVLA."""

    policy = SmolVLA
    data = "lerobot"

    def __init__(self, config: dict[str, Any], attention: str = "sdpa") -> None:
        own = config["training"]
        sizes = sizes_of(own["vocabulary"], own["size"], own["image"])
        super().__init__(config, attention)
        self.flow = FlowModel(sizes, attention)
        self.auxiliary = auxiliary_head(self.stack)

    @property
    def stack(self) -> Stack:  # type: ignore[override]
        return self.flow.stack

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:  # type: ignore[override]
        return (self.flow.eyes.grid,) * CAMERAS

    def slow_modules(self) -> list[nn.Module]:
        """The tower."""
        return [self.flow.eyes.tower]

    def patch_embeddings(self) -> list[nn.Conv2d]:
        """Of the tower."""
        tower: Any = self.flow.eyes.tower
        return [tower.embeddings["patch_embedding"]]

    @classmethod
    def tokenizer(cls) -> Tokenizer:
        """Words of all instructions, as tokens."""
        import make_tiny

        return flow.make_tokenizer(
            {word for text in make_tiny.instructions() for word in text.split()}, bos=False
        )

    @classmethod
    def config(
        cls, tokenizer: Tokenizer, name: str, size: dict[str, int], image: int, suites: list[str]
    ) -> dict[str, Any]:
        """See `Subject.config`."""
        config = flow.make_config("smolvla", name, image)
        return config | {
            "chunk_size": CHUNK,
            "n_action_steps": CHUNK,
            "max_state_dim": PROPRIO_DIM,
            "max_action_dim": ACTION_DIM,
            "vlaprune": {"name": name, "trained": True, "assets": "lite", "suites": suites},
            "training": {"vocabulary": tokenizer.get_vocab_size(), "size": size, "image": image},
        }

    @classmethod
    def prompt(cls, tokenizer: Tokenizer, config: dict[str, Any], instruction: str) -> list[int]:
        """See `Subject.prompt`."""
        return tokenizer.encode(pi_prompt(instruction)).ids

    def initialise(self, seed: int, fixed: Tensor) -> None:
        """See `Subject.initialise`. Embeddings are multiplied by the root of the width."""
        super().initialise(seed, fixed)
        eyes, expert = self.flow.eyes, self.flow.expert
        assert isinstance(eyes.connector, Connector)
        with torch.no_grad():
            self.stack.model.embed_tokens.weight.mul_(0.2)
            eyes.connector.proj.weight.mul_(0.1)
            expert.action_out_proj.weight.mul_(0.3)

    def pixels(self, images_B: Tensor, gain_BN: Tensor, offset_BN: Tensor, dtype: Any) -> Tensor:
        """See `Subject.pixels`; (B, 6, H, W) in [-1, 1], or beyond where brighter."""
        scale, shift = (x[..., None, None, None] for x in (gain_BN / 127.5, 2.0 * offset_BN))
        centred = images_B.to(dtype) - 127.5
        return (centred * scale.to(dtype) + shift.to(dtype)).flatten(1, 2)

    def layout(self, n_prompt: int) -> TokenLayout:
        """Of the prefix."""
        layout = TokenLayout(
            grids=self.grids, n_prompt=n_prompt, order=SmolVLA.order, has_bos=False,
            has_proprio=True, n_denoised=CHUNK,
        )  # fmt: skip
        return replace(layout, n_prefix=layout.proprio.start)

    def forward(
        self,
        pixels_BCHW: Tensor,
        proprio_BP: Tensor,
        prompt_T: Tensor,
        noisy: list[tuple[int, Tensor]],
        leaving: Leaving | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """What `SmolVLA` does at some denoising steps, for samples of one prompt.

        Args:
            pixels_BCHW: in [-1, 1], both cameras.
            proprio_BP: normalised robot state.
            prompt_T: prompt tokens; or (B, T), one prompt a sample, all of one length.
            noisy: numbers of denoising steps and (B, 8, 7) noisy actions there.
            leaving: visual tokens that leave on the way; None: all stay.

        Returns:
            (B, 8, 7) velocities at each, (B, 7 + words) what the auxiliary head says, and (B, V)
            the text-vision scores of `pruning.static` at layer 0.
        """
        stack, expert, batch = self.stack, self.flow.expert, len(pixels_BCHW)
        text_BTD = stack.embed(prompt_T.expand(batch, -1)) * stack.width**0.5
        patches_BVD = self.flow.eyes.patches(pixels_BCHW).to(text_BTD) * stack.width**0.5
        state_BD = expert.state_token(proprio_BP).to(text_BTD)
        sequence_BLD = torch.cat([patches_BVD, text_BTD, state_BD[:, None]], dim=1)
        layout, cache = self.layout(text_BTD.shape[1]), LayerCache()
        hidden_BLD = run_stack(stack, sequence_BLD, layout, leaving, cache)
        starts, valid = [], []
        for layer in expert.reads:
            there_BL = None
            start_B = torch.full((batch,), layout.length)
            if leaving is not None:
                there_BL = leaving.there(layer, layout, layout.length)
                start_B = leaving.positions(layer, layout, layout.length)[:, -1] + 1
            starts.append(start_B)
            valid.append(there_BL)
        keys, values = ([held[j] for j in expert.reads] for held in (cache.keys, cache.values))
        reads = expert.reading(keys, values, starts, valid, CHUNK)
        velocities = [expert.velocity(x_BCA, step, None, reads) for step, x_BCA in noisy]
        told = self.auxiliary(stack.norm(hidden_BLD[:, -1]))
        return velocities, told, self.scores(text_BTD, patches_BVD)

    def learn(self, batch: Batch, leaving: Leaving | None, fixed: Tensor) -> Learned:
        """Squared error of the velocity from noise (t = 1) to the actions (t = 0)."""
        steps = self.flow.sizes.expert.steps
        rng = np.random.default_rng(batch.seed)
        actions_BCA, noisy, wanted = batch.actions_BCA, [], []
        for step in rng.choice(steps, DRAWS, replace=False):
            noise = torch.from_numpy(rng.standard_normal(actions_BCA.shape, dtype=np.float32))
            t = 1.0 - int(step) / steps
            noisy.append((int(step), t * noise + (1.0 - t) * actions_BCA))
            wanted.append(noise - actions_BCA)
        said, told, scores = self(
            batch.pixels_BCHW, batch.proprio_BP, batch.prompt_BT, noisy, leaving
        )
        error = (torch.stack(said) - torch.stack(wanted)).square()
        moved = error[..., :-1][..., ~fixed[:-1]].mean()
        return {"motion": moved, "gripper": error[..., -1].mean()}, told, scores

    def begin(self, folder: Path) -> None:
        """See `Subject.begin`."""
        names = {f"model.{self.flow.sizes.names.published(n)}": n for n in self.flow.state_dict()}
        stored = load_file(folder / "model.safetensors")
        self.flow.load_state_dict({names.get(name, name): v for name, v in stored.items()})

    def export(
        self,
        weights: dict[str, Tensor],
        folder: Path,
        config: dict[str, Any],
        tokenizer: Tokenizer,
        statistics: dict[str, Any],
    ) -> None:
        """See `Subject.export`; LeRobot's layout."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {n.removeprefix("flow."): v for n, v in weights.items() if n.startswith("flow.")}
        names = self.flow.sizes.names
        tensors = {
            f"model.{names.published(n)}": v.detach().to(torch.float16).contiguous()
            for n, v in own.items()
        }
        save_file(tensors, folder / "model.safetensors")
        (one,) = {json.dumps(entry, sort_keys=True) for entry in statistics.values()}
        published = {key: value for key, value in config.items() if key != "training"}
        flow.write_files(
            folder, published, self.flow.sizes.vision.heads, HEAD_DIM, tokenizer, json.loads(one)
        )
