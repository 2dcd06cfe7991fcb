"""Furniture with joints: the cabinets with three drawers, the stove, and the microwave.

Joint names, axes, ranges and damping, body and site names, and the positions the predicates test
follow LIBERO's fixtures; the geometry is ours.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from vlaprune_bench.lite import labels, mesh, textures
from vlaprune_bench.lite.mjcf import (
    ALONG_X,
    Model,
    Shape,
    box,
    cylinder,
    slab,
    turn_z,
)
from vlaprune_bench.lite.textures import Colour

FOLDER = "articulated_objects"

# Cabinet, metres: the carcass spans these corners; each drawer is given by its front panel's
# (lowest, highest) edge, its region's centre, and its handle's height.
_LOW, _HIGH = (-0.1173, -0.0792, 0.0046), (0.1241, 0.1117, 0.2230)
_DRAWERS = {
    "top": (0.1488, 0.2174, 0.18563, 0.184),
    "middle": (0.0791, 0.1477, 0.11690, 0.1104),
    "bottom": (0.0105, 0.0790, 0.04701, 0.0411),
}


def wooden_cabinet(model: Model, folder: Path) -> None:
    """The dark cabinet."""
    _cabinet(model, folder, (62, 46, 36), (104, 76, 54), 0.15)


def white_cabinet(model: Model, folder: Path) -> None:
    """The white cabinet."""
    _cabinet(model, folder, (204, 204, 204), (226, 226, 224), 0.03)


def _cabinet(model: Model, folder: Path, carcass: Colour, fronts: Colour, contrast: float) -> None:
    """A chest of three drawers that slide along -y."""
    textures.wood("cabinet", carcass, contrast).save(folder / "grain.png")
    textures.wood("drawer", fronts, contrast).save(folder / "front.png")
    textures.brushed("handle", (150, 150, 150)).save(folder / "handle.png")
    wood = model.material("wood", texture=f"{folder.name}/grain.png", shine=0.1)
    front = model.material("front", texture=f"{folder.name}/front.png", shine=0.1)
    metal = model.material("metal", texture=f"{folder.name}/handle.png", shine=0.6)

    base = model.body(model.object, "base")
    top = box((0.12534, 0.09438, 0.00147), (0.00354, 0.01567, 0.22152))
    model.site(base, "top_side", top, (0.8, 0.8, 0.0, 0.0))
    boards = _carcass()
    model.solid(base, boards)
    model.look(base, [*boards, _top_board()], wood)
    for name, (low, high, region, handle) in _DRAWERS.items():
        drawer = model.body(base, f"cabinet_{name}")
        model.joint(drawer, f"{name}_level", "slide", (0, 1, 0), (-0.16, 0.01), damping=50)
        # x and z are swapped by a quarter turn about y, as LIBERO's predicates expect
        space = box((0.02993, 0.07561, 0.10224), (0.00328, 0.01128, region), ALONG_X)
        model.site(drawer, f"{name}_region", space)
        panel, *tray = _drawer(low, high)
        bar, posts = _handle(handle)
        model.solid(drawer, [panel, *tray, bar, *posts])
        model.look(drawer, [panel], front)
        model.look(drawer, tray, wood)
        grip = cylinder(0.0075, 0.0445, bar.pos, ALONG_X)
        model.look(drawer, [grip, *posts], metal)


def _carcass() -> list[Shape]:
    """Back, floor, sides, lid and the two boards between the drawers.

    The lid can be touched up to where a closed drawer begins, so that bowls drop past its edge.
    """
    (x0, y0, z0), (x1, y1, z1) = _LOW, _HIGH
    return [
        slab((x0, 0.1070, z0), (x1, y1, 0.2201)),
        slab((x0, y0, z0), (x1, y1, 0.0091)),
        slab((x0, y0, z0), (-0.1070, y1, 0.2201)),
        slab((0.1138, y0, z0), (x1, y1, 0.2201)),
        slab((-0.1234, -0.0660, 0.2201), (0.1312, 0.1099, z1)),
        slab((-0.1070, -0.0709, 0.0784), (0.1138, 0.1070, 0.0802)),
        slab((-0.1070, -0.0709, 0.1484), (0.1138, 0.1070, 0.1502)),
    ]


def _top_board() -> Shape:
    """The visible lid, a little wider than the carcass."""
    return slab((-0.1247, -0.0790, 0.2190), (0.1322, 0.1164, 0.2232))


def _drawer(low: float, high: float) -> list[Shape]:
    """Front panel, then inner front, back, two sides and floor, clear of the carcass."""
    floor, rim = low + 0.0026, high - 0.002
    return [
        slab((-0.1060, -0.0780, low), (0.1127, -0.0715, high)),
        slab((-0.1035, -0.0715, floor), (0.1104, -0.0648, rim)),
        slab((-0.1035, 0.0872, floor), (0.1104, 0.0943, rim)),
        slab((-0.1046, -0.0648, floor), (-0.0992, 0.0872, rim)),
        slab((0.1063, -0.0648, floor), (0.1116, 0.0872, rim)),
        slab((-0.0992, -0.0648, floor), (0.1063, 0.0872, low + 0.0104)),
    ]


def _handle(z: float) -> tuple[Shape, list[Shape]]:
    """A bar along x and the two posts that hold it."""
    bar = box((0.0445, 0.0077, 0.0082), (-0.0028, -0.1016, z))
    posts = [box((0.0050, 0.0106, 0.0055), (x, -0.0835, z)) for x in (-0.0356, 0.0292)]
    return bar, posts


def stove(model: Model, folder: Path) -> None:
    """A flat cooker: a burner on a metal block, and a knob that turns about z."""
    textures.brushed("stove", (176, 176, 178)).save(folder / "metal.png")
    metal = model.material("metal", texture=f"{folder.name}/metal.png", shine=0.5)
    shades = ((0.5, (36, 36, 38)), (1.0, (92, 92, 94)))
    labels.bands(shades).save(folder / "burner.png")
    plate = model.material("plate", texture=f"{folder.name}/burner.png", kind="2d", shine=0.3)
    dark = model.material("dark", (0.09, 0.09, 0.09), shine=0.4)

    base = model.body(model.object, "base")
    burner = model.body(base, "burner", (0.15, 0, 0))
    cook = box((0.075, 0.075, 0.0025))
    model.site(burner, "cook_region", cook, (0.8, 0.8, 0.0, 0.0))
    block, lid = box((0.095, 0.095, 0.02)), box((0.095, 0.095, 0.0005), (0, 0, 0.025))
    model.solid(burner, [block, lid], names=("base", "collision_burner"))
    model.look(burner, [block], metal)
    coil = model.mesh("burner", mesh.lathe(*_coil()), folder, f"{folder.name}/")
    model.look(model.body(burner, "burner_plate"), [coil], plate)
    glow = cylinder(0.0625, 0.0005, (0, 0, 0.022))
    model.site(burner, "burner", glow, (0.9, 0.05, 0.05, 1.0))
    _knob(model, model.body(base, "button", quat=turn_z(math.pi / 2)), dark)


def _coil() -> tuple[list[tuple[float, float]], list[float]]:
    """Outline and picture rows of a plate with four light ridges.

    The glow of a burner that is on shows between them.
    """
    low, valley, ridge = 0.0190, 0.0206, 0.0254
    outline, rows = [(0.0, low), (0.065, low)], [0.0, 0.0]
    for k in range(4):
        outer, inner, following = (
            0.065 - d for d in (0.015 * k, 0.015 * k + 0.008, 0.015 * (k + 1))
        )
        outline += [(outer, ridge), (inner, ridge), (inner, valley), (following, valley)]
        rows += [1.0, 1.0, 0.0, 0.0]
    return [*outline, (0.0, valley)], [*rows, 0.0]


def _knob(model: Model, button: ET.Element, material: str) -> None:
    """A disc with a ridge to pinch, on a hinge."""
    model.joint(button, "button", "hinge", (0, 0, 1), (-0.005, 2.1), damping=1)
    height = 0.0062
    centre = (0.0013, 0.0045, height + 0.0004)
    octagon = [box((0.0475, 0.0197, height), centre, turn_z(k * math.pi / 4)) for k in range(4)]
    ridge = [slab((-0.011, -0.0172, 0.0128), (0.0135, 0.0520, 0.0500))]
    ridge += [slab((-0.011, -0.0320, 0.0128), (0.0134, -0.0172, 0.0440))]
    ridge += [slab((-0.011, -0.0407, 0.0128), (0.0132, -0.0320, 0.0338))]
    model.solid(button, [*octagon, *ridge])
    model.look(button, [cylinder(0.0475, height, centre), *ridge], material)


# Microwave, metres: the corners of the case, and how far its walls reach inwards.
_CASE = ((-0.1725, -0.0880, 0.0), (0.1725, 0.1110, 0.1870))
_CAVITY = ((-0.1435, -0.0875, 0.0240), (0.0635, 0.0805, 0.1680))


def microwave(model: Model, folder: Path) -> None:
    """An oven whose door swings about its left edge, towards -y."""
    black = model.material("black", (0.10, 0.10, 0.105), shine=0.5)
    inside = model.material("inside", (0.33, 0.33, 0.34), shine=0.2)
    metal = model.material("metal", (0.62, 0.62, 0.63), shine=0.7)
    model.site(model.object, "top_side", box((0.12, 0.0835, 0.005), (0, 0.01, 0.20)))
    model.site(model.object, "heating_region", box((0.12, 0.0835, 0.08), (0, 0.01, 0.096)))
    (x0, y0, z0), (x1, y1, z1) = _CASE
    (a0, _, c0), (a1, b1, c1) = _CAVITY
    walls = [
        slab((x0, y0, z0), (a0, y1, z1)),
        slab((a1, y0, z0), (x1, y1, z1)),
        slab((a0, b1, z0), (a1, y1, z1)),
        slab((a0, y0, c1), (a1, b1, z1)),
        slab((a0, y0, z0), (a1, b1, c0)),
    ]
    panel = slab((0.0875, -0.1105, z0), (x1, y0, z1))
    model.solid(model.object, [*walls, panel], 3.0, passive=True)
    model.look(model.object, [*walls, panel], black)
    model.look(model.object, [slab((a0, b1 - 0.001, c0), (a1, b1, c1))], inside)
    buttons = [
        slab((x - 0.008, -0.1115, z - 0.006), (x + 0.008, -0.1100, z + 0.006))
        for x in (0.113, 0.147)
        for z in (0.040, 0.065, 0.090)
    ]
    model.look(model.object, [*buttons, slab((0.1, -0.1115, 0.13), (0.16, -0.11, 0.16))], metal)
    _door(model, black, metal)


def _door(model: Model, frame: str, metal: str) -> None:
    """A framed pane with a bar to pull, hinged at its left edge."""
    door = model.body(model.object, "microdoorroot", (-0.1725, -0.088, 0.096))
    model.joint(door, "microjoint", "hinge", (0, 0, 1), (-2.094, 0.0), damping=0.5, inertial=False)
    x0, x1, y0, y1, z = 0.0, 0.2590, -0.0250, -0.0010, 0.0925
    bar = box((0.0090, 0.0090, 0.0750), (0.2375, -0.0540, 0))
    posts = [box((0.0090, 0.0150, 0.0090), (0.2375, -0.0375, s * 0.065)) for s in (-1, 1)]
    model.solid(door, [slab((x0, y0, -z), (x1, y1, z)), bar, *posts], 0.26, passive=True)
    boards = [
        slab((x0, y0, -z), (0.0350, y1, z)),
        slab((0.2190, y0, -z), (x1, y1, z)),
        slab((0.0350, y0, 0.0620), (0.2190, y1, z)),
        slab((0.0350, y0, -z), (0.2190, y1, -0.0620)),
    ]
    model.look(door, boards, frame)
    pane = model.material("pane", (0.30, 0.30, 0.30), shine=0.6, alpha=0.35)
    model.look(door, [slab((0.0350, -0.0150, -0.0620), (0.2190, -0.0110, 0.0620))], pane)
    model.look(door, [cylinder(0.0095, 0.0750, bar.pos), *posts], metal)


FIXTURES: dict[str, Callable[[Model, Path], None]] = {
    "flat_stove": stove,
    "microwave": microwave,
    "white_cabinet": white_cabinet,
    "wooden_cabinet": wooden_cabinet,
}

# Where the placement sites are: the cabinets' and the stove's, and the microwave's.
_SITES = {"microwave": (-0.06, 0.06, 0.015)}


def write_fixtures(root: Path) -> list[str]:
    """Write every entry of `FIXTURES` below `root`; returns their names."""
    for name, make in FIXTURES.items():
        folder = root / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        bottom, top, radius = _SITES.get(name, (-0.045, 0.045, 0.045))
        model = Model(name, bottom, top, (radius, radius, 0.0))
        make(model, folder)
        model.save(root / FOLDER / f"{name}.xml")
    return list(FIXTURES)
