"""Textures drawn by numpy and PIL: floors, walls, tables, wood, metal.

Every picture is a pure function of its file name, so two builds agree byte for byte. The surfaces
tile: their noise is filtered with periodic boundaries.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SIDE = 256
"""Pixels along a side of a surface texture."""


def random_source(name: str) -> np.random.Generator:
    """A generator seeded by the file's name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def noise(rng: np.random.Generator, sigma_y: float, sigma_x: float, side: int = SIDE) -> np.ndarray:
    """Periodic Gaussian noise smoothed over (sigma_y, sigma_x) pixels: [side, side], std 1."""
    frequency = np.fft.fftfreq(side)
    falloff_y = np.exp(-2 * (np.pi * sigma_y * frequency) ** 2)
    falloff_x = np.exp(-2 * (np.pi * sigma_x * frequency) ** 2)
    spectrum = np.fft.fft2(rng.standard_normal((side, side)))
    field = np.fft.ifft2(spectrum * falloff_y[:, None] * falloff_x[None, :]).real
    field -= field.mean()
    return field / field.std()


def tinted(colour: Colour, relative: np.ndarray) -> Image.Image:
    """A picture of `colour` whose brightness varies by `relative` ([side, side], 0: unchanged)."""
    pixels = np.asarray(colour, dtype=float) * (1.0 + relative[..., None])
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def plaster(name: str, colour: Colour) -> Image.Image:
    """A nearly plain wall with faint mottling."""
    rng = random_source(name)
    return tinted(colour, 0.010 * noise(rng, 6, 6) + 0.008 * noise(rng, 1, 1))


def linen(name: str, colour: Colour) -> Image.Image:
    """Woven cloth: two sets of fine threads."""
    rng = random_source(name)
    return tinted(colour, 0.025 * noise(rng, 12, 0.6) + 0.025 * noise(rng, 0.6, 12))


def wood(name: str, colour: Colour, contrast: float = 0.035) -> Image.Image:
    """Grain along the picture's y axis: long streaks of three widths, gently bent."""
    rng = random_source(name)
    streaks = noise(rng, 60, 1.0) + 1.2 * noise(rng, 80, 4) + 0.8 * noise(rng, 70, 14)
    column = np.arange(SIDE)[None, :] + 4 * noise(rng, 60, 60)
    left, part = np.floor(column).astype(int), column % 1.0
    grain = (1 - part) * np.take_along_axis(streaks, left % SIDE, axis=1)
    grain += part * np.take_along_axis(streaks, (left + 1) % SIDE, axis=1)
    return tinted(colour, contrast * grain / 1.75 + 0.006 * noise(rng, 1, 1))


def tabletop(name: str, colour: Colour) -> Image.Image:
    """Wood with its grain along x, which runs away from the viewer on a table."""
    return wood(name, colour).transpose(Image.Transpose.ROTATE_90)


