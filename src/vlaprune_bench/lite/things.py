"""Kinds of things: vessels, turned bodies, plates, printed boxes, and joinery of plain boards.

Each is a frozen dataclass of dimensions that writes itself into a `Model`: boxes that can be
touched, and a look made of as few meshes and pictures as will do. Lengths are metres, masses
kilograms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlaprune_bench.lite import labels, mesh
from vlaprune_bench.lite.labels import Label
from vlaprune_bench.lite.mesh import Mesh
from vlaprune_bench.lite.mjcf import Model, Rgb, Shape, box, slab, turn_z, vessel
from vlaprune_bench.lite.textures import Colour

Profile = tuple[tuple[float, float], ...]
"""(radius, z) points, bottom first."""


@dataclass(frozen=True)
class Part:
    """Something plain on a body: a handle, a spout, a lid's knob."""

    boxes: tuple[Shape, ...]
    rgb: Rgb
    look: Mesh | None = None
    """What is seen; the boxes, if there is none."""
    shine: float = 0.4


def loop_handle(side: float, reach: float, low: float, high: float, rgb: Rgb) -> Part:
    """A mug's handle in the plane y = 0, from x = `side` out to x = `reach`."""
    thick = 0.0045
    sign = 1 if reach > side else -1
    back = reach - sign * thick
    half = abs(back - side) / 2
    boxes = (
        box((thick, 0.008, (high - low) / 2 - thick), (back, 0, (low + high) / 2)),
        box((half, 0.008, thick), ((side + back) / 2, 0, low + thick)),
        box((half, 0.008, thick), ((side + back) / 2, 0, high - thick)),
    )
    turn, rise = (math.pi * k / 10 for k in range(11)), (high - low) / 2 - thick
    path = [
        (side + (back - side) * math.sin(a) ** 0.7, (low + high) / 2 - rise * math.cos(a))
        for a in turn
    ]
    return Part(boxes, rgb, mesh.tube(path, 0.006))


def _add_parts(model: Model, folder: Path, parts: tuple[Part, ...]) -> None:
    for k, part in enumerate(parts):
        material = model.material(f"part{k}", part.rgb, shine=part.shine)
        look = part.boxes if part.look is None else [model.mesh(f"part{k}", part.look, folder)]
        model.look(model.object, look, material)


def _touchable(parts: tuple[Part, ...]) -> list[Shape]:
    return [shape for part in parts for shape in part.boxes]


def _picture(model: Model, folder: Path, image: Image.Image, shine: float) -> str:
    """A material that shows `image` where the mesh's texture coordinates say."""
    image.save(folder / "picture.png")
    return model.material("picture", texture="picture.png", kind="2d", shine=shine)


def _pixel(rgb: Rgb) -> Colour:
    red, green, blue = (round(255 * c) for c in rgb)
    return red, green, blue


@dataclass(frozen=True)
class Bowl:
    """A round hollow vessel; `profile` is the middle of its wall."""

    profile: Profile
    thickness: float
    base: tuple[float, float]
    """(lowest z, floor's upper side)."""
    mass: float
    rgb: Rgb
    inner: Rgb | None = None
    """Colour inside, if it has one of its own."""
    rim: Rgb | None = None
    """Colour of a band round the upper edge, if it has one of its own."""
    shine: float = 0.5
    centre: tuple[float, float] = (0.0, 0.0)
    parts: tuple[Part, ...] = ()

    def make(self, model: Model, folder: Path) -> None:
        """Touchable: one square floor and a ring of boxes a profile segment."""
        low, high = self.base
        x, y = self.centre
        side = 0.8 * self.profile[0][0]
        floor = box((side, side, (high - low) / 2), (0, 0, (low + high) / 2))
        walls = vessel(16, self.profile, self.thickness)
        body = [shape.moved((x, y, 0)) for shape in (floor, *walls)]
        model.solid(model.object, [*body, *_touchable(self.parts)], self.mass)

        outside, inside = _pixel(self.rgb), _pixel(self.inner or self.rgb)
        rim = _pixel(self.rim) if self.rim else outside
        stops = ((0.45, outside), (0.55, rim), (1.0, inside))
        material = _picture(model, folder, labels.bands(stops), self.shine)
        form = mesh.lathe(*mesh.hollow(self.profile, self.thickness, self.base))
        look = model.mesh("body", form, folder).moved((x, y, 0))
        model.look(model.object, [look], material)
        _add_parts(model, folder, self.parts)


