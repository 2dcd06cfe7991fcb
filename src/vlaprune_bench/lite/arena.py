"""The five arenas: bare floor, table, kitchen table, living room table and study table.

Element names are those LIBERO's arena classes look up and edit: they resize the plain tables, swap
the floor and wall pictures, and add their target zones to the floor's or the table's body.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from vlaprune_bench.lite import mesh, textures
from vlaprune_bench.lite.mjcf import (
    Quat,
    Shape,
    Vec3,
    along_z_to_x,
    box,
    cylinder,
    save_xml,
    slab,
)
from vlaprune_bench.lite.room import (
    Wall,
    add_floor,
    add_mesh,
    decorate,
    furnish,
    make_room,
    plain,
    surface,
    visual,
)

FOLDER = "scenes"
_QUARTER_TURN = Image.Transpose.ROTATE_90

_KITCHEN_WALLS: tuple[Wall, ...] = (
    ("left", (0.5, 3.0), 2.5, -90),
    ("right", (0.5, -3.0), 2.5, 90),
    ("rear", (-2.0, 0.0), 3.0, 0),
    ("front", (3.0, 0.0), 3.0, 180),
)


def floor_arena(path: Path) -> None:
    """A bare floor."""
    root, _, world = make_room()
    add_floor(ET.SubElement(world, "body", name="floor"))
    save_xml(root, path)


def table_arena(path: Path) -> None:
    """A plain table in the room."""
    root, asset, world = make_room()
    _plain_table(asset, world)
    save_xml(root, path)


def kitchen_arena(path: Path) -> None:
    """The same table in a wider room with one more lamp."""
    root, asset, world = make_room(_KITCHEN_WALLS)
    _plain_table(asset, world)
    lamp = {"name": "light_kitchen", "pos": "-1.75 0 1.6", "dir": "0 0 -1", "directional": "true"}
    lamp |= {"diffuse": "0.8 0.8 0.8", "specular": "0.8 0.8 0.8", "castshadow": "false"}
    ET.SubElement(world, "light", lamp)
    save_xml(root, path)


def _plain_table(asset: ET.Element, world: ET.Element) -> None:
    """A table whose size, height, friction and legs LIBERO sets."""
    wood = {"type": "cube", "file": "../textures/martin_novak_wood_table.png"}
    ET.SubElement(asset, "texture", {"name": "tex-table", **wood})
    for name in ("table_texture", "table_legs"):
        material = {"name": name, "texture": "tex-table", "specular": "0.2", "shininess": "0"}
        ET.SubElement(asset, "material", material)
    add_floor(world)
    table = ET.SubElement(world, "body", name="table", pos="0 0 0.4")
    collision = {"name": "table_collision", "type": "box", "group": "0", "size": "0.4 0.4 0.4"}
    ET.SubElement(table, "geom", {**collision, "friction": "1 0.005 0.0001"})
    visual(table, "table_visual", "box", (0.4, 0.4, 0.4), "table_texture")
    point = "0.001 0.001 0.001"
    ET.SubElement(table, "site", name="table_top", pos="0 0 0.4", size=point, rgba="0 0 0 0")
    for k in range(1, 5):
        visual(table, f"table_leg{k}_visual", "cylinder", (0.05, 0.1), "table_legs")


def living_room_arena(path: Path) -> None:
    """A low dark table with round corners, a cupboard behind it and a picture on the wall."""
    root, asset, world = make_room()
    add_floor(ET.SubElement(world, "body", name="floor"))
    folder = path.parent
    top, under = 0.4368, 0.4131
    table = ET.SubElement(world, "body", name="living_room_table")
    body = ET.SubElement(table, "body", name="living_room_table_col")
    boards = [
        slab((-0.8242, -0.6193, under), (0.3387, 0.7241, top)),
        slab((-0.6668, -0.8214, under), (0.1668, -0.6193, top)),
        slab((-0.6668, 0.7241, under), (0.1668, 0.9007, top)),
        slab((-0.6616, -0.1852, 0.0), (0.1616, 0.6852, under)),
    ]
    furnish(body, boards)
    textures.wood("living_room_table", (80, 54, 42), 0.05).transpose(_QUARTER_TURN).save(
        folder / "dark_wood.png"
    )
    surface(
        asset, "tex-dark", "dark_wood.png", "dark_wood", "1 1", "0.1", folder=".", uniform=False
    )
    outline = _rounded(0.5985, 0.9175)
    top_mesh = mesh.prism(outline, (top - 0.393) / 2, tile=0.8)
    shape = add_mesh(asset, "living_room_table_top", top_mesh, folder)
    flat = along_z_to_x(-1)
    decorate(body, "dark_wood", [_at(shape, (-0.2388, 0.0246, (top + 0.393) / 2), flat)])
    decorate(body, "dark_wood", [cylinder(0.30, 0.1965, (-0.25, 0.03, 0.1965))])

    textures.patchwork("living_room").save(folder / "patchwork.png")
    surface(asset, "tex-unit", "patchwork.png", "unit", "1 1", "0.1", folder=".", uniform=False)
    decorate(
        world, plain(asset, "unit_sides", (0.12, 0.12, 0.12)), [_behind(-1.70, 0, 0.42, 0.84, 0.42)]
    )
    panel = box((0.84, 0.42, 0.001), (-1.559, 0.0, 0.42), (0.5, 0.5, 0.5, 0.5))
    decorate(world, "unit", [panel])
    decorate(
        world,
        plain(asset, "picture", (0.62, 0.40, 0.26)),
        [_behind(-1.97, 0.58, 1.46, 0.43, 0.5, 0.01)],
    )
    save_xml(root, path)


def study_arena(path: Path) -> None:
    """A wooden desk, with a shelf and a plant behind it and a lamp beside it."""
    root, asset, world = make_room()
    add_floor(world)
    folder = path.parent
    desk = ET.SubElement(world, "body", name="study_table")
    top = slab((-0.6895, -1.3927, 0.8134), (0.6895, 1.3927, 0.8851))
    legs = [
        slab((x - 0.02, y - 0.05, 0.0), (x + 0.02, y + 0.05, 0.8134))
        for x in (-0.5, 0.496)
        for y in (-0.69, 0.71)
    ]
    furnish(desk, [top, *legs])
    textures.wood("study_table", (150, 108, 58), 0.05).transpose(_QUARTER_TURN).save(
        folder / "desk_wood.png"
    )
    surface(asset, "tex-desk", "desk_wood.png", "desk_wood", "1 1", "0.1", folder=".")
    decorate(desk, "desk_wood", [top])
    decorate(desk, plain(asset, "desk_legs", (0.35, 0.25, 0.14)), legs)

    frame = plain(asset, "shelf", (0.74, 0.75, 0.76))
    boards = [_behind(-1.70, -1.0, z, 0.60, 0.012) for z in (0.1, 0.5, 0.9, 1.3, 1.78)]
    decorate(world, frame, [*boards, _behind(-1.86, -1.0, 0.9, 0.60, 0.9, 0.005)])
    dark = plain(asset, "shelf_sides", (0.10, 0.10, 0.11))
    sides = [_behind(-1.70, y, 0.9, 0.012, 0.9) for y in (-1.60, -0.39)]
    books = [_behind(-1.72, y, 1.02, 0.022, 0.11, 0.09) for y in (-0.50, -0.45)]
    decorate(world, dark, [*sides, *books])
    _plant(asset, world, (-1.80, 0.56))
    rod = [cylinder(0.010, 0.80, (0.3, -0.6, 1.70)), cylinder(0.10, 0.01, (0.3, -0.6, 0.90))]
    decorate(world, dark, rod)
    shade = cylinder(0.10, 0.08, (0.3, -0.6, 2.42))
    decorate(world, plain(asset, "shade", (0.90, 0.86, 0.74)), [shade])
    save_xml(root, path)


def _plant(asset: ET.Element, world: ET.Element, place: tuple[float, float]) -> None:
    """Two trunks in a pot, each with a tuft of long leaves."""
    x, y = place
    pot, trunk, leaf = (
        plain(asset, "pot", (0.52, 0.52, 0.52)),
        plain(asset, "trunk", (0.30, 0.23, 0.15)),
        plain(asset, "leaf", (0.30, 0.52, 0.17)),
    )
    decorate(world, pot, [cylinder(0.15, 0.16, (x, y, 0.16))])
    for dy, top in ((-0.06, 1.00), (0.07, 0.72)):
        decorate(world, trunk, [cylinder(0.03, (top - 0.3) / 2, (x, y + dy, (top + 0.3) / 2))])
        leaves = []
        for k in range(11):
            turn, rise = 2.4 * k, 0.10 + 0.11 * k
            leaves.append(_leaf((x, y + dy, top), turn, rise, 0.20))
        decorate(world, leaf, leaves)


def _leaf(root: Vec3, turn: float, rise: float, half: float) -> Shape:
    """A thin blade from `root`, at angle `turn` about z and `rise` above the level."""
    reach, height = half * math.cos(rise), half * math.sin(rise)
    centre = (
        root[0] + reach * math.cos(turn),
        root[1] + reach * math.sin(turn),
        root[2] + height,
    )
    (cz, sz), (cy, sy) = (
        (math.cos(turn / 2), math.sin(turn / 2)),
        (math.cos(-rise / 2), math.sin(-rise / 2)),
    )
    return box((half, 0.022, 0.002), centre, (cz * cy, -sz * sy, cz * sy, sz * cy))


def _behind(
    x: float, y: float, z: float, half_width: float, half_height: float, half_depth: float = 0.14
) -> Shape:
    """A box along the rear wall."""
    return box((half_depth, half_width, half_height), (x, y, z))


def _at(shape: Shape, pos: Vec3, quat: Quat) -> Shape:
    return Shape(shape.kind, shape.size, pos, quat, shape.mesh)


def _rounded(half_x: float, half_y: float, corners: int = 48) -> list[tuple[float, float]]:
    """A superellipse, anticlockwise, as the (y, -x) points that `prism` lays flat."""
    points = []
    for k in range(corners):
        c, s = math.cos(2 * math.pi * k / corners), math.sin(2 * math.pi * k / corners)
        x = half_x * math.copysign(abs(c) ** 0.55, c)
        y = half_y * math.copysign(abs(s) ** 0.55, s)
        points.append((y, -x))
    return points


ARENAS: dict[str, Callable[[Path], None]] = {
    "libero_floor_base_style": floor_arena,
    "libero_kitchen_tabletop_base_style": kitchen_arena,
    "libero_living_room_tabletop_base_style": living_room_arena,
    "libero_study_base_style": study_arena,
    "libero_tabletop_base_style": table_arena,
}


def write_arenas(root: Path) -> list[str]:
    """Write every entry of `ARENAS` below `root`; returns their names."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in ARENAS.items():
        make(folder / f"{name}.xml")
    return list(ARENAS)
