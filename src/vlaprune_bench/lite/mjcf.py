"""A small vocabulary for writing MJCF: primitive shapes, rings of boxes, and one object file.

Lengths are metres, angles radians, quaternions (w, x, y, z). Every geom is either a collision
geom (group 0, the only group that carries mass in LIBERO) or a visual one (group 1, no contacts).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from vlaprune_bench.lite.mesh import Mesh

Vec3 = tuple[float, float, float]
Quat = tuple[float, float, float, float]
Rgb = tuple[float, float, float]

UPRIGHT: Quat = (1.0, 0.0, 0.0, 0.0)
ALONG_X: Quat = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)
"""Turns the z axis of a cylinder onto x."""

# The contact numbers LIBERO gives every object: stiff, and grippy enough for a rim grasp.
CONTACT = {
    "solimp": "0.998 0.998 0.001",
    "solref": "0.001 1",
    "friction": "0.95 0.3 0.1",
}


@dataclass(frozen=True)
class Shape:
    """A box (`size`: half extents), a cylinder (`size`: radius and half height) or a mesh."""

    kind: str
    size: tuple[float, ...]
    pos: Vec3 = (0.0, 0.0, 0.0)
    quat: Quat = UPRIGHT
    mesh: str | None = None
    """Name of the mesh asset, if it is one; such a shape can be seen but not touched."""

    def moved(self, by: Vec3) -> Shape:
        """The same shape elsewhere."""
        x, y, z = (a + b for a, b in zip(self.pos, by, strict=True))
        return replace(self, pos=(x, y, z))

    def y_up(self) -> Shape:
        """The same shape in a frame whose y axis points where its own z axis did."""
        (x, y, z), (a, b, c, d) = self.pos, self.quat
        h = math.sqrt(0.5)
        quat = (h * (a + b), h * (b - a), h * (c + d), h * (d - c))
        return replace(self, pos=(x, z, -y), quat=quat)

    @property
    def volume(self) -> float:
        """Cubic metres (used to spread an object's mass over its collision shapes)."""
        if self.kind == "box":
            return 8.0 * math.prod(self.size)
        radius, half = self.size
        return 2.0 * math.pi * radius**2 * half


def box(half: Vec3, pos: Vec3 = (0.0, 0.0, 0.0), quat: Quat = UPRIGHT) -> Shape:
    """A box from its half extents and centre."""
    return Shape("box", half, pos, quat)


def slab(low: Vec3, high: Vec3) -> Shape:
    """An axis-aligned box from its two extreme corners."""
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    mid = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    return Shape("box", half, (mid[0], mid[1], mid[2]))


def cylinder(
    radius: float, half: float, pos: Vec3 = (0.0, 0.0, 0.0), quat: Quat = UPRIGHT
) -> Shape:
    """A cylinder along its z axis."""
    return Shape("cylinder", (radius, half), pos, quat)


def turn_z(angle: float) -> Quat:
    """Rotation about z."""
    return (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2))


def turn_x(angle: float) -> Quat:
    """Rotation about x."""
    return (math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0)


def along_z_to_x(sign: int) -> Quat:
    """A quarter turn about y (`sign` 1) or back (-1): how LIBERO lays some of its regions."""
    half = math.sqrt(0.5)
    return (half, 0.0, sign * half, 0.0)


def ring(
    count: int, low: tuple[float, float], high: tuple[float, float], thickness: float
) -> list[Shape]:
    """Boxes round the z axis that tile the cone between two (radius, height) points.

    Args:
        count: Boxes in the ring.
        low, high: (radius, z) of the wall's middle surface at its lower and upper edge.
        thickness: Full thickness of the wall.

    Returns:
        `count` boxes whose local axes are: thickness, tangent, slope. They are wide enough to
        close the wider edge, hence overlap at the narrower one.
    """
    (r0, z0), (r1, z1) = low, high
    lean = math.atan2(r1 - r0, z1 - z0)
    half_slope = math.hypot(r1 - r0, z1 - z0) / 2
    half_width = (max(r0, r1) + thickness / 2) * math.tan(math.pi / count)
    radius, height = (r0 + r1) / 2, (z0 + z1) / 2
    boxes = []
    for k in range(count):
        phi = 2 * math.pi * k / count
        # Rz(phi) * Ry(lean) as a quaternion product
        cz, sz = math.cos(phi / 2), math.sin(phi / 2)
        cy, sy = math.cos(lean / 2), math.sin(lean / 2)
        boxes.append(
            Shape(
                "box",
                (thickness / 2, half_width, half_slope),
                (radius * math.cos(phi), radius * math.sin(phi), height),
                (cz * cy, -sz * sy, cz * sy, sz * cy),
            )
        )
    return boxes


def vessel(count: int, profile: Sequence[tuple[float, float]], thickness: float) -> list[Shape]:
    """Rings along a (radius, z) profile: the wall of a bowl, a plate's rim, a mug."""
    edges = pairwise(profile)
    return [shape for low, high in edges for shape in ring(count, low, high, thickness)]


def numbers(values: Iterable[float]) -> str:
    """Values as MJCF writes them, rounded to a tenth of a micrometre."""
    return " ".join(f"{value:.7g}" for value in (round(v, 7) + 0.0 for v in values))


