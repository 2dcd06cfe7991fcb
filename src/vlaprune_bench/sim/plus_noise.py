"""LIBERO-Plus's 50 corruptions of a frame, with random numbers of our own.

Kernels, constants and order of operations are upstream's (`envs/env_wrapper.py`, after ImageNet-C);
its random numbers come from numpy's global generator and cannot be had again, ours are a function
of trial and step. Motion blur is ImageMagick's, written out; glass, as upstream, reaches row and
column 224 only, and copies a neighbour where ImageNet-C means to swap.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import ndimage

MOTION = (
    (5, 2),
    (8, 3),
    (10, 4),
    (12, 5),
    (15, 6),
    (18, 8),
    (20, 10),
    (25, 12),
    (30, 15),
    (35, 20),
)
"""Radius and deviation, pixels."""
ZOOM = (
    (1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03),
    (1.36, 0.01), (1.41, 0.01), (1.46, 0.02), (1.51, 0.02), (1.56, 0.03),
)  # fmt: skip
"""Largest zoom (left out) and step, from 1 on."""
FOG = (
    (0.5, 3.0), (1.0, 2.8), (1.5, 2.5), (2.0, 2.2), (2.5, 2.0),
    (3.0, 1.8), (3.5, 1.6), (4.0, 1.5), (4.5, 1.4), (5.0, 1.3),
)  # fmt: skip
"""Light added, of 1, and by how much the fog's patches shrink from size to size."""
GLASS = (
    (0.5, 1, 3), (0.7, 1, 3), (0.9, 2, 3), (1.0, 2, 2), (1.1, 3, 2),
    (1.3, 3, 2), (1.5, 4, 2), (1.8, 4, 2), (2.2, 5, 1), (2.5, 5, 1),
)  # fmt: skip
"""Deviation of the blur, pixels; farthest neighbour, pixels; rounds."""
_GLASS_REACH = 224


def corrupted(image: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """A frame as upstream's corruption `number` (1 to 50) shows it.

    Args:
        image: (size, size, 3) uint8, as the simulator gives it.
        number: See `plus.PlusNoise`.
        rng: Of this step.
    """
    kind, level = divmod(number - 1, 10)
    if kind == 0:
        return motion_blur(image, *MOTION[level], rng.uniform(-45, 45))
    if kind == 1:
        return (np.clip(_blur(image / 255.0, level + 1), 0, 1) * 255).astype(np.uint8)
    if kind == 2:
        return zoom_blur(image, *ZOOM[level])
    if kind == 3:
        return fog(image, *FOG[level], rng)
    return glass(image, *GLASS[level], rng)


def _blur(image: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian blur of each channel, the border repeated."""
    return np.asarray(ndimage.gaussian_filter(image, (deviation, deviation, 0), mode="nearest"))


def motion_blur(image: np.ndarray, radius: float, deviation: float, degrees: float) -> np.ndarray:
    """A one-sided Gaussian tail along a line, sampled at whole pixels, the border repeated."""
    width = 2 * int(np.ceil(radius)) + 1
    steps = np.arange(width)
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    angle = np.deg2rad(degrees)
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    rows, columns = np.indices(image.shape[:2])
    height, breadth = image.shape[:2]
    total = np.zeros(image.shape)
    for weight, x, y in zip(kernel, right, down, strict=True):
        total += weight * image[(rows + y).clip(0, height - 1), (columns + x).clip(0, breadth - 1)]
    return np.rint(total).clip(0, 255).astype(np.uint8)


def zoom_blur(image: np.ndarray, end: float, step: float) -> np.ndarray:
    """Mean of the picture and of itself at zooms 1, 1 + step, ... below `end`."""
    plain = (image / 255.0).astype(np.float32)
    zooms = np.arange(1, end, step)
    total = np.zeros_like(plain)
    for zoom in zooms:
        total += _zoomed(plain, float(zoom))
    return (np.clip((plain + total) / (len(zooms) + 1), 0, 1) * 255).astype(np.uint8)


def _zoomed(image: np.ndarray, zoom: float) -> np.ndarray:
    size = len(image)
    inner = int(np.ceil(size / zoom))
    start = (size - inner) // 2
    part = image[start : start + inner, start : start + inner]
    large = ndimage.zoom(part, (zoom, zoom, 1), order=1)
    trim = (len(large) - size) // 2
    return np.asarray(large[trim : trim + size, trim : trim + size])


def fog(image: np.ndarray, light: float, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Plasma added to the picture, scaled back to its brightest value."""
    plain = image / 255.0
    brightest = plain.max()
    size = 1 << (len(image) - 1).bit_length()
    patches = plasma(size, decay, rng)[: len(image), : len(image), None]
    mixed = (plain + light * patches) * brightest / (brightest + light)
    return (np.clip(mixed, 0, 1) * 255).astype(np.uint8)


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A fractal by diamonds and squares on a torus, 0 to 1.

    Args:
        size: Side, a power of two.
        decay: By how much the random part shrinks from size to size.
        rng: Draws it.
    """
    field = np.zeros((size, size))
    step, wobble = size, 100.0

    def middle(total: np.ndarray) -> np.ndarray:
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[0:size:step, 0:size:step]
        pairs = corners + np.roll(corners, -1, axis=0)
        field[half:size:step, half:size:step] = middle(pairs + np.roll(pairs, -1, axis=1))
        centres = field[half:size:step, half:size:step]
        above = centres + np.roll(centres, 1, axis=0)
        beside = corners + np.roll(corners, -1, axis=1)
        field[0:size:step, half:size:step] = middle(above + beside)
        left = centres + np.roll(centres, 1, axis=1)
        below = corners + np.roll(corners, -1, axis=0)
        field[half:size:step, 0:size:step] = middle(left + below)
        step, wobble = half, wobble / decay
    field -= field.min()
    return np.asarray(field / field.max())


def glass(
    image: np.ndarray, deviation: float, reach: int, rounds: int, rng: np.random.Generator
) -> np.ndarray:
    """Blurred, neighbours copied over each other, and blurred again."""
    soft = np.clip(_blur(image / 255.0, deviation) * 255, 0, 255).astype(np.uint8)
    side = min(_GLASS_REACH, len(image)) - reach - reach
    moves = rng.integers(-reach, reach, (rounds, side, side, 2))
    _copy_neighbours(soft, moves, reach)
    return (np.clip(_blur(soft / 255.0, deviation), 0, 1) * 255).astype(np.uint8)


@numba.njit(cache=True)
def _copy_neighbours(image: np.ndarray, moves: np.ndarray, reach: int) -> None:
    """Round by round, from the far corner to the near one, in place."""
    rounds, side = moves.shape[0], moves.shape[1]
    for k in range(rounds):
        for i in range(side):
            for j in range(side):
                row, column = side + reach - i, side + reach - j
                dx, dy = moves[k, i, j, 0], moves[k, i, j, 1]
                for c in range(3):
                    image[row, column, c] = image[row + dy, column + dx, c]
