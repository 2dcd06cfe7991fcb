"""What every arena has: floor, walls, lights, cameras; and how things are put into one.

Element names are those LIBERO's arena classes look up and edit (they swap the floor and wall
pictures); lights and cameras stand where LIBERO's stand.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from vlaprune_bench.lite.mesh import Mesh
from vlaprune_bench.lite.mjcf import CONTACT, Quat, Rgb, Shape, Vec3, numbers

Wall = tuple[str, tuple[float, float], float, float]
"""Name, centre (x, y), half width, direction of its normal in degrees."""

WALLS: tuple[Wall, ...] = (
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


def make_room(
    walls: tuple[Wall, ...] = WALLS,
) -> tuple[ET.Element, ET.Element, ET.Element]:
    """A model with sky, surfaces, walls, lights and cameras: (root, asset, worldbody)."""
    root = ET.Element("mujoco", model="arena")
    asset, world = ET.SubElement(root, "asset"), ET.SubElement(root, "worldbody")
    sky = {"type": "skybox", "builtin": "gradient", "rgb1": "0.9 0.9 1", "rgb2": "0.2 0.3 0.4"}
    ET.SubElement(asset, "texture", {**sky, "width": "64", "height": "64"})
    surface(asset, "texplane", "light-gray-floor-tile.png", "floorplane", "3 3", shine="0")
    surface(asset, "tex-wall", "light-gray-plaster.png", "walls_mat", "3 3", shine="0.1")
    for name, (x, y), half, normal in walls:
        visual(
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


def surface(
    asset: ET.Element,
    texture: str,
    file: str,
    material: str,
    repeat: str,
    shine: str,
    folder: str = "../textures",
    uniform: bool = True,
) -> None:
    """A flat picture and the material that spreads it at a fixed scale over planes and boxes.

    With `uniform` false it covers each shape once, or lies as a mesh's coordinates say.
    """
    ET.SubElement(asset, "texture", name=texture, type="2d", file=f"{folder}/{file}")
    attributes = {"name": material, "texture": texture, "texrepeat": repeat}
    attributes |= {"texuniform": "true"} if uniform else {}
    ET.SubElement(asset, "material", {**attributes, "specular": shine, "shininess": shine})


def visual(
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


def add_floor(parent: ET.Element) -> None:
    """The ground plane."""
    floor = {"name": "floor", "type": "plane", "size": "3 3 0.125", "condim": "3", "group": "1"}
    ET.SubElement(parent, "geom", {**floor, "material": "floorplane"})


def plain(asset: ET.Element, name: str, rgb: Rgb, shine: float = 0.2) -> str:
    """A material of one colour; returns its name."""
    shines = {"specular": numbers([shine]), "shininess": numbers([shine])}
    ET.SubElement(asset, "material", {"name": name, "rgba": numbers((*rgb, 1.0)), **shines})
    return name


def decorate(parent: ET.Element, material: str, shapes: Iterable[Shape]) -> None:
    """Things that are only looked at."""
    for shape in shapes:
        geom = {"type": shape.kind, "material": material, "group": "1"}
        geom |= {"mesh": shape.mesh} if shape.mesh else {"size": numbers(shape.size)}
        geom |= {"pos": numbers(shape.pos), "quat": numbers(shape.quat)}
        ET.SubElement(parent, "geom", {**geom, "contype": "0", "conaffinity": "0"})


def furnish(parent: ET.Element, shapes: Iterable[Shape]) -> None:
    """Boxes that hold what is put on them."""
    for shape in shapes:
        geom = {"type": shape.kind, "group": "0", "size": numbers(shape.size)}
        geom |= {"pos": numbers(shape.pos), "rgba": "0.8 0.8 0.8 0.3", **CONTACT}
        ET.SubElement(parent, "geom", geom)


def add_mesh(asset: ET.Element, name: str, mesh: Mesh, folder: Path) -> Shape:
    """Write `<name>.obj` into `folder`; returns its shape."""
    mesh.write(folder / f"{name}.obj")
    ET.SubElement(asset, "mesh", name=name, file=f"{name}.obj", inertia="shell")
    return Shape("mesh", (), mesh=name)