def planks(name: str, colour: Colour) -> Image.Image:
    """Floor boards, four across, each a shade of its own."""
    grain = np.asarray(wood(name, (128, 128, 128), 0.05), dtype=float)[..., 0] / 128 - 1
    shade = np.repeat(0.04 * random_source(name + "/boards").standard_normal(4), SIDE // 4)
    seam = np.where(np.arange(SIDE) % (SIDE // 4) < 2, -0.25, 0.0)
    return tinted(colour, grain + (shade + seam)[None, :])


def tiles(name: str, colour: Colour, across: int = 2) -> Image.Image:
    """Square floor tiles with thin grout lines."""
    rng = random_source(name)
    step = SIDE // across
    shade = np.kron(0.02 * rng.standard_normal((across, across)), np.ones((step, step)))
    line = np.arange(SIDE) % step < 2
    grout = np.where(line[:, None] | line[None, :], -0.14, 0.0)
    return tinted(colour, shade + grout + 0.025 * noise(rng, 10, 10) + 0.012 * noise(rng, 1, 1))


def marble(name: str, colour: Colour) -> Image.Image:
    """Soft clouds with thin dark veins where a smooth field crosses zero."""
    rng = random_source(name)
    veins = np.exp(-((noise(rng, 18, 18) / 0.06) ** 2)) + np.exp(-((noise(rng, 9, 9) / 0.03) ** 2))
    return tinted(colour, 0.02 * noise(rng, 16, 16) - 0.07 * veins)


def brushed(name: str, colour: Colour) -> Image.Image:
    """Brushed metal: fine scratches along y."""
    rng = random_source(name)
    return tinted(colour, 0.05 * noise(rng, 40, 0.7) + 0.04 * noise(rng, 90, 30))


def weave(name: str, colour: Colour, across: int = 16) -> Image.Image:
    """Basketwork: straws that pass over and under each other."""
    step = SIDE // across
    y, x = np.indices((SIDE, SIDE))
    over = (x // step + y // step) % 2 == 0
    bulge = np.where(over, np.sin(np.pi * (x % step) / step), np.sin(np.pi * (y % step) / step))
    ends = np.where(over, y % step, x % step)
    gaps = np.where((ends < 2) | (ends > step - 3), -0.35, 0.0)
    return tinted(colour, 0.3 * bulge - 0.15 + gaps + 0.05 * noise(random_source(name), 3, 3))


def patchwork(name: str) -> Image.Image:
    """Black, white, grey and orange panels of many sizes."""
    rng = random_source(name)
    image = Image.new("RGB", (SIDE, SIDE), (18, 18, 18))
    draw = ImageDraw.Draw(image)
    colours = ((150, 148, 145), (120, 118, 116), (168, 84, 48), (30, 30, 30), (70, 68, 68))
    for _ in range(36):
        x, y = rng.integers(-20, SIDE, 2)
        w, h = rng.integers(16, 80, 2)
        draw.rectangle((x, y, x + w, y + h), fill=colours[rng.integers(len(colours))])
    return image


Surface = tuple[Callable[[str, Colour], Image.Image], Colour]

# Every surface LIBERO's arenas (and its texture list for visual perturbations) name.
SURFACES: dict[str, Surface] = {
    "brown_ceramic_tile.png": (tiles, (178, 152, 130)),
    "canvas_sky_blue.png": (linen, (115, 176, 210)),
    "capriccio_sky.png": (marble, (72, 130, 172)),
    "ceramic.png": (plaster, (248, 247, 243)),
    "cream-plaster.png": (plaster, (234, 229, 214)),
    "dapper_gray_floor.png": (planks, (188, 178, 170)),
    "dark_blue_wall.png": (plaster, (102, 145, 171)),
    "dark_floor_texture.png": (planks, (58, 53, 47)),
    "dark_gray_plaster.png": (plaster, (98, 106, 113)),
    "dark_green_plaster_wall.png": (plaster, (60, 85, 70)),
    "gray_ceramic_tile.png": (tiles, (186, 171, 155)),
    "gray_floor.png": (planks, (172, 172, 167)),
    "gray_plaster.png": (plaster, (236, 238, 235)),
    "gray_wall.png": (plaster, (160, 160, 160)),
    "grigia_caldera_porcelain_floor.png": (tiles, (195, 186, 177)),
    "kona_gotham.png": (plaster, (4, 95, 158)),
    "light-gray-floor-tile.png": (tiles, (195, 186, 177)),
    "light-gray-plaster.png": (plaster, (223, 219, 212)),
    "light_blue_wall.png": (plaster, (186, 225, 244)),
    "light_floor.png": (planks, (225, 215, 202)),
    "light_gray_plaster.png": (plaster, (223, 219, 212)),
    "light_grey_plaster.png": (plaster, (223, 219, 212)),
    "marble_floor.png": (marble, (224, 219, 211)),
    "martin_novak_wood_table.png": (tabletop, (199, 180, 160)),
    "meeka-beige-plaster.png": (plaster, (237, 226, 196)),
    "new_light_gray_plaster.png": (plaster, (222, 219, 212)),
    "rustic_floor.png": (planks, (162, 162, 157)),
    "seamless_wood_planks_floor.png": (planks, (232, 200, 138)),
    "smooth_light_gray_plaster.png": (plaster, (223, 219, 212)),
    "stucco_wall.png": (plaster, (169, 170, 166)),
    "table_light_wood.png": (tabletop, (222, 190, 153)),
    "tile_grigia_caldera_porcelain_floor.png": (tiles, (195, 186, 177)),
    "white_marble_floor.png": (marble, (233, 233, 233)),
    "white_wall.png": (plaster, (234, 236, 233)),
    "yellow_linen_wall_texture.png": (linen, (220, 213, 180)),
}


def write_surfaces(folder: Path) -> None:
    """Draw every entry of `SURFACES` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, colour) in SURFACES.items():
        draw(name, colour).save(folder / name)
