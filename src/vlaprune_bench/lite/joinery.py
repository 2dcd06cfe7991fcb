"""Things made of boards: basket, tray, caddy, wine rack, shelf, books.

Boards follow the faces that LIBERO's objects can be touched at; regions are those its predicates
ask for.
"""

from __future__ import annotations

import math

from vlaprune_bench.lite import textures
from vlaprune_bench.lite.entry import SCANNED, TURBOSQUID, Entry
from vlaprune_bench.lite.mjcf import (
    Quat,
    Rgb,
    Shape,
    Vec3,
    along_z_to_x,
    box,
    slab,
    turn_x,
)
from vlaprune_bench.lite.things import Joinery, Piece

_HALF_TURN_Z: Quat = (0.0, 0.0, 0.0, 1.0)
_HALF_TURN_Y: Quat = (0.0, 0.0, 1.0, 0.0)


def basket() -> Joinery:
    """An open box of wicker."""
    outer, wall, floor, top = 0.0755, 0.0125, 0.0219, 0.1400
    inner, edge = outer - wall, 0.0022
    base = slab((-outer, -outer, 0.0046), (outer, outer, floor))
    sides = _frame(outer, inner, floor, top)
    brim = _frame(outer + edge, inner, top - 0.012, top + 0.0004)
    region = box((0.06108, 0.06108, 0.06949), (0, 0, 0.07185), _HALF_TURN_Z)
    pieces = (
        Piece((base, *sides), (0.55, 0.40, 0.24), textures.weave),
        Piece(brim, (0.42, 0.29, 0.16), solid=False),
    )
    return Joinery(pieces, 0.136, (("contain_region", region),))


def _frame(outer: float, inner: float, low: float, high: float) -> tuple[Shape, ...]:
    """Four walls between two squares, given by their half sides."""
    return (
        slab((-outer, -outer, low), (-inner, outer, high)),
        slab((inner, -outer, low), (outer, outer, high)),
        slab((-inner, -outer, low), (inner, -inner, high)),
        slab((-inner, inner, low), (inner, outer, high)),
    )


def tray() -> Joinery:
    """A crate of slats with a handle at either end."""
    x0, x1, y0, y1 = -0.1416, 0.1556, -0.0876, 0.0789
    slats = tuple(
        slab((-0.1362, y - half, -0.0010), (0.1518, y + half, 0.0072))
        for y, half in ((-0.0642, 0.0209), (-0.0056, 0.0246), (0.0539, 0.0209))
    )
    sides = (
        slab((x0, y0, 0.0040), (x1, y0 + 0.0050, 0.0290)),
        slab((x0, y0, 0.0350), (x1, y0 + 0.0050, 0.0600)),
        slab((x0, y1 - 0.0050, 0.0040), (x1, y1, 0.0290)),
        slab((x0, y1 - 0.0050, 0.0350), (x1, y1, 0.0600)),
    )
    posts = tuple(
        slab((x - 0.0062, y - 0.0055, 0.0017), (x + 0.0062, y + 0.0055, 0.0800))
        for x in (-0.1321, 0.1453)
        for y in (-0.0785, 0.0685)
    )
    ends = tuple(
        slab((x - 0.0024, y0, low), (x + 0.0024, y1, high))
        for x in (-0.1392, 0.1532)
        for low, high in ((0.0053, 0.0545),)
    )
    handles = tuple(
        slab((x - 0.0067, -0.0835, 0.0785), (x + 0.0067, 0.0737, 0.0809)) for x in (-0.1335, 0.1471)
    )
    region = box((0.04038, 0.07839, 0.13549), (0.00863, -0.00471, 0.04255), along_z_to_x(1))
    wood = Piece((*slats, *sides, *ends, *handles), (0.66, 0.48, 0.30), textures.wood)
    dark = Piece(posts, (0.52, 0.36, 0.21), textures.wood)
    return Joinery((wood, dark), 0.0572, (("contain_region", region),))


def caddy() -> Joinery:
    """A desk organiser: a tall compartment at -y, two small ones, and an open one at +y."""
    base = slab((-0.0755, -0.2169, 0.0014), (0.0755, 0.2169, 0.0138))
    walls = (
        slab((0.0628, -0.2098, 0.0138), (0.0708, 0.2098, 0.1683)),
        slab((-0.0706, -0.0742, 0.0138), (0.0628, -0.0618, 0.1674)),
        slab((-0.0706, -0.2156, 0.0138), (0.0706, -0.2032, 0.1674)),
        slab((-0.0709, -0.2032, 0.0138), (-0.0628, -0.0618, 0.1640)),
        slab((-0.0709, -0.0618, 0.0138), (-0.0628, 0.2098, 0.0741)),
        slab((-0.0056, -0.0618, 0.0138), (0.0025, 0.0670, 0.0986)),
    )
    # Walls that step down from the back to the front.
    steps = ((-0.0628, 0.0078, 0.0785), (0.0078, 0.0320, 0.1120), (0.0320, 0.0628, 0.1450))
    stairs = tuple(
        slab((front, y - 0.0036, 0.0138), (back, y + 0.0036, top))
        for y in (0.0706, 0.2084)
        for front, back, top in steps
    )
    sites = (
        ("right_contain_region", _caddy_region(0.00631, -0.14339, 0.06558, 0.06196)),
        ("left_contain_region", _caddy_region(0.00631, 0.14551, 0.06558, 0.06196)),
        ("back_contain_region", _caddy_region(0.03364, -0.00064, 0.08558, 0.02775)),
        (
            "front_contain_region",
            box(
                (0.02775, 0.03595, 0.06216),
                (-0.03102, -0.00064, 0.04054),
                (0.0, 0.0, math.sqrt(0.5), -math.sqrt(0.5)),
            ),
        ),
    )
    brown = (0.42, 0.27, 0.16)
    return Joinery((Piece((base, *walls, *stairs), brown, textures.linen),), 0.278, sites)


