"""What makes lite frames cheap: one sample a pixel, and robosuite's robot with fewer triangles.

Software rendering is bound by vertices and samples. robosuite's arm, hand and pedestal are 137,000
triangles, four fifths of all that a lite scene draws; vertices that fall into one small cube become
one. Only looks change: collision meshes and inertias stay as they are.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import numpy as np

LOOK = "look.xml"
"""What `sim.look` reads: rendering options, and files to load instead of others."""
_CUBES_M = {
    "robots/panda/obj_meshes": 0.010,
    "mounts/meshes/rethink_mount": 0.010,
    "grippers/meshes/panda_gripper": 0.003,  # the wrist camera sees it from near by
}
_FEW = 500
"""Meshes with fewer triangles stay as they are."""


def write_look(folder: Path) -> list[str]:
    """Write `look.xml` and the meshes it names into an asset folder.

    Returns:
        Names of the meshes.
    """
    spec = find_spec("robosuite")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    look = ET.Element("look")
    ET.SubElement(look, "quality", offsamples="0")
    (folder / "robot").mkdir()
    names = []
    for place, cube in _CUBES_M.items():
        for source in sorted((package / "models/assets" / place).rglob("*")):
            # of the meshes robosuite has twice, it loads the .obj of the arm, the .stl of the rest
            if source.suffix != (".obj" if place.startswith("robots") else ".stl"):
                continue
            vertices, triangles = read_mesh(source)
            if len(triangles) < _FEW:
                continue
            names.append(f"robot/{source.stem}.obj")
            write_mesh(folder / names[-1], *cluster(vertices, triangles, cube))
            instead_of = source.relative_to(package).as_posix()
            ET.SubElement(look, "mesh", file=names[-1], instead_of=instead_of)
    ET.indent(look)
    ET.ElementTree(look).write(folder / LOOK, encoding="unicode")
    return names


def cluster(
    vertices_N3: np.ndarray, triangles_T3: np.ndarray, cube: float
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in one cube of a grid become their mean; triangles that lose their area go.

    Args:
        vertices_N3: metres.
        triangles_T3: indices of vertices.
        cube: side, metres.
    """
    cells_N3 = np.floor(vertices_N3 / cube).astype(int)
    _, cell_N, count_C = np.unique(_numbers(cells_N3), return_inverse=True, return_counts=True)
    sums_C3 = np.zeros((len(count_C), 3))
    np.add.at(sums_C3, cell_N, vertices_N3)
    merged_T3 = cell_N[triangles_T3]
    flat_T = (merged_T3 == np.roll(merged_T3, 1, axis=1)).any(axis=1)
    merged_T3 = merged_T3[~flat_T]
    _, first = np.unique(_numbers(np.sort(merged_T3, axis=1)), return_index=True)
    return sums_C3 / count_C[:, None], merged_T3[np.sort(first)]


def _numbers(rows_N3: np.ndarray) -> np.ndarray:
    """(N,) one number a row of integers, ordered as the rows are: `unique` of rows is slow."""
    low, high = rows_N3.min(0), rows_N3.max(0)
    return np.ravel_multi_index(tuple((rows_N3 - low).T), tuple(high - low + 1))


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) vertices and (T, 3) triangles of a Wavefront OBJ or binary STL file.

    Raises:
        ValueError: a face has more corners than three.
    """
    if path.suffix == ".stl":
        triangle = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
        corners = np.frombuffer(path.read_bytes(), triangle, offset=84)["corners"]
        return corners.reshape(-1, 3).astype(float), np.arange(3 * len(corners)).reshape(-1, 3)
    text = path.read_text()
    places = " ".join(re.findall(r"^v +(.*)$", text, re.MULTILINE))
    faces = re.findall(r"^f +(\d+)\S* +(\d+)\S* +(\d+)\S* *$", text, re.MULTILINE)
    if len(faces) != len(re.findall(r"^f ", text, re.MULTILINE)):
        raise ValueError(f"{path}: a face of it is no triangle")
    return np.array(places.split(), float).reshape(-1, 3), np.array(faces, int) - 1


def write_mesh(path: Path, vertices_N3: np.ndarray, triangles_T3: np.ndarray) -> None:
    """Write a Wavefront OBJ file."""
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in vertices_N3]
    lines += [f"f {a} {b} {c}" for a, b, c in triangles_T3 + 1]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
