"""Camera frames to model input, as OpenVLA's evaluation does it with TensorFlow.

JPEG round trip, Lanczos resize, fractional centre crop, normalisation per tower. Each step moves
success rates, so each follows TensorFlow's arithmetic and is checked against its output.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from vlaprune_bench.types import EvalProtocol

DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def prepare_frames(
    frames: np.ndarray, protocol: EvalProtocol, size: int, device: torch.device
) -> Tensor:
    """Frames as the model's image processor receives them.

    Args:
        frames: (n, H, W, 3) uint8, upright.
        protocol: gives the JPEG quality and the share of the area the crop keeps.
        size: side of the model's input, pixels.
        device: where the resizing runs.

    Returns:
        (n, 3, size, size) float32 on `device`, whole numbers from 0 to 255.
    """
    if protocol.jpeg_quality is not None:
        frames = np.stack([jpeg_round_trip(frame, protocol.jpeg_quality) for frame in frames])
    x_NCHW = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).contiguous().float()
    x_NCHW = resize(x_NCHW, size, protocol.resize)
    return center_crop(x_NCHW, protocol.crop_area) if protocol.crop_area < 1.0 else x_NCHW


def jpeg_round_trip(frame: np.ndarray, quality: int) -> np.ndarray:
    """Encode with 4:2:0 subsampling and decode with the fast integer DCT, as TensorFlow does.

    Args:
        frame: (H, W, 3) uint8.
        quality: libjpeg quality, 1 to 100.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return simplejpeg.decode_jpeg(buffer.getvalue(), fastdct=True, fastupsample=False)


def resize(x_NCHW: Tensor, size: int, kernel: str) -> Tensor:
    """Resize with antialias, rounded to 0..255.

    Args:
        x_NCHW: float32 frames, 0 to 255.
        size: side of the result, pixels.
        kernel: "lanczos3" (as tf.image.resize with antialias) or "bilinear" (as Pillow, but for
            its rounding between the two axes).
    """
    rows_hH, columns_wW = (resize_weights(n, size, kernel, x_NCHW.device) for n in x_NCHW.shape[2:])
    return (rows_hH @ x_NCHW @ columns_wW.T).round().clamp(0, 255)


def center_crop(x_NCHW: Tensor, area: float) -> Tensor:
    """Keep the central `area` of each frame and resize it back, as tf.image.crop_and_resize does.

    The box has fractional borders; the result is truncated from x * 255.5, x in [0, 1].
    """
    rows_HH, columns_WW = (crop_weights(n, area, x_NCHW.device) for n in x_NCHW.shape[2:])
    return (rows_HH @ x_NCHW @ columns_WW.T * (255.5 / 255.0)).floor().clamp(0, 255)


@cache
def resize_weights(source: int, target: int, kernel: str, device: torch.device) -> Tensor:
    """(target, source) float32 weights of an antialiased resize of one axis.

    The kernel is stretched by the shrinking factor, cut at the border and normalised to sum 1.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    centers = (np.arange(target) + 0.5) * scale
    distance = (np.arange(source)[None] + 0.5 - centers[:, None]) / stretch
    if kernel == "lanczos3":
        inside = np.abs(distance) < 3.0
        weights = np.where(inside, np.sinc(distance) * np.sinc(distance / 3.0), 0.0)
    else:
        weights = np.maximum(0.0, 1.0 - np.abs(distance))
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


@cache
def crop_weights(size: int, area: float, device: torch.device) -> Tensor:
    """(size, size) float32 weights of a centre crop resized back bilinearly, one axis.

    Corners are sampled on corners (no half-pixel shift), as tf.image.crop_and_resize does.
    """
    side = np.sqrt(area)
    positions = ((1.0 - side) / 2.0 + side * np.linspace(0.0, 1.0, size)) * (size - 1)
    distance = np.abs(positions[:, None] - np.arange(size)[None])
    weights = np.maximum(0.0, 1.0 - distance)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def pixel_values(
    x_NCHW: Tensor,
    dtype: torch.dtype,
    means: Sequence[tuple[float, ...]] = (DINO_MEAN, SIGLIP_MEAN),
    stds: Sequence[tuple[float, ...]] = (DINO_STD, SIGLIP_STD),
) -> Tensor:
    """Normalise for both towers.

    Args:
        x_NCHW: (n, 3, size, size) float32 from 0 to 255, one frame a camera.
        dtype: of the model.
        means: of the channels in [0, 1], DINOv2's first.
        stds: likewise.

    Returns:
        (1, 6 n, size, size); per camera 3 DINOv2 then 3 SigLIP channels.
    """
    towers = []
    for mean, std in zip(means, stds, strict=True):
        mean_C11, std_C11 = (_channels(values, x_NCHW.device) for values in (mean, std))
        towers.append((x_NCHW / 255.0 - mean_C11) / std_C11)
    return torch.cat(towers, dim=1).flatten(0, 1)[None].to(dtype)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, copied to the device once."""
    return torch.tensor(values, device=device).view(3, 1, 1)
