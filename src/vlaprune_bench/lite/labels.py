"""Printed packaging drawn by PIL: boxes, cartons, and strips that go round a can or bottle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vlaprune_bench.lite.mesh import picture_row
from vlaprune_bench.lite.textures import Colour

FACE = 128
"""Pixels along a side of one face of a box."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


def bands(stops: Sequence[tuple[float, Colour]], height: int = 128) -> Image.Image:
    """Horizontal stripes for a turned body: each colour reaches up to its share of the height."""
    image = Image.new("RGB", (8, height))
    draw = ImageDraw.Draw(image)
    for share, colour in reversed(stops):
        draw.rectangle((0, round((1 - picture_row(share)) * height), 8, height), colour)
    draw.rectangle((0, 0, 8, round((1 - picture_row(1.0)) * height)), stops[-1][1])
    return image


@dataclass(frozen=True)
class Label:
    """What is printed on a package."""

    title: str
    ground: Colour
    accent: Colour
    """Behind the title."""
    ink: Colour
    """The title."""
    motif: str
    """Key of `MOTIFS`: the picture below the title."""


def wrap(
    label: Label, span: tuple[float, float], stops: Sequence[tuple[float, Colour]]
) -> Image.Image:
    """A strip that goes once round a turned body, its label on two opposite sides.

    Args:
        label: What is printed.
        span: Shares of the height between which the label sticks.
        stops: Colours of the body, as `bands` takes them.
    """
    width, height = 512, 256
    strip = bands(stops, height).resize((width, height), Image.Resampling.NEAREST)
    low, high = (round((1 - picture_row(share)) * height) for share in span)
    face = draw_face(label, (width // 2, low - high))
    strip.paste(face, (0, high))
    strip.paste(face, (width // 2, high))
    return strip.resize((width // 2, height // 2), Image.Resampling.BOX)


def carton(label: Label, titled: str) -> Image.Image:
    """A printed box: 512 x 384 pixels in the layout `.U..LFRB.D..`.

    Args:
        label: What is printed.
        titled: Letters of the faces that carry the label; the others are plain.
    """
    places = {"U": (1, 0), "L": (0, 1), "F": (1, 1), "R": (2, 1), "B": (3, 1), "D": (1, 2)}
    grid = Image.new("RGB", (4 * FACE, 3 * FACE), label.ground)
    face = draw_face(label, (FACE, FACE))
    for letter in titled:
        x, y = places[letter]
        grid.paste(face, (x * FACE, y * FACE))
    return grid


def draw_face(label: Label, size: tuple[int, int]) -> Image.Image:
    """One face: the title on a band over a picture of the contents."""
    width, height = (4 * n for n in size)  # drawn big and shrunk, for smooth edges
    image = Image.new("RGB", (width, height), label.ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0.08 * height, width, 0.36 * height), fill=label.accent)
    letters = min(0.24 * height, 1.5 * width / len(label.title))
    draw.text(
        (width / 2, 0.22 * height),
        label.title,
        fill=label.ink,
        font=ImageFont.load_default(size=letters),
        anchor="mm",
        stroke_width=int(letters / 16),
        stroke_fill=label.ink,
    )
    side = min(width, height)
    box = (width / 2 - 0.4 * side, 0.42 * height, width / 2 + 0.4 * side, 0.95 * height)
    MOTIFS[label.motif](draw, box)
    return image.resize(size, Image.Resampling.BOX)


def _discs(draw: ImageDraw.ImageDraw, box: Box, spots: Sequence[Box], colour: Colour) -> None:
    """Ellipses at (x, y, half width, half height), all as shares of the box."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    for x, y, rx, ry in spots:
        cx, cy = left + x * wide, top + y * high
        draw.ellipse((cx - rx * wide, cy - ry * high, cx + rx * wide, cy + ry * high), fill=colour)


def _biscuits(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.5, 0.48, 0.5)], (238, 222, 190))
    for x, y in ((0.3, 0.45), (0.68, 0.38), (0.5, 0.74)):
        _discs(draw, box, [(x, y, 0.18, 0.24)], (176, 118, 62))
        chips = [(-0.07, -0.07), (0.06, -0.09), (0.0, 0.03), (0.09, 0.06), (-0.08, 0.1)]
        _discs(draw, box, [(x + dx, y + dy, 0.025, 0.033) for dx, dy in chips], (70, 40, 25))


def _oval(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.5, 0.6, 0.48)], (44, 70, 150))
    _discs(draw, box, [(0.5, 0.5, 0.5, 0.34)], (226, 232, 244))
    _discs(draw, box, [(0.5, 0.5, 0.32, 0.2)], (44, 70, 150))


def _cow(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.7, 0.75, 0.36)], (86, 150, 60))
    _discs(draw, box, [(0.5, 0.5, 0.42, 0.34)], (250, 250, 250))
    spots = [(0.32, 0.42, 0.13, 0.16), (0.66, 0.52, 0.16, 0.2), (0.5, 0.72, 0.1, 0.1)]
    _discs(draw, box, spots, (25, 25, 30))


def _orange(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.55, 0.44, 0.45)], (240, 140, 20))
    _discs(draw, box, [(0.42, 0.42, 0.12, 0.12)], (255, 190, 90))
    _discs(draw, box, [(0.62, 0.12, 0.2, 0.1)], (60, 140, 50))


def _tomato(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.3, 0.6, 0.28, 0.36), (0.7, 0.6, 0.28, 0.36)], (205, 40, 30))
    _discs(draw, box, [(0.3, 0.28, 0.12, 0.07), (0.7, 0.28, 0.12, 0.07)], (60, 140, 50))


def _letters(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.55, 0.6, 0.42)], (232, 150, 40))
    left, top, right, bottom = box
    font = ImageFont.load_default(size=0.4 * (bottom - top))
    for letter, x, y in (("A", 0.15, 0.5), ("B", 0.5, 0.68), ("C", 0.85, 0.48)):
        place = (left + x * (right - left), top + y * (bottom - top))
        draw.text(place, letter, fill=(255, 240, 170), font=font, anchor="mm")


def _leaf(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.35, 0.55, 0.3, 0.3), (0.65, 0.45, 0.3, 0.34)], (70, 140, 60))
    _discs(draw, box, [(0.5, 0.75, 0.18, 0.18)], (200, 60, 45))


def _flame(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.6, 0.3, 0.4)], (225, 110, 30))
    _discs(draw, box, [(0.5, 0.72, 0.16, 0.26)], (250, 200, 70))


def _swirl(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _discs(draw, box, [(0.5, 0.6, 0.5, 0.36)], (235, 225, 210))
    _discs(draw, box, [(0.5, 0.5, 0.4, 0.32)], (92, 52, 32))
    _discs(draw, box, [(0.5, 0.38, 0.2, 0.16)], (240, 232, 220))


def _grapes(draw: ImageDraw.ImageDraw, box: Box) -> None:
    rows = ((0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.4, 0.45), (0.6, 0.45), (0.5, 0.7))
    _discs(draw, box, [(x, y, 0.12, 0.14) for x, y in rows], (96, 40, 90))


MOTIFS: dict[str, Callable[[ImageDraw.ImageDraw, Box], None]] = {
    "biscuits": _biscuits,
    "cow": _cow,
    "flame": _flame,
    "grapes": _grapes,
    "leaf": _leaf,
    "letters": _letters,
    "orange": _orange,
    "oval": _oval,
    "swirl": _swirl,
    "tomato": _tomato,
}