class Model:
    """One object's MJCF file, laid out as LIBERO's object classes read it.

    `object` is the body that becomes `<name>_main`; the three placement sites beside it tell the
    placement samplers how high above a surface, and how far apart, objects are put down.
    """

    def __init__(
        self,
        name: str,
        bottom: float = -0.06,
        top: float = 0.04,
        radius: Vec3 = (0.025, 0.025, 0.0),
        y_up: bool = False,
    ) -> None:
        self.y_up = y_up
        """Whether shapes, given with z up, are to stand along the object's y axis."""
        self.root = ET.Element("mujoco", model=name)
        self.asset = ET.SubElement(self.root, "asset")
        outer = ET.SubElement(ET.SubElement(self.root, "worldbody"), "body")
        self.object = ET.SubElement(outer, "body", name="object")
        marks = {
            "bottom_site": (0.0, 0.0, bottom),
            "top_site": (0.0, 0.0, top),
            "horizontal_radius_site": radius,
        }
        for site, pos in marks.items():
            ET.SubElement(outer, "site", name=site, pos=numbers(pos), size="0.005", rgba="0 0 0 0")

    def material(
        self,
        name: str,
        rgb: Rgb = (1.0, 1.0, 1.0),
        texture: str | None = None,
        kind: str = "cube",
        faces: bool = False,
        shine: float = 0.2,
        alpha: float = 1.0,
    ) -> str:
        """Add a material and return its name.

        Args:
            name: Unique within the file.
            rgb: Colour, or tint of the texture, each in [0, 1].
            texture: PNG path relative to the file, or None for a plain colour.
            kind: "cube" wraps the picture round every face, "2d" projects it along z.
            faces: The PNG is a 3x4 grid of one picture a face (see `textures.carton`).
            alpha: Opacity.
            shine: Strength of highlights. Never reflectance: MuJoCo would draw the scene twice.
        """
        material = {"name": name, "rgba": numbers((*rgb, alpha))}
        material |= {"specular": numbers([shine]), "shininess": numbers([shine])}
        if texture is not None:
            attributes = {"name": f"tex-{name}", "type": kind, "file": texture}
            if faces:
                attributes |= {"gridsize": "3 4", "gridlayout": ".U..LFRB.D.."}
            ET.SubElement(self.asset, "texture", attributes)
            material["texture"] = f"tex-{name}"
        ET.SubElement(self.asset, "material", material)
        return name

    def mesh(self, name: str, mesh: Mesh, folder: Path, path: str = "") -> Shape:
        """Write `<name>.obj` into `folder`, which is `path` from the object's file.

        Returns:
            Its shape, to be looked at.
        """
        mesh.write(folder / f"{name}.obj")
        # A shell's inertia is always well defined, and what is only seen weighs nothing anyway.
        attributes = {"name": f"mesh-{name}", "file": f"{path}{name}.obj", "inertia": "shell"}
        ET.SubElement(self.asset, "mesh", attributes)
        return Shape("mesh", (), mesh=f"mesh-{name}")

    def body(
        self, parent: ET.Element, name: str, pos: Vec3 = (0.0, 0.0, 0.0), quat: Quat = UPRIGHT
    ) -> ET.Element:
        """A child body."""
        return ET.SubElement(parent, "body", name=name, pos=numbers(pos), quat=numbers(quat))

    def joint(
        self,
        body: ET.Element,
        name: str,
        kind: str,
        axis: Vec3,
        limits: tuple[float, float],
        damping: float,
        inertial: bool = True,
    ) -> None:
        """A limited slide or hinge, on a body of LIBERO's fixed inertia (3 kg, 1 kg m^2).

        With `inertial` false the inertia follows from what can be touched.
        """
        if inertial:
            ET.SubElement(body, "inertial", pos="0 0 0", mass="3", diaginertia="1 1 1")
        ET.SubElement(
            body,
            "joint",
            name=name,
            type=kind,
            axis=numbers(axis),
            limited="true",
            range=numbers(limits),
            damping=numbers([damping]),
        )

    def solid(
        self,
        body: ET.Element,
        shapes: Sequence[Shape],
        mass: float | None = None,
        names: Sequence[str] = (),
        passive: bool = False,
    ) -> None:
        """Collision geoms; `mass` (kg) is spread by volume, None is for bodies that cannot move.

        Two `passive` geoms do not touch each other, whatever bodies they are on.
        """
        density = 100.0 if mass is None else mass / sum(shape.volume for shape in shapes)
        for k, shape in enumerate(shapes):
            geom = self._geom(body, shape, "0", names[k] if k < len(names) else None)
            geom.attrib |= {**CONTACT, "density": numbers([density]), "rgba": "0.8 0.8 0.8 0.3"}
            if passive:
                geom.set("contype", "0")

    def look(self, body: ET.Element, shapes: Sequence[Shape], material: str) -> None:
        """Visual geoms."""
        for shape in shapes:
            geom = self._geom(body, shape, "1", None)
            geom.attrib |= {"contype": "0", "conaffinity": "0", "material": material}

    def site(
        self,
        body: ET.Element,
        name: str,
        shape: Shape,
        rgba: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.0),
    ) -> None:
        """A region that LIBERO's predicates or samplers look up by name."""
        site = ET.SubElement(body, "site", name=name, type=shape.kind, group="0")
        site.attrib |= {
            "size": numbers(shape.size),
            "pos": numbers(shape.pos),
            "quat": numbers(shape.quat),
            "rgba": numbers(rgba),
        }

    def save(self, path: Path) -> None:
        """Write the file, making its folder."""
        save_xml(self.root, path)

    def _geom(self, body: ET.Element, shape: Shape, group: str, name: str | None) -> ET.Element:
        shape = shape.y_up() if self.y_up else shape
        attributes = {"name": name} if name else {}
        attributes |= {"type": shape.kind, "group": group}
        attributes |= {"mesh": shape.mesh} if shape.mesh else {"size": numbers(shape.size)}
        attributes |= {"pos": numbers(shape.pos), "quat": numbers(shape.quat)}
        return ET.SubElement(body, "geom", attributes)


def save_xml(root: ET.Element, path: Path) -> None:
    """Write an indented XML file, making its folder."""
    ET.indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
