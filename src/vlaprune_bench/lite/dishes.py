"""Dishes, mugs, pots and the wine bottle, as a table of entries: name -> how to make it.

Dimensions, masses and placement heights follow LIBERO's objects (its packaged init states and
predicates rely on them); the shapes are ours.
"""

from __future__ import annotations

from vlaprune_bench.lite.entry import SCANNED, TURBOSQUID, Entry
from vlaprune_bench.lite.labels import Label
from vlaprune_bench.lite.mesh import tube
from vlaprune_bench.lite.mjcf import box
from vlaprune_bench.lite.things import Bowl, Part, Plate, Turned, loop_handle

_BLACK = (0.07, 0.07, 0.075)


def _moka_parts() -> tuple[Part, ...]:
    """Handle towards +y, spout towards -y, and the knob on the lid."""
    grip = (
        box((0.0066, 0.0140, 0.0070), (0, 0.0480, 0.0560)),
        box((0.0066, 0.0090, 0.0090), (0, 0.0710, 0.0530)),
        box((0.0066, 0.0075, 0.0240), (0, 0.0790, 0.0220)),
    )
    spout = (box((0.0080, 0.0085, 0.0130), (0, -0.0450, 0.0460)),)
    knob = (box((0.0052, 0.0060, 0.0100), (0, 0, 0.0760)),)
    return Part(grip, _BLACK), Part(spout, (0.74, 0.74, 0.75), shine=0.6), Part(knob, _BLACK)


def _pan_handle() -> tuple[Part, ...]:
    """A rod that rises away from the pan along +x."""
    boxes = (
        box((0.0240, 0.0105, 0.0080), (0.1180, 0, 0.0300)),
        box((0.0620, 0.0125, 0.0065), (0.1970, 0, 0.0440)),
    )
    path = [(0.096, 0.024), (0.115, 0.030), (0.140, 0.041), (0.200, 0.047), (0.258, 0.046)]
    return (Part(boxes, _BLACK, tube(path, 0.0105)),)


DISHES: dict[str, Entry] = {
    "akita_black_bowl": Entry(
        SCANNED,
        Bowl(
            profile=((0.0231, 0.0039), (0.0437, 0.0157), (0.0518, 0.0519)),
            thickness=0.0026,
            base=(0.0016, 0.0068),
            mass=0.0056,
            rgb=(0.06, 0.06, 0.065),
        ),
    ),
    "plate": Entry(
        SCANNED,
        Plate(
            floor_radius=0.045,
            rim=((0.0345, 0.0021), (0.0580, 0.0103)),
            edge=(0.0666, 0.0133),
            thickness=0.005,
            base=(-0.0021, 0.0053),
            mass=0.0115,
            rgb=(0.89, 0.89, 0.86),
            accent=(120, 150, 185),
        ),
    ),
    "glazed_rim_porcelain_ramekin": Entry(
        SCANNED,
        Bowl(
            profile=((0.0351, 0.0012), (0.0413, 0.0423)),
            thickness=0.0052,
            base=(0.0007, 0.0073),
            mass=0.0097,
            rgb=(0.86, 0.87, 0.88),
            rim=(0.72, 0.74, 0.78),
        ),
    ),
    "wine_bottle": Entry(
        TURBOSQUID,
        Turned(
            profile=(
                (0.0195, 0.0011),
                (0.0213, 0.0030),
                (0.0213, 0.0650),
                (0.0190, 0.0790),
                (0.0105, 0.0980),
                (0.0078, 0.1080),
                (0.0078, 0.1450),
                (0.0086, 0.1455),
                (0.0080, 0.1585),
            ),
            blocks=((0.0011, 0.0690, 0.0212), (0.0690, 0.0880, 0.0150), (0.0880, 0.1580, 0.0080)),
            mass=0.0154,
            stops=((0.74, (14, 34, 20)), (0.90, (60, 18, 26)), (1.0, (196, 152, 104))),
            label=Label("VINO", (226, 218, 196), (112, 30, 40), (236, 226, 200), "grapes"),
            span=(0.09, 0.40),
            shine=0.7,
        ),
    ),
    "moka_pot": Entry(
        TURBOSQUID,
        Turned(
            profile=(
                (0.0385, -0.0661),
                (0.0395, -0.0630),
                (0.0350, -0.0120),
                (0.0330, -0.0060),
                (0.0350, 0.0010),
                (0.0395, 0.0560),
                (0.0370, 0.0600),
                (0.0100, 0.0670),
            ),
            blocks=((-0.0661, 0.0670, 0.0385),),
            mass=0.0682,
            stops=((0.42, (214, 214, 216)), (0.46, (140, 140, 144)), (1.0, (222, 222, 224))),
            segments=8,
            shine=0.7,
            parts=_moka_parts(),
        ),
    ),
    "chefmate_8_frypan": Entry(
        SCANNED,
        Bowl(
            profile=((0.0770, 0.0040), (0.0860, 0.0080), (0.0985, 0.0424)),
            thickness=0.0060,
            base=(0.0008, 0.0127),
            mass=0.0502,
            rgb=(0.20, 0.20, 0.21),
            inner=(0.12, 0.12, 0.125),
            rim=(0.45, 0.45, 0.46),
            parts=_pan_handle(),
        ),
    ),
    "white_bowl": Entry(
        SCANNED,
        Bowl(
            profile=((0.0190, 0.0022), (0.0330, 0.0120), (0.0400, 0.0345)),
            thickness=0.0022,
            base=(0.0006, 0.0045),
            mass=0.0021,
            rgb=(0.90, 0.90, 0.90),
        ),
    ),
    "white_yellow_mug": Entry(
        TURBOSQUID,
        Bowl(
            profile=((0.0370, 0.0035), (0.0410, 0.0180), (0.0490, 0.1025)),
            thickness=0.0060,
            base=(-0.0001, 0.0060),
            mass=0.0309,
            rgb=(0.95, 0.83, 0.40),
            inner=(0.93, 0.92, 0.86),
            centre=(-0.0182, 0.0),
            parts=(loop_handle(0.0280, 0.0682, 0.018, 0.086, (0.95, 0.83, 0.40)),),
        ),
    ),
    "porcelain_mug": Entry(
        TURBOSQUID,
        Bowl(
            profile=((0.0270, 0.0050), (0.0350, 0.0200), (0.0410, 0.0430), (0.0435, 0.1085)),
            thickness=0.0050,
            base=(0.0024, 0.0100),
            mass=0.0165,
            rgb=(0.88, 0.88, 0.89),
            centre=(0.0152, -0.0017),
            parts=(loop_handle(-0.0270, -0.0647, 0.018, 0.097, (0.88, 0.88, 0.89)),),
        ),
    ),
    "red_coffee_mug": Entry(
        TURBOSQUID,
        Bowl(
            profile=((0.0350, 0.0010), (0.0385, 0.0100), (0.0425, 0.1308)),
            thickness=0.0055,
            base=(-0.0018, 0.0060),
            mass=0.0294,
            rgb=(0.70, 0.08, 0.08),
            centre=(-0.0184, -0.0010),
            parts=(loop_handle(0.0230, 0.0622, 0.0232, 0.1150, (0.70, 0.08, 0.08)),),
        ),
    ),
}