@dataclass(frozen=True)
class Plate:
    """A flat disc with a sloping rim."""

    floor_radius: float
    rim: tuple[tuple[float, float], tuple[float, float]]
    """Where it can be touched: some packaged init states hold a bowl so close that a full rim would
    fling it away. The look goes on to `edge`."""
    edge: tuple[float, float]
    thickness: float
    base: tuple[float, float]
    mass: float
    rgb: Rgb
    accent: Colour

    def make(self, model: Model, folder: Path) -> None:
        """Touchable: a square floor and twelve slabs of rim."""
        low, high = self.base
        half, mid = (high - low) / 2, (low + high) / 2
        side = self.floor_radius / 2**0.5
        floor = box((side, side, half), (0, 0, mid))
        model.solid(model.object, [floor, *vessel(12, self.rim, self.thickness)], self.mass)

        white = _pixel(self.rgb)
        radius, height = self.edge
        outline = [(0.0, low), (self.rim[0][0], low), (radius, height - self.thickness / 2)]
        outline += [(radius, height + 0.001), (self.floor_radius, high), (0.0, high)]
        # white below; from the picture's upper half on: lip, rim, and a ring round the middle
        rows = [0.0, 0.2, 0.45, 0.5, 0.8, 1.0]
        stops = ((0.45, white), (0.54, self.accent), (0.80, white), (0.83, self.accent))
        picture = labels.bands((*stops, (1.0, white)))
        material = _picture(model, folder, picture, 0.4)
        look = model.mesh("body", mesh.lathe(outline, rows, segments=32), folder)
        model.look(model.object, [look], material)


@dataclass(frozen=True)
class Turned:
    """A solid turned body: a can, a bottle, a pot. `profile` is its outside."""

    profile: Profile
    blocks: tuple[tuple[float, float, float], ...]
    """What can be touched: (lowest z, highest z, radius) of a prism each."""
    mass: float
    stops: tuple[tuple[float, Colour], ...]
    """Colours, each up to its share of the height."""
    label: Label | None = None
    span: tuple[float, float] = (0.0, 1.0)
    """Shares of the height between which the label sticks."""
    squash: float = 1.0
    """Factor on y, for bodies that are not round."""
    segments: int = mesh.SEGMENTS
    shine: float = 0.5
    parts: tuple[Part, ...] = ()

    def make(self, model: Model, folder: Path) -> None:
        """Touchable: a few boxes for each block."""
        solids = [shape for block in self.blocks for shape in self._prism(*block)]
        model.solid(model.object, [*solids, *_touchable(self.parts)], self.mass)

        low, high = self.profile[0][1], self.profile[-1][1]
        outline = [(0.0, low), *self.profile, (0.0, high)]
        form = mesh.lathe(outline, segments=self.segments, squash=self.squash)
        strip = labels.bands(self.stops)
        if self.label is not None:
            strip = labels.wrap(self.label, self.span, self.stops)
        material = _picture(model, folder, strip, self.shine)
        model.look(model.object, [model.mesh("body", form, folder)], material)
        _add_parts(model, folder, self.parts)

    def _prism(self, low: float, high: float, radius: float) -> list[Shape]:
        """Boxes whose edges lie on the round; one alone stands on the ground.

        Every box that did would bring four contacts of its own, which cost time and hold no better.
        """
        angles = [math.pi * k / 16 for k in (2, 4, 6)]
        sizes = [(radius * math.cos(a), self.squash * radius * math.sin(a)) for a in angles]
        flats = [(size, turn_z(0.0)) for size in (sizes[0], sizes[2])]
        if self.squash == 1.0:
            flats += [(sizes[0], turn_z(k * math.pi / 4)) for k in (1, 3)]
        core = slab((-sizes[1][0], -sizes[1][1], low), (sizes[1][0], sizes[1][1], high))
        raised = low + 0.001
        half, middle = (high - raised) / 2, (0.0, 0.0, (high + raised) / 2)
        return [core, *(box((x, y, half), middle, quat) for (x, y), quat in flats)]


