"""The room: floor, walls, lights, cameras, and the table or bare floor the task happens on.

Element names are those LIBERO's arena classes look up and edit (they resize the table and swap the
floor and wall pictures); lights and cameras stand where LIBERO's stand.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from vlaprune_bench.sim.assets.lite_mjcf import Quat, Vec3, numbers, save_xml

FOLDER = "scenes"

# Wall panels: name, centre (x, y), half width, direction of its normal in degrees.
_WALLS = (
    ("leftcorner", (-1.25, 2.25), 1.06, -45),
    ("rightcorner", (-1.25, -2.25), 1.06, 45),
    ("left", (1.25, 3.0), 1.75, -90),
    ("right", (1.25, -3.0), 1.75, 90),
    ("rear", (-2.0, 0.0), 1.5, 0),
    ("front", (3.0, 0.0), 3.0, 180),
)
_HALF_HEIGHT = 1.5
_POINT = "0.001 0.001 0.001"

# Cameras: position, quaternion. LIBERO's problem classes move `agentview` and `frontview` later.
_CAMERAS: dict[str, tuple[Vec3, Quat]] = {
    "frontview": ((1.0, 0.0, 1.45), (0.56, 0.43, 0.43, 0.56)),
    "birdview": ((-0.2, 0.0, 3.0), (0.7071, 0.0, 0.0, 0.7071)),
    "agentview": ((0.5, 0.0, 1.35), (0.653, 0.271, 0.271, 0.653)),
    "sideview": (
        (-0.05651774593317116, 1.2761224129427358, 1.4879572214102434),
        (0.009905065491771751, 0.006877963156909582, 0.5912228352893879, 0.806418094001364),
    ),
}


def _facing(degrees: float) -> Quat:
    """Local x along the wall, y up, z along the normal at `degrees` in the floor plane.

    Pictures are projected along a geom's local z, so a panel must lie in its own xy plane.
    """
    half = math.radians(degrees + 90) / 2
    c, s = math.cos(half) * math.sqrt(0.5), math.sin(half) * math.sqrt(0.5)
    return (c, c, s, s)


def _room() -> tuple[ET.Element, ET.Element, ET.Element]:
    """A model with sky, surfaces, walls, lights and cameras: (root, asset, worldbody)."""
    root = ET.Element("mujoco", model="arena")
    asset, world = ET.SubElement(root, "asset"), ET.SubElement(root, "worldbody")
    sky = {"type": "skybox", "builtin": "gradient", "rgb1": "0.9 0.9 1", "rgb2": "0.2 0.3 0.4"}
    ET.SubElement(asset, "texture", {**sky, "width": "64", "height": "64"})
    _surface(asset, "texplane", "light-gray-floor-tile.png", "floorplane", "3 3", shine="0")
    _surface(asset, "tex-wall", "light-gray-plaster.png", "walls_mat", "3 3", shine="0.1")
    for name, (x, y), half, normal in _WALLS:
        _visual(
            world,
            f"wall_{name}_visual",
            "box",
            (half, _HALF_HEIGHT, 0.01),
            "walls_mat",
            (x, y, _HALF_HEIGHT),
            _facing(normal),
        )
    for k, pos in enumerate(((1.0, 1.0, 4.0), (-3.0, -3.0, 4.0)), start=1):
        light = {"name": f"light{k}", "pos": numbers(pos), "dir": "0 -0.15 -1"}
        light |= {"diffuse": "0.8 0.8 0.8", "specular": "0.3 0.3 0.3"}
        ET.SubElement(world, "light", {**light, "directional": "false", "castshadow": "false"})
    for name, (pos, quat) in _CAMERAS.items():
        pose = {"pos": numbers(pos), "quat": numbers(quat)}
        ET.SubElement(world, "camera", {"name": name, "mode": "fixed", **pose})
    return root, asset, world


def _surface(
    asset: ET.Element, texture: str, file: str, material: str, repeat: str, shine: str
) -> None:
    """A flat picture and the material that spreads it at a fixed scale over planes and boxes."""
    ET.SubElement(asset, "texture", name=texture, type="2d", file=f"../textures/{file}")
    attributes = {"name": material, "texture": texture, "texrepeat": repeat, "texuniform": "true"}
    ET.SubElement(asset, "material", {**attributes, "specular": shine, "shininess": shine})


def _visual(
    parent: ET.Element,
    name: str,
    kind: str,
    size: tuple[float, ...],
    material: str,
    pos: Vec3 = (0.0, 0.0, 0.0),
    quat: Quat = (1.0, 0.0, 0.0, 0.0),
) -> None:
    """A named geom that touches nothing."""
    geom = {"name": name, "type": kind, "size": numbers(size), "material": material}
    geom |= {"pos": numbers(pos), "quat": numbers(quat), "group": "1"}
    ET.SubElement(parent, "geom", {**geom, "contype": "0", "conaffinity": "0"})


def _floor(parent: ET.Element) -> None:
    """The ground plane."""
    floor = {"name": "floor", "type": "plane", "size": "3 3 0.125", "condim": "3", "group": "1"}
    ET.SubElement(parent, "geom", {**floor, "material": "floorplane"})


def floor_arena(path: Path) -> None:
    """A bare floor, as a body: LIBERO adds its target zones to it."""
    root, _, world = _room()
    _floor(ET.SubElement(world, "body", name="floor"))
    save_xml(root, path)


def table_arena(path: Path) -> None:
    """A table in the room; LIBERO sets its size, height, friction and legs."""
    root, asset, world = _room()
    wood = {"type": "cube", "file": "../textures/martin_novak_wood_table.png"}
    ET.SubElement(asset, "texture", {"name": "tex-table", **wood})
    for name in ("table_texture", "table_legs"):
        material = {"name": name, "texture": "tex-table", "specular": "0.2", "shininess": "0"}
        ET.SubElement(asset, "material", material)
    _floor(world)
    table = ET.SubElement(world, "body", name="table", pos="0 0 0.4")
    collision = {"name": "table_collision", "type": "box", "group": "0", "size": "0.4 0.4 0.4"}
    ET.SubElement(table, "geom", {**collision, "friction": "1 0.005 0.0001"})
    _visual(table, "table_visual", "box", (0.4, 0.4, 0.4), "table_texture")
    ET.SubElement(table, "site", name="table_top", pos="0 0 0.4", size=_POINT, rgba="0 0 0 0")
    for k in range(1, 5):
        _visual(table, f"table_leg{k}_visual", "cylinder", (0.05, 0.1), "table_legs")
    save_xml(root, path)


ARENAS = {
    "libero_floor_base_style": floor_arena,
    "libero_tabletop_base_style": table_arena,
}


def write_arenas(root: Path) -> list[str]:
    """Write every entry of `ARENAS` below `root`; returns their names."""
    for name, make in ARENAS.items():
        make(root / FOLDER / f"{name}.xml")
    return list(ARENAS)
