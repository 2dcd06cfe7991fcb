"""Things on the table, as a table of entries: name -> how to make it.

Dimensions, masses and placement heights follow LIBERO's objects (its packaged init states and
predicates rely on them); the shapes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlaprune_bench.sim.assets import lite_textures
from vlaprune_bench.sim.assets.lite_mjcf import Model, Rgb, box, cylinder, ring, vessel

SCANNED = "stable_scanned_objects"
HOPE = "stable_hope_objects"

FACETS = 24
"""Boxes round a vessel's look; fewer would show at 256 pixels, more would cost rendering time."""


@dataclass(frozen=True)
class Bowl:
    """A round hollow vessel; `profile` is the middle of its wall as (radius, z), bottom first."""

    profile: tuple[tuple[float, float], ...]
    thickness: float
    base: tuple[float, float]
    """(lowest z, floor's upper side)."""
    mass: float
    rgb: Rgb
    rim: Rgb | None = None
    """Colour of a band round the upper edge, if it has one of its own."""
    shine: float = 0.5

    def make(self, model: Model, folder: Path) -> None:
        """Collision: one square floor and a ring of boxes a profile segment; the look is finer."""
        low, high = self.base
        side = 0.8 * self.profile[0][0]
        floor = box((side, side, (high - low) / 2), (0, 0, (low + high) / 2))
        walls = vessel(16, self.profile, self.thickness)
        model.solid(model.object, [floor, *walls], self.mass)

        colour = model.material("body", self.rgb, shine=self.shine)
        disc = cylinder(self.profile[0][0], (high - low) / 2, (0, 0, (low + high) / 2))
        model.look(model.object, [disc, *vessel(FACETS, self.profile, self.thickness)], colour)
        if self.rim is not None:
            r, z = self.profile[-1]
            band = ring(FACETS, (r, z - 0.003), (r, z + 0.0004), 1.25 * self.thickness)
            model.look(model.object, band, model.material("rim", self.rim, shine=self.shine))


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
    accent: lite_textures.Colour

    def make(self, model: Model, folder: Path) -> None:
        """Collision: a square floor and twelve slabs of rim."""
        low, high = self.base
        half, mid = (high - low) / 2, (low + high) / 2
        side = self.floor_radius / 2**0.5
        floor = box((side, side, half), (0, 0, mid))
        rim = ring(12, *self.rim, self.thickness)
        model.solid(model.object, [floor, *rim], self.mass)

        shade = tuple(int(255 * c) for c in self.rgb)
        picture = lite_textures.rings((shade[0], shade[1], shade[2]), self.accent, (0.8,))
        picture.save(folder / "floor.png")
        white = model.material("white", self.rgb, shine=0.4)
        printed = model.material("printed", texture="floor.png", kind="2d", shine=0.4)
        model.look(model.object, [cylinder(self.floor_radius, half, (0, 0, mid))], printed)
        inner, (radius, height) = self.rim[0], self.edge
        model.look(model.object, ring(FACETS, inner, self.edge, self.thickness), white)
        lip = ring(FACETS, self.edge, (radius + 0.0025, height + 0.0009), 0.9 * self.thickness)
        red, green, blue = (c / 255 for c in self.accent)
        model.look(model.object, lip, model.material("lip", (red, green, blue), shine=0.4))


@dataclass(frozen=True)
class Carton:
    """A printed cardboard box lying flat: `half` extents, the thinnest along z."""

    half: tuple[float, float, float]
    mass: float
    title: str
    colour: lite_textures.Colour
    accent: lite_textures.Colour
    spots: lite_textures.Colour

    def make(self, model: Model, folder: Path) -> None:
        """One box, with a picture for each face."""
        lite_textures.carton(self.colour, self.accent, self.title, self.spots).save(
            folder / "faces.png"
        )
        printed = model.material("printed", texture="faces.png", faces=True)
        model.solid(model.object, [box(self.half)], self.mass)
        model.look(model.object, [box(self.half)], printed)


@dataclass(frozen=True)
class Entry:
    """Where LIBERO looks for an object, what it is, and its placement sites' heights."""

    folder: str
    thing: Bowl | Plate | Carton
    bottom: float = -0.06
    top: float = 0.04


OBJECTS: dict[str, Entry] = {
    "akita_black_bowl": Entry(
        SCANNED,
        Bowl(
            profile=((0.0231, 0.0039), (0.0437, 0.0157), (0.0518, 0.0519)),
            thickness=0.0026,
            base=(0.0016, 0.0068),
            mass=0.0056,
            rgb=(0.06, 0.06, 0.065),
        ),
    ),
    "plate": Entry(
        SCANNED,
        Plate(
            floor_radius=0.045,
            rim=((0.0345, 0.0021), (0.0580, 0.0103)),
            edge=(0.0666, 0.0133),
            thickness=0.005,
            base=(-0.0021, 0.0053),
            mass=0.0115,
            rgb=(0.89, 0.89, 0.86),
            accent=(120, 150, 185),
        ),
    ),
    "glazed_rim_porcelain_ramekin": Entry(
        SCANNED,
        Bowl(
            profile=((0.0351, 0.0012), (0.0413, 0.0423)),
            thickness=0.0052,
            base=(0.0007, 0.0073),
            mass=0.0097,
            rgb=(0.86, 0.87, 0.88),
            rim=(0.72, 0.74, 0.78),
        ),
    ),
    "cookies": Entry(
        HOPE,
        Carton(
            half=(0.03104, 0.04131, 0.0094),
            mass=0.0096,
            title="COOKIES",
            colour=(176, 32, 36),
            accent=(238, 222, 190),
            spots=(176, 118, 62),
        ),
    ),
}


def write_objects(root: Path) -> list[str]:
    """Write every entry of `OBJECTS` below `root`; returns their names."""
    for name, entry in OBJECTS.items():
        folder = root / entry.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        model = Model(name, entry.bottom, entry.top)
        entry.thing.make(model, folder)
        model.save(folder / f"{name}.xml")
    return list(OBJECTS)
