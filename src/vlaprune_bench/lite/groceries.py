"""Packaged food, as a table of entries: name -> how to make it.

Dimensions, masses and placement heights follow LIBERO's objects (its packaged init states and
predicates rely on them); the shapes and the prints are ours.
"""

from __future__ import annotations

from dataclasses import replace

from vlaprune_bench.lite.entry import HOPE, Entry
from vlaprune_bench.lite.labels import Label
from vlaprune_bench.lite.textures import Colour
from vlaprune_bench.lite.things import Carton, GableCarton, Profile, Turned

_STEEL: Colour = (176, 178, 182)


def _can(label: Label, mass: float, bottom: float = -0.06) -> Entry:
    """A tin with a label round it, standing along y."""
    profile: Profile = ((0.0318, -0.0386), (0.0328, -0.0372), (0.0316, -0.0355), (0.0316, 0.0345))
    profile += ((0.0328, 0.0362), (0.0328, 0.0388), (0.0300, 0.0388), (0.0296, 0.0370))
    stops = ((0.05, _STEEL), (0.94, label.ground), (1.0, _STEEL))
    blocks = ((-0.0386, 0.0380, 0.0316),)
    tin = Turned(profile, blocks, mass, stops, label, span=(0.05, 0.93), shine=0.6)
    return Entry(HOPE, tin, bottom=bottom, y_up=True)


def _squeeze_bottle(label: Label, body: Colour, cap: Colour, mass: float) -> Entry:
    """A flat bottle with a wide cap, standing along y."""
    profile: Profile = ((0.0240, -0.0725), (0.0285, -0.0690), (0.0305, -0.0520), (0.0290, -0.0200))
    profile += ((0.0225, 0.0080), (0.0180, 0.0300), (0.0170, 0.0365), (0.0190, 0.0370))
    profile += ((0.0180, 0.0710), (0.0160, 0.0732))
    blocks = ((-0.0725, -0.0080, 0.0280), (-0.0080, 0.0360, 0.0190), (0.0360, 0.0730, 0.0180))
    stops = ((0.752, body), (1.0, cap))
    bottle = Turned(profile, blocks, mass, stops, label, span=(0.08, 0.55), squash=0.70)
    return Entry(HOPE, bottle, y_up=True)


def _drink(label: Label, radius: float = 0.025) -> Entry:
    return Entry(HOPE, GableCarton(0.0264, -0.0698, 0.0385, 0.0690, 0.0317, label), radius=radius)


_RANCH = _squeeze_bottle(
    Label("RANCH", (206, 212, 196), (60, 128, 70), (245, 245, 235), "leaf"),
    (206, 212, 196),
    (20, 110, 60),
    0.0218,
)

GROCERIES: dict[str, Entry] = {
    "cookies": Entry(
        HOPE,
        Carton(
            half=(0.03104, 0.04131, 0.0094),
            mass=0.0096,
            label=Label("COOKIES", (176, 32, 36), (238, 222, 190), (176, 32, 36), "biscuits"),
        ),
    ),
    "butter": Entry(
        HOPE,
        Carton(
            half=(0.0381, 0.0198, 0.0087),
            mass=0.0052,
            label=Label("BUTTER", (232, 92, 30), (250, 214, 70), (190, 30, 30), "cow"),
        ),
        bottom=-0.02,
        top=0.02,
        radius=0.02,
    ),
    "cream_cheese": Entry(
        HOPE,
        Carton(
            half=(0.0406, 0.0213, 0.0089),
            mass=0.0062,
            label=Label("CREAM", (178, 196, 226), (238, 242, 248), (44, 70, 150), "oval"),
        ),
        bottom=-0.025,
        top=0.025,
        radius=0.03,
    ),
    "chocolate_pudding": Entry(
        HOPE,
        Carton(
            half=(0.0401, 0.0232, 0.0134),
            mass=0.0102,
            label=Label("PUDDING", (104, 44, 34), (66, 112, 160), (240, 232, 220), "swirl"),
        ),
    ),
    "alphabet_soup": _can(
        Label("SOUP", (40, 78, 160), (236, 186, 50), (40, 60, 130), "letters"), 0.0259, -0.04
    ),
    "tomato_sauce": _can(
        Label("TOMATO", (196, 60, 40), (40, 110, 60), (245, 240, 225), "tomato"), 0.0266
    ),
    "salad_dressing": _RANCH,
    "new_salad_dressing": replace(_RANCH, nested=("sald_dressing_body", (0.0, 0.05, 0.0))),
    "ketchup": _squeeze_bottle(
        Label("KETCHUP", (214, 70, 22), (240, 222, 190), (180, 40, 20), "tomato"),
        (206, 62, 20),
        (222, 222, 222),
        0.0232,
    ),
    "bbq_sauce": Entry(
        HOPE,
        Turned(
            profile=(
                (0.0215, -0.0546),
                (0.0240, -0.0520),
                (0.0246, -0.0300),
                (0.0225, -0.0060),
                (0.0160, 0.0120),
                (0.0128, 0.0255),
                (0.0145, 0.0260),
                (0.0140, 0.0520),
                (0.0120, 0.0540),
            ),
            blocks=((-0.0546, -0.0010, 0.0240), (-0.0010, 0.0260, 0.0165), (0.0260, 0.0530, 0.014)),
            mass=0.0122,
            stops=((0.745, (92, 34, 18)), (1.0, (196, 62, 30))),
            label=Label("BBQ", (70, 26, 16), (222, 150, 50), (80, 24, 12), "flame"),
            span=(0.06, 0.52),
            squash=0.66,
        ),
        top=0.06,
        radius=0.015,
    ),
    "milk": _drink(Label("MILK", (236, 236, 232), (206, 44, 34), (250, 250, 250), "cow"), 0.03),
    "orange_juice": _drink(
        Label("JUICE", (246, 204, 70), (228, 120, 20), (255, 250, 230), "orange")
    ),
}