def _caddy_region(x: float, y: float, z: float, half: float) -> Shape:
    return box((half, 0.06216, 0.06046), (x, y, z), _HALF_TURN_Y)


def wine_rack() -> Joinery:
    """Two tilted planks on a post; each has a ledge at its lower edge to stop a bottle."""
    lean = 0.5460
    planks = (_tilted((0, -0.00610, 0.25118), lean), _tilted((0, -0.04273, 0.12727), lean))
    ledges = (
        box((0.13222, 0.00867, 0.0011), (0, -0.07477, 0.22072), turn_x(lean - math.pi / 2)),
        box((0.13222, 0.00867, 0.0011), (0, -0.10912, 0.09735), turn_x(lean - math.pi / 2)),
    )
    base = (
        slab((-0.0930, -0.1244, -0.0022), (0.0930, 0.1295, 0.0111)),
        slab((-0.0904, -0.0141, 0.0111), (0.0904, 0.0141, 0.0250)),
    )
    post = box((0.0076, 0.0090, 0.1560), (0, 0.0089, 0.1703), turn_x(-0.2765))
    region = box(
        (0.10087, 0.02200, 0.00251), (0, -0.08003, 0.21745), (0.8549119, -0.5187733, 0.0, 0.0)
    )
    pieces = (
        Piece(planks, (0.80, 0.66, 0.48), textures.planks),
        Piece((*base, post), (0.36, 0.14, 0.09), textures.wood),
        Piece(ledges, (0.52, 0.58, 0.62)),
    )
    return Joinery(pieces, 0.1527, (("top_region", region),))


def _tilted(pos: Vec3, lean: float) -> Shape:
    """A plank of the rack."""
    return box((0.13438, 0.07894, 0.00450), pos, turn_x(lean))


def shelf() -> Joinery:
    """A low shelf, open towards -y, with one board half way up."""
    boards = (
        slab((-0.1609, -0.0792, 0.0002), (-0.1467, 0.1117, 0.2060)),
        slab((0.1560, -0.0792, 0.0002), (0.1702, 0.1117, 0.2060)),
        slab((-0.1609, 0.1071, 0.0002), (0.1702, 0.1117, 0.2060)),
        slab((-0.1467, -0.0706, 0.0690), (0.1560, 0.1071, 0.0712)),
        slab((-0.1708, -0.0787, 0.2060), (0.1807, 0.1114, 0.2103)),
    )
    sites = (
        ("top_side", box((0.17557, 0.09438, 0.00147), (0.00496, 0.01567, 0.20688))),
        (
            "top_region",
            box((0.06739, 0.08564, 0.15093), (0.00538, 0.01687, 0.13672), along_z_to_x(-1)),
        ),
        (
            "bottom_region",
            box((0.03528, 0.08564, 0.15580), (0.00555, 0.01687, 0.01407), along_z_to_x(1)),
        ),
    )
    return Joinery((Piece(boards, (0.24, 0.19, 0.15), textures.wood),), 0.2063, sites)


def book(low: Vec3, high: Vec3, mass: float, rgb: Rgb) -> Joinery:
    """A closed book standing upright, its spine towards +y."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    cover, out = 0.0028, 0.0004
    pages = (
        slab((x0 + cover, y0 - out, z0 + 0.003), (x1 - cover, y0 + out, z1 - 0.003)),
        slab((x0 + cover, y0 + 0.003, z1 - out), (x1 - cover, y1 - 0.005, z1 + out)),
        slab((x0 + cover, y0 + 0.003, z0 - out), (x1 - cover, y1 - 0.005, z0 + out)),
    )
    pieces = (Piece((slab(low, high),), rgb), Piece(pages, (0.90, 0.89, 0.84), solid=False))
    return Joinery(pieces, mass)


JOINERY: dict[str, Entry] = {
    "basket": Entry(SCANNED, basket()),
    "wooden_tray": Entry(TURBOSQUID, tray()),
    "desk_caddy": Entry(TURBOSQUID, caddy()),
    "wine_rack": Entry(TURBOSQUID, wine_rack()),
    "wooden_two_layer_shelf": Entry(TURBOSQUID, shelf()),
    "black_book": Entry(
        TURBOSQUID,
        book((-0.0148, -0.0673, 0.0022), (0.0139, 0.0430, 0.1366), 0.0425, (0.07, 0.07, 0.075)),
    ),
    "yellow_book": Entry(
        TURBOSQUID,
        book((-0.0101, -0.0488, 0.0020), (0.0134, 0.0489, 0.1242), 0.0281, (0.82, 0.70, 0.38)),
    ),
}
