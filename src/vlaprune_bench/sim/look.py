"""How an asset set wants scenes drawn, where it says so in a file of its own (lite sets do)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from vlaprune_bench.lite.look import LOOK


def dress(root: ET.Element, assets: Path) -> None:
    """Edit a scene's description before it is compiled; nothing where the assets say nothing.

    Args:
        root: MuJoCo's XML, as robosuite merged it.
        assets: Folder of the set. Its `look.xml` holds attributes of `<quality>`, and `<mesh>`
            elements: load `file` (of the set) wherever the path ends in `instead_of`.

    Raises:
        FileNotFoundError, xml.etree.ElementTree.ParseError: the set is damaged.
    """
    if not (assets / LOOK).is_file():
        return
    look = ET.parse(assets / LOOK).getroot()
    visual = root.find("visual")
    if visual is None:
        visual = ET.SubElement(root, "visual")
    for quality in look.findall("quality"):
        visual.append(quality)
    instead = {mesh.attrib["instead_of"]: mesh.attrib["file"] for mesh in look.findall("mesh")}
    # a collision mesh may be the same file: only meshes no collision geom names change
    solid = {geom.get("mesh") for geom in root.iter("geom") if geom.get("group", "0") == "0"}
    for mesh in root.iter("mesh"):
        path = mesh.get("file", "")
        _, package, inside = path.rpartition("robosuite/")
        if package and inside in instead and mesh.get("name") not in solid:
            mesh.set("file", str(assets / instead[inside]))
            mesh.set("inertia", "shell")  # clustered meshes need not be closed
