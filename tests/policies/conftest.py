"""Golden data (see data/golden/README.md) and helpers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.call_data import Inputs
from vlaprune_bench.pruning.base import Pruner, Selection
from vlaprune_bench.types import Observation

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class Keep(Pruner):
    """Keeps given visual tokens before given layers; remembers what it was asked."""

    def __init__(self, kept: dict[int, list[int] | None] | None = None, renumber=False) -> None:
        kept = kept or {}
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "renumber", renumber)

    layers = property(lambda self: tuple(self.kept))
    renumber_positions = property(lambda self: self.renumber)

    def start(self):
        return []

    def select(self, context, memory):
        memory.append(context)
        kept = self.kept[context.layer]
        return None if kept is None else Selection(torch.tensor(kept))


@pytest.fixture
def keep():
    return Keep


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture
def golden_checkpoint() -> Path:
    """The small golden checkpoint."""
    return GOLDEN / "ckpt-oft-tiny"


@pytest.fixture
def run_golden():
    """Runs a policy on one golden input: (policy, tensors of *_forward, number) to Forward.

    The frames a method sees are the pixels, scaled back to 0..255 as if normalised by SigLIP.
    """

    def run(policy, tensors, number, memory=None):
        if memory is None:
            memory = policy.start_with_tokens(tensors[f"{number}.input_ids"][0].tolist(), seed=0)
        pixels = tensors[f"{number}.pixel_values_28"].to(policy.dtype)
        pixels = pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        frames = (pixels[0].unflatten(0, (-1, 6))[:, 3:].float() + 1.0) * 127.5
        proprio = tensors.get(f"{number}.proprio_normalized")
        inputs = Inputs(frames, pixels, None if proprio is None else proprio[0].numpy())
        timer = StageTimer(policy.device)
        with torch.inference_mode():
            return policy.forward(memory, memory.pruner, inputs, np.zeros((1, 7)), timer)

    return run


@pytest.fixture
def forward_tensors(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "oft_forward.safetensors")


@pytest.fixture
def observe():
    """Makes an observation with smooth random frames: (seed, height of the hand) to Observation."""

    def make(seed=0, height=1.0):
        coarse = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        return Observation(
            eef_pos=np.array([-0.1, 0.0, height]),
            eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
            gripper_qpos=np.array([0.03, -0.03]),
            images=coarse.repeat(16, axis=1).repeat(16, axis=2),
        )

    return make
