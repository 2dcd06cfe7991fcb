"""Triangle meshes made from outlines: turned bodies, bent tubes and extruded polygons.

Only looks use them; whatever can be touched is made of boxes. Lengths are metres, z is up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

Vec2 = tuple[float, float]
Vec3 = tuple[float, float, float]

SEGMENTS = 24
"""Facets round a turned body; fewer would show at 256 pixels, more would cost rendering time."""


@dataclass(frozen=True)
class Mesh:
    """A closed surface; a triangle's corner is (vertex index, texture coordinate index)."""

    vertices: list[Vec3]
    coordinates: list[Vec2]
    """Across the picture and up from its lower edge, in [0, 1]."""
    triangles: list[tuple[tuple[int, int], ...]]

    def write(self, path: Path) -> None:
        """Write a Wavefront OBJ file."""
        lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in self.vertices]
        lines += [f"vt {u:.4f} {v:.4f}" for u, v in self.coordinates]
        for corners in self.triangles:
            lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in corners))
        path.write_text("\n".join(lines) + "\n", encoding="ascii")


def picture_row(share: float) -> float:
    """Where a share of a body's height lies in its picture.

    Pictures repeat, and small ones are blurred: near one edge the opposite one would show through.
    """
    return 0.06 + 0.88 * share


def lathe(
    outline: Sequence[Vec2],
    rows: Sequence[float] | None = None,
    segments: int = SEGMENTS,
    squash: float = 1.0,
) -> Mesh:
    """Turn an outline about the z axis.

    Args:
        outline: (radius, z) points, anticlockwise where radius points right and z up: along the
            bottom, up the outside, and back inside or over the top. Both ends lie on the axis.
        rows: Height in the picture at each point; by default its share of the body's height.
        segments: Facets in a turn. The picture goes once round, from the +x side through +y.
        squash: Factor on y, for bodies that are not round.
    """
    if rows is None:
        low, high = min(z for _, z in outline), max(z for _, z in outline)
        rows = [(z - low) / (high - low) for _, z in outline]
    width = segments + 1
    vertices, coordinates = [], []
    for (radius, z), row in zip(outline, rows, strict=True):
        for k in range(segments):
            angle = 2 * math.pi * k / segments
            vertices.append((radius * math.cos(angle), squash * radius * math.sin(angle), z))
        coordinates += [(k / segments, picture_row(row)) for k in range(width)]

    def corner(ring: int, k: int) -> tuple[int, int]:
        return ring * segments + k % segments, ring * width + k

    triangles: list[tuple[tuple[int, int], ...]] = []
    for ring, ((r0, _), (r1, _)) in enumerate(pairwise(outline)):
        for k in range(segments):
            a, b = corner(ring, k), corner(ring, k + 1)
            c, d = corner(ring + 1, k + 1), corner(ring + 1, k)
            if r0 > 0:
                triangles.append((a, b, c))
            if r1 > 0:
                triangles.append((a, c, d))
    return Mesh(vertices, coordinates, triangles)


def hollow(profile: Sequence[Vec2], thickness: float, base: Vec2) -> tuple[list[Vec2], list[float]]:
    """Outline and rows of a vessel open at the top.

    Args:
        profile: (radius, z) of the middle of its wall, bottom first.
        thickness: Of the wall.
        base: Lowest z, and the z of the floor inside.

    Returns:
        An outline for `lathe`, and rows that show the lower half of a picture outside and the
        upper half, turned over, inside.
    """
    half = thickness / 2
    (r0, _), (_, top) = profile[0], profile[-1]
    low, floor = base
    outside = [(0.0, low), (r0, low), *((r + half, z) for r, z in profile)]
    inside = [(r - half, z) for r, z in reversed(profile) if z > floor]
    inside += [(max(r0 - half, 0.001), floor), (0.0, floor)]
    span = top - low
    rows = [0.49 * (z - low) / span for _, z in outside]
    rows += [1.0 - 0.49 * (z - low) / span for _, z in inside]
    return outside + inside, rows


def tube(path: Sequence[Vec2], radius: float, sides: int = 8) -> Mesh:
    """A round rod along a path of (x, z) points in the plane y = 0."""
    vertices: list[Vec3] = []
    for k, (x, z) in enumerate(path):
        before, after = path[max(k - 1, 0)], path[min(k + 1, len(path) - 1)]
        dx, dz = after[0] - before[0], after[1] - before[1]
        length = math.hypot(dx, dz)
        nx, nz = dz / length, -dx / length
        for side in range(sides):
            angle = 2 * math.pi * side / sides
            c, s = radius * math.cos(angle), radius * math.sin(angle)
            vertices.append((x + c * nx, s, z + c * nz))
    triangles: list[tuple[tuple[int, int], ...]] = []

    def quad(a: int, b: int, c: int, d: int) -> None:
        triangles.extend((((a, 0), (b, 0), (c, 0)), ((a, 0), (c, 0), (d, 0))))

    for ring in range(len(path) - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            quad(a, b, b + sides, a + sides)
    last = (len(path) - 1) * sides
    for side in range(1, sides - 1):
        triangles.append(((0, 0), (side + 1, 0), (side, 0)))
        triangles.append(((last, 0), (last + side, 0), (last + side + 1, 0)))
    return Mesh(vertices, [(0.5, 0.5)], triangles)


def prism(polygon: Sequence[Vec2], half: float, tile: float = 1.0) -> Mesh:
    """A convex polygon of (y, z) points, anticlockwise, drawn out over x = -half .. half.

    The picture lies flat on the polygon and repeats every `tile` metres.
    """
    count = len(polygon)
    vertices = [(x, y, z) for x in (-half, half) for y, z in polygon]
    triangles: list[tuple[int, int, int]] = []
    for k in range(1, count - 1):
        triangles += [(0, k + 1, k), (count, count + k, count + k + 1)]
    for k in range(count):
        a, b = k, (k + 1) % count
        triangles += [(a, b, count + b), (a, count + b, count + a)]
    coordinates = [(y / tile, z / tile) for _, y, z in vertices]
    return Mesh(vertices, coordinates, [tuple((v, v) for v in corners) for corners in triangles])