@dataclass(frozen=True)
class Carton:
    """A printed cardboard box; `half` are its half extents."""

    half: tuple[float, float, float]
    mass: float
    label: Label
    titled: str = "F"
    """Faces that carry the label: R +x, L -x, U +y, D -y, F +z, B -z."""

    def make(self, model: Model, folder: Path) -> None:
        """One box, with a picture for each face."""
        labels.carton(self.label, self.titled).save(folder / "faces.png")
        printed = model.material("printed", texture="faces.png", faces=True)
        model.solid(model.object, [box(self.half)], self.mass)
        model.look(model.object, [box(self.half)], printed)


@dataclass(frozen=True)
class GableCarton:
    """A drinks carton that stands along y, with a roof whose ridge runs along x."""

    half: float
    """Half the side of its square base."""
    low: float
    shoulder: float
    high: float
    """Heights (y) of the base, of where the roof begins, and of the fin's upper edge."""
    mass: float
    label: Label

    def make(self, model: Model, folder: Path) -> None:
        """Touchable: the body, half a roof, and the fin."""
        height, middle = (self.shoulder - self.low) / 2, (self.shoulder + self.low) / 2
        body = box((self.half, height, self.half), (0, middle, 0))
        ridge = self.high - 0.012
        fin = box((self.half, 0.008, 0.0025), (0, self.high - 0.008, 0))
        roof = box(
            (self.half, (ridge - self.shoulder) / 2, self.half / 2),
            (0, (ridge + self.shoulder) / 2, 0),
        )
        model.solid(model.object, [body, roof, fin], self.mass)

        labels.carton(self.label, "LFRB").save(folder / "faces.png")
        printed = model.material("printed", texture="faces.png", faces=True)
        model.look(model.object, [body], printed)
        r, g, b = (c / 255 for c in self.label.accent)
        plain = model.material("roof", (r, g, b))
        # anticlockwise in (y, z)
        gable = [(self.shoulder, -self.half), (ridge, 0.0), (self.shoulder, self.half)]
        form = mesh.prism(gable, self.half)
        model.look(model.object, [model.mesh("roof", form, folder), fin], plain)


@dataclass(frozen=True)
class Piece:
    """Boards of one surface."""

    boxes: tuple[Shape, ...]
    rgb: Rgb
    draw: Callable[[str, Colour], Image.Image] | None = None
    """Grain or weave, from `textures`; a plain colour if there is none."""
    solid: bool = True
    """Whether it can be touched."""


@dataclass(frozen=True)
class Joinery:
    """Something made of boards: a basket, a rack, a book."""

    pieces: tuple[Piece, ...]
    mass: float | None
    sites: tuple[tuple[str, Shape], ...] = ()
    """Regions that predicates ask for."""
    shine: float = 0.15

    def make(self, model: Model, folder: Path) -> None:
        """Every solid piece can be touched as it looks."""
        for name, region in self.sites:
            model.site(model.object, name, region)
        solids = [shape for piece in self.pieces if piece.solid for shape in piece.boxes]
        model.solid(model.object, solids, self.mass)
        for k, piece in enumerate(self.pieces):
            name = f"surface{k}"
            if piece.draw is None:
                material = model.material(name, piece.rgb, shine=self.shine)
            else:
                picture = piece.draw(f"{folder.name}/{name}", _pixel(piece.rgb))
                picture.resize((128, 128), Image.Resampling.BOX).save(folder / f"{name}.png")
                material = model.material(name, texture=f"{name}.png", shine=self.shine)
            model.look(model.object, piece.boxes, material)


Thing = Bowl | Plate | Turned | Carton | GableCarton | Joinery
