"""What the policies are told: images, state, prompt and noise, in LeRobot's or openpi's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from vlaprune_bench.policies.flow.checkpoint import LeRobotCheckpoint
from vlaprune_bench.types import EvalProtocol, Observation, UserError

Pad = Literal["centre", "top-left"]
"""Where an image that is not square is padded."""
NEEDS = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Statistics that each of LeRobot's normalisation modes reads."""
BINS = 256
"""Of a state number in pi0.5's prompt."""


def prepare_images(
    frames: np.ndarray, protocol: EvalProtocol, size: int, padding: Pad, device: torch.device
) -> Tensor:
    """Frames as the vision tower's image, before the step to [-1, 1].

    Args:
        frames: (n, H, W, 3) uint8, upright.
        protocol: says whether the resize is antialiased (Pillow's, on whole numbers) or not.
        size: side of the image, pixels.
        padding: where black is added to an image that is not square.
        device: where the resizing runs.

    Returns:
        (n, 3, size, size) float32 on `device`, 0 to 1.
    """
    height, width = frames.shape[1:3]
    scale = max(height, width) / size
    inner = (int(height / scale), int(width / scale))
    if protocol.antialias:
        frames = np.stack([_pillow(frame, inner) for frame in frames])
    x_NCHW = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).contiguous().float() / 255.0
    if not protocol.antialias:
        x_NCHW = interpolate(x_NCHW, inner, mode="bilinear", align_corners=False).clamp(0.0, 1.0)
    rows, columns = size - inner[0], size - inner[1]
    top, left = (rows, columns) if padding == "top-left" else (rows // 2, columns // 2)
    return pad(x_NCHW, (left, columns - left, top, rows - top))


def _pillow(frame: np.ndarray, inner: tuple[int, int]) -> np.ndarray:
    """Resize with antialias, on whole numbers; what has the size already is left alone."""
    if frame.shape[:2] == inner:
        return frame
    return np.asarray(Image.fromarray(frame).resize(inner[::-1], Image.Resampling.BILINEAR))


def robot_state(observation: Observation, dtype: str) -> np.ndarray:
    """End-effector position (m), its axis-angle (rad), two gripper joints (m); (8,) of `dtype`.

    The angle is 2 acos(w), up to 2 pi: q and -q are one rotation but give two vectors, and the
    model was trained on what the simulator's quaternion gives. LeRobot computes in float32.
    """
    quat = observation.eef_quat.astype(dtype)
    w = np.clip(quat[3], -1.0, 1.0)
    root = np.sqrt(np.maximum(1.0 - w * w, 0.0))
    angle = np.zeros(3, dtype)
    if root > (0.0 if dtype == "float64" else 1e-10):
        angle = quat[:3] / root * (2.0 * np.arccos(w))
    parts = [observation.eef_pos.astype(dtype), angle, observation.gripper_qpos.astype(dtype)]
    return np.concatenate(parts).astype(dtype)


@dataclass(frozen=True)
class Normaliser:
    """Between the robot's units and the model's, by a feature's statistics; see `NEEDS`."""

    mode: str
    statistics: dict[str, np.ndarray]
    """float32, by name."""
    epsilon: float
    """LeRobot: added to a standard deviation when normalising."""
    openpi: bool = False
    """openpi's formulas: 1e-6 added to a standard deviation or a range, in both directions."""

    @classmethod
    def read(
        cls,
        checkpoint: LeRobotCheckpoint,
        processor: str,
        registry_name: str,
        feature: str,
        kind: str,
        size: int,
        openpi: bool = False,
    ) -> Normaliser:
        """A feature's normaliser, from a processor and the file it names.

        Args:
            checkpoint: whose.
            processor: policy_preprocessor or policy_postprocessor.
            registry_name: normalizer_processor or unnormalizer_processor.
            feature: observation.state or action.
            kind: STATE or ACTION.
            size: numbers of the feature.
            openpi: compute as openpi does.

        Raises:
            UserError: a mode we do not know, or statistics missing or misshapen.
        """
        config, found = checkpoint.feature_statistics(processor, registry_name, feature)
        mode = str(config.get("norm_map", {}).get(kind))
        about = f"checkpoint {checkpoint.source}: {processor}.json"
        if mode not in NEEDS:
            raise UserError(
                f"{about}: norm_map says {kind} is {mode}; it must be one of {', '.join(NEEDS)}."
            )
        missing = [name for name in NEEDS[mode] if name not in found]
        if missing:
            raise UserError(
                f"{about} normalises {feature} by {mode}; its statistics have no "
                f"{' and no '.join(f'{feature}.{name}' for name in missing)}."
            )
        statistics = {name: found[name].float().numpy() for name in NEEDS[mode]}
        for name, values in statistics.items():
            if values.shape != (size,):
                raise UserError(
                    f"{about}: statistics {feature}.{name} have shape {values.shape}; LIBERO's "
                    f"{feature} has {size} numbers."
                )
            if not np.isfinite(values).all():
                raise UserError(f"{about}: statistics {feature}.{name} are not all finite.")
        return cls(mode, statistics, float(config.get("eps", 1e-8)), openpi)

    def normalise(self, x: np.ndarray) -> np.ndarray:
        """Robot units to the model's; not clipped."""
        if self.mode == "IDENTITY":
            return x
        low, high = (self.statistics[name] for name in NEEDS[self.mode])
        if self.mode == "MEAN_STD":
            return (x - low) / (high + np.float32(1e-6 if self.openpi else self.epsilon))
        return 2.0 * (x - low) / self._range(low, high) - 1.0

    def unnormalise(self, x: np.ndarray) -> np.ndarray:
        """The model's to robot units; not clipped."""
        if self.mode == "IDENTITY":
            return x
        low, high = (self.statistics[name] for name in NEEDS[self.mode])
        if self.mode == "MEAN_STD":
            return x * (high + np.float32(1e-6) if self.openpi else high) + low
        return (x + 1.0) * self._range(low, high) / 2.0 + low

    def _range(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        span = high - low
        if self.openpi:
            return span + np.float32(1e-6)
        return np.where(span == 0, np.float32(self.epsilon), span)


def pi_prompt(task: str) -> str:
    """LeRobot's prompt of pi0 and SmolVLA: the task as it is, and a newline."""
    return task if task.endswith("\n") else f"{task}\n"


def clean(task: str) -> str:
    """The task in one line, without underscores."""
    return task.strip().replace("_", " ").replace("\n", " ")


def openpi_prompt(task: str) -> str:
    """openpi's prompt, whose pi0.5 for LIBERO has no state in it."""
    return f"{clean(task)}\n"


def pi05_prompt(task: str, state: np.ndarray) -> str:
    """LeRobot's prompt of pi0.5: the task and the state in bins of [-1, 1].

    Args:
        task: the instruction.
        state: normalised numbers; -1 stands for those below -1, the last bin for those above 1.
    """
    edges = np.linspace(-1.0, 1.0, BINS + 1)[:-1]
    bins = np.digitize(state, edges) - 1
    return f"Task: {clean(task)}, State: {' '.join(map(str, bins))};\nAction: "


def noise(seed: int, call: int, shape: tuple[int, int]) -> Tensor:
    """(1, C, width) float32 standard normal: a function of seed and call, on every device."""
    random = np.random.default_rng(np.random.SeedSequence([seed, call]))
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))[None]
