"""Furniture that is placed anew at each reset: the cabinet with three drawers, and the stove.

Joint names, axes, ranges and damping, body and site names, and the positions the predicates test
follow LIBERO's fixtures; the geometry is ours.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from vlaprune_bench.sim.assets import lite_textures
from vlaprune_bench.sim.assets.lite_mjcf import (
    ALONG_X,
    Model,
    Shape,
    Vec3,
    box,
    cylinder,
    slab,
    turn_z,
)

FOLDER = "articulated_objects"
_RADIUS: Vec3 = (0.045, 0.045, 0.0)

# Cabinet, metres: the carcass spans these corners; each drawer is given by its front panel's
# (lowest, highest) edge, its region's centre, and its handle's height.
_LOW, _HIGH = (-0.1173, -0.0792, 0.0046), (0.1241, 0.1117, 0.2230)
_DRAWERS = {
    "top": (0.1488, 0.2174, 0.18563, 0.184),
    "middle": (0.0791, 0.1477, 0.11690, 0.1104),
    "bottom": (0.0105, 0.0790, 0.04701, 0.0411),
}


def cabinet(model: Model, folder: Path) -> None:
    """A wooden chest of three drawers that slide along -y."""
    lite_textures.wood("cabinet", (62, 46, 36), 0.16).save(folder / "grain.png")
    lite_textures.wood("drawer", (104, 76, 54), 0.14).save(folder / "front.png")
    lite_textures.brushed("handle", (150, 150, 150)).save(folder / "handle.png")
    wood = model.material("wood", texture=f"{folder.name}/grain.png", shine=0.1)
    front = model.material("front", texture=f"{folder.name}/front.png", shine=0.1)
    metal = model.material("metal", texture=f"{folder.name}/handle.png", shine=0.6)

    base = model.body(model.object, "base")
    top = box((0.12534, 0.09438, 0.00147), (0.00354, 0.01567, 0.22152))
    model.site(base, "top_side", top, (0.8, 0.8, 0.0, 0.0))
    carcass = _carcass()
    model.solid(base, carcass)
    model.look(base, [*carcass, _top_board()], wood)
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
    lite_textures.brushed("stove", (176, 176, 178)).save(folder / "metal.png")
    grooves = (*(k / 6 for k in range(1, 6)), 0.97)
    lite_textures.rings((62, 62, 64), (28, 28, 30), grooves).save(folder / "burner.png")
    metal = model.material("metal", texture=f"{folder.name}/metal.png", shine=0.5)
    plate = model.material("plate", texture=f"{folder.name}/burner.png", kind="2d", shine=0.3)
    dark = model.material("dark", (0.09, 0.09, 0.09), shine=0.4)

    base = model.body(model.object, "base")
    burner = model.body(base, "burner", (0.15, 0, 0))
    cook = box((0.075, 0.075, 0.0025))
    model.site(burner, "cook_region", cook, (0.8, 0.8, 0.0, 0.0))
    block, lid = box((0.095, 0.095, 0.02)), box((0.095, 0.095, 0.0005), (0, 0, 0.025))
    model.solid(burner, [block, lid], names=("base", "collision_burner"))
    model.look(burner, [block], metal)
    model.look(model.body(burner, "burner_plate"), [cylinder(0.065, 0.003, (0, 0, 0.0224))], plate)
    glow = cylinder(0.0625, 0.0005, (0, 0, 0.022))
    model.site(burner, "burner", glow, (0.9, 0.05, 0.05, 1.0))
    _knob(model, model.body(base, "button", quat=turn_z(math.pi / 2)), dark)


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


FIXTURES: dict[str, Callable[[Model, Path], None]] = {
    "wooden_cabinet": cabinet,
    "flat_stove": stove,
}


def write_fixtures(root: Path) -> list[str]:
    """Write every entry of `FIXTURES` below `root`; returns their names."""
    for name, make in FIXTURES.items():
        folder = root / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        model = Model(name, bottom=-0.045, top=0.045, radius=_RADIUS)
        make(model, folder)
        model.save(root / FOLDER / f"{name}.xml")
    return list(FIXTURES)
