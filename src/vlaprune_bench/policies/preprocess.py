"""Camera frames to model input, as OpenVLA's evaluation does it with TensorFlow.

JPEG round trip, Lanczos resize, fractional centre crop, normalisation per tower. Each step moves
success rates, so each follows TensorFlow's arithmetic and is checked against its output.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from vlaprune_bench.types import EvalProtocol

DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
BAND = 16
"""Rows or columns that `resample` makes at once: the fewer, the fewer zeros it multiplies."""


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
    # in memory a row of all frames and channels after the other, as `resample` works
    x_HNCW = torch.from_numpy(frames).to(device).permute(1, 0, 3, 2).contiguous().float()
    x_NCHW = x_HNCW.permute(1, 2, 0, 3)
    if protocol.antialias:
        x_NCHW = resize(x_NCHW, size, protocol.resize)
    else:
        x_NCHW = interpolate(x_NCHW, size, mode="bilinear", align_corners=False).round()
    if protocol.crop_area < 1.0:
        x_NCHW = center_crop(x_NCHW, protocol.crop_area)
    return x_NCHW.contiguous()


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
    return resample(rows_hH, x_NCHW, columns_wW).round_().clamp_(0, 255)


def center_crop(x_NCHW: Tensor, area: float) -> Tensor:
    """Keep the central `area` of each frame and resize it back, as tf.image.crop_and_resize does.

    The box has fractional borders; the result is truncated from x * 255.5, x in [0, 1].
    """
    rows_HH, columns_WW = (crop_weights(n, area, x_NCHW.device) for n in x_NCHW.shape[2:])
    return resample(rows_HH, x_NCHW, columns_WW).mul_(255.5 / 255.0).floor_().clamp_(0, 255)


def resample(rows_hH: Tensor, x_NCHW: Tensor, columns_wW: Tensor) -> Tensor:
    """Frames under weights of both axes, (N, C, h, w): rows first.

    On a CPU most zeros of the weights are left out, where that changes no bit.
    """
    if x_NCHW.device.type == "cpu" and _bands_are_exact(rows_hH, columns_wW):
        return _in_bands(rows_hH, x_NCHW, columns_wW)
    return rows_hH @ x_NCHW.contiguous() @ columns_wW.T


def _in_bands(rows_hH: Tensor, x_NCHW: Tensor, columns_wW: Tensor) -> Tensor:
    n, c, height, width = x_NCHW.shape
    # all frames and channels side by side: one product a band; what is returned lies so, too
    x_HQ = x_NCHW.permute(2, 0, 1, 3).reshape(height, -1)
    y_hQ = x_HQ.new_empty(len(rows_hH), x_HQ.shape[1])
    for band in _bands(rows_hH):
        out = y_hQ[band.out]
        torch.mm(band.weights[0], x_HQ[band.taps[0]], out=out)
        for weight, taps in zip(band.weights[1:], band.taps[1:], strict=True):
            out += weight @ x_HQ[taps]
    y_QW = y_hQ.view(-1, width)
    z_Qw = y_QW.new_empty(len(y_QW), len(columns_wW))
    for band in _bands(columns_wW):
        out = z_Qw[:, band.out]
        torch.mm(y_QW[:, band.taps[0]], band.weights[0].T, out=out)
        for weight, taps in zip(band.weights[1:], band.taps[1:], strict=True):
            out += y_QW[:, taps] @ weight.T
    return z_Qw.view(len(rows_hH), n, c, len(columns_wW)).permute(1, 2, 0, 3)


@cache
def _bands_are_exact(rows_hH: Tensor, columns_wW: Tensor) -> bool:
    """Whether bands give the bits of the dense products on this machine: a rounding that tips moves
    a pixel by one, and with it an episode."""
    random = torch.Generator().manual_seed(0)
    x_13HW = torch.rand(1, 3, rows_hH.shape[1], columns_wW.shape[1], generator=random) * 255.0
    return torch.equal(_in_bands(rows_hH, x_13HW, columns_wW), rows_hH @ x_13HW @ columns_wW.T)


class Band(NamedTuple):
    """Some successive results of one axis, and what they are made of."""

    out: slice
    taps: list[slice]
    """Of the source, one slice a sum."""
    weights: list[Tensor]
    """(results, taps) for each of `taps`."""


@cache
def _bands(weights_hH: Tensor) -> list[Band]:
    """The weights of one axis without most of their zeros."""
    bands = []
    sums = _sums(*weights_hH.shape)
    for start in range(0, len(weights_hH), BAND):
        rows = weights_hH[start : start + BAND]
        used = rows.any(0).nonzero()
        first, end = int(used.min()), int(used.max()) + 1
        cuts = [first, *(cut for cut in sums if first < cut < end), end]
        taps = [slice(a, b) for a, b in pairwise(cuts)]
        out = slice(start, start + len(rows))
        bands.append(Band(out, taps, [rows[:, part].contiguous() for part in taps]))
    return bands


def _sums(target: int, source: int) -> list[int]:
    """Terms at which a dense product begins a new sum, as libraries do with long ones.

    Asked of the product itself: of 1 + 2^30 - 2^30 in successive terms nothing is left, unless the
    first stands in an earlier sum.
    """
    eye_SS = torch.eye(source)
    x_SS = eye_SS.roll(-1, 0) + 2.0**30 * (eye_SS - eye_SS.roll(1, 0))
    found = (torch.ones(target, source) @ x_SS)[0, 1:-1].nonzero() + 1
    return found.flatten().tolist()


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
    n, c, height, width = x_NCHW.shape
    x_NCHW = x_NCHW / 255.0
    towers_NTCHW = x_NCHW.new_empty(n, 2, c, height, width)
    for i, (mean, std) in enumerate(zip(means, stds, strict=True)):
        mean_C11, std_C11 = (_channels(values, x_NCHW.device) for values in (mean, std))
        torch.sub(x_NCHW, mean_C11, out=towers_NTCHW[:, i]).div_(std_C11)
    return towers_NTCHW.view(1, -1, height, width).to(dtype)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, copied to the device once."""
    return torch.tensor(values, device=device).view(3, 1, 1)
