"""Worse pictures: what sensors, lenses, weather and links do to a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import CameraVariant, Draw, Scale, Variant, View


@Variant.register_subclass("noise")
@dataclass(frozen=True)
class Noise(CameraVariant):
    """Worse pictures, other ones at every step; lengths are for frames of 256 pixels."""

    scales: ClassVar = {
        "gaussian": Scale("standard deviation, of 255", (8, 16, 32, 48, 64)),
        "motion-blur": Scale("pixels smeared, in a direction of its own", (4, 8, 12, 18, 26)),
        "fog": Scale("share of the light that is fog's, on average", (0.15, 0.3, 0.45, 0.6, 0.75)),
        "zoom": Scale("% zoomed in while the shutter is open", (5, 10, 15, 22, 30)),
        "glass": Scale("pixels a ray is bent, at most", (1, 2, 3, 5, 7)),
        "jpeg": Scale("JPEG quality", (40, 25, 15, 8, 4)),
        "dropped": Scale(
            "share of the frames lost: the last one stays", (0.1, 0.25, 0.5, 0.75, 0.9)
        ),
    }

    def holds_frame(self, draw: Draw, step: int) -> bool:
        """The last frame before a lost one."""
        if self.kind != "dropped":
            return False
        return not self._lost(draw, step) and self._lost(draw, step + 1)

    def frame(self, view: View, image: np.ndarray) -> np.ndarray:
        if view.camera not in self.cameras:
            return image
        if self.kind == "dropped":
            if self._lost(view.draw, view.step):
                return view.held[view.camera]
            view.held[view.camera] = image
            return image
        rng, scaled = view.rng(self), self.amount * len(image) / 256
        if self.kind == "gaussian":
            return _to_uint8(image + rng.normal(0, self.amount, image.shape))
        if self.kind == "motion-blur":
            return motion_blur(image, scaled, rng.uniform(0, np.pi))
        if self.kind == "fog":
            return fog(image, self.amount, rng)
        if self.kind == "zoom":
            return zoom_blur(image, self.amount / 100)
        if self.kind == "glass":
            return glass(image, scaled, rng)
        return jpeg(image, round(self.amount))

    def _lost(self, draw: Draw, step: int) -> bool:
        """Whether both cameras' frames of a step are lost; the first one arrives."""
        return step > 0 and bool(draw.rng(self.key, step).uniform() < self.amount)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(image).clip(0, 255).astype(np.uint8)


def sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of an image, its border going on for ever.

    Args:
        image: (h, w, 3).
        rows: (...) float, pixel centres at whole numbers.
        columns: (...) float.

    Returns:
        (..., 3) float64.
    """
    height, width = image.shape[:2]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    top = np.minimum(rows.astype(int), height - 2)
    left = np.minimum(columns.astype(int), width - 2)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def motion_blur(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Mean along a line of `length` pixels at `angle`, rad."""
    rows, columns = np.indices(image.shape[:2])
    shifts = np.linspace(-length / 2, length / 2, 1 + 2 * int(np.ceil(length / 2)))
    total = sum(
        sample(image, rows + s * np.sin(angle), columns + s * np.cos(angle)) for s in shifts
    )
    return _to_uint8(np.asarray(total) / len(shifts))


def fog(image: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Light grey over the picture, thicker and thinner in patches of several sizes."""
    size = len(image)
    rows, columns = np.indices(image.shape[:2]) / size
    patches = np.zeros(image.shape[:2])
    for octave in range(1, 6):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1, 1))
        patches += sample(grid, rows * 2**octave, columns * 2**octave)[..., 0] / 2**octave
    share = (density * (1 + 0.5 * patches)).clip(0, 1)[..., None]
    return _to_uint8(image * (1 - share) + 215.0 * share)


def zoom_blur(image: np.ndarray, most: float) -> np.ndarray:
    """Mean of the picture and of itself zoomed in by up to 1 + `most`."""
    middle = (len(image) - 1) / 2
    rows, columns = np.indices(image.shape[:2]) - middle
    zooms = np.linspace(1, 1 + most, 9)
    total = sum(sample(image, middle + rows / z, middle + columns / z) for z in zooms)
    return _to_uint8(np.asarray(total) / len(zooms))


def glass(image: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    """Every pixel shows one up to `most` pixels away, in both directions."""
    rows, columns = np.indices(image.shape[:2])
    bent = rng.uniform(-most, most, (2, *image.shape[:2]))
    return _to_uint8(sample(image, rows + bent[0], columns + bent[1]))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """A JPEG round trip, 4:2:0."""
    import simplejpeg

    packed = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return np.asarray(simplejpeg.decode_jpeg(packed, colorspace="RGB"))
