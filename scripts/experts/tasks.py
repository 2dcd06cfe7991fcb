"""Tasks as their experts need them told: where to grip, on which side, how to turn the hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from experts.fixtures import Pull, Series, TurnKnob
from experts.skills import Expert, Grip, PickPlace, Put
from experts.world import World
from vlaprune_bench.types import UserError

Step = Callable[[World, np.ndarray], Expert]
"""Makes an expert; told the hand's orientation at the episode's start."""

RIM = 0.049
"""From a bowl's centre to its rim."""
BOWL_GRASP = 0.043
"""From a bowl's bottom to the fingertips."""

DRAWER_CLEAR = 0.030
"""How far to the side of the drawer's middle open fingers may go in."""
LEFT, RIGHT = 1, -1
SPATIAL_SIDES = {8: RIGHT}
"""Which rim of the bowl is gripped (the left one is towards world +y), by task; else the left."""


BASKET_RIM = 0.165
"""Height a thing's bottom passes the basket's rim at."""
BASKET_LOW = 0.125
"""Least height of the fingertips when they let go: below it the hand meets the rim."""


OBJECT_SHIFT = {1: -0.025}
"""Grip this far from the middle (world x), by task: beside the cheese a can is in the way."""


BOWL = "akita_black_bowl_1"
GOAL = {
    1: (
        Grip(BOWL, (0.0, RIM, BOWL_GRASP)),
        Put("flat_stove_1_cook_region", (0.0, 0.0, 0.030)),
    ),
    2: (
        Grip("wine_bottle_1", (0.0, 0.0, 0.138), lift=0.04),
        Put("wooden_cabinet_1_top_side", (0.0, 0.0, 0.006), carry=1.30),
    ),
    4: (
        Grip(BOWL, (0.0, RIM, BOWL_GRASP)),
        Put("wooden_cabinet_1_top_side", (0.0, 0.0, 0.006), carry=1.23),
    ),
    5: (
        Grip("plate_1", (0.0, 0.055, 0.008), lift=0.0),
        Put("main_table_stove_front_region", (0.0, 0.0, 0.008), carry=0.95),
    ),
    6: (
        Grip("cream_cheese_1", (0.0, 0.0, 0.004)),
        Put(BOWL, (0.0, 0.0, 0.045), carry=1.03),
    ),
    8: (
        Grip(BOWL, (0.0, RIM, BOWL_GRASP)),
        Put("plate_1", (0.0, 0.0, 0.004)),
    ),
    9: (
        Grip("wine_bottle_1", (0.0, 0.0, 0.138), lift=0.04),
        Put("wine_rack_1_top_region", (0.0, -0.04, 0.02), carry=1.32, hold=True),
    ),
}


BOWL_TO_DRAWER = (
    # The open drawer hangs over the bowl: the hand leans away from it, and the bowl comes out
    # sideways first.
    Grip(
        BOWL,
        (0.0, RIM, BOWL_GRASP),
        rotate=(0.0, -0.52, 0.0),
        out=(-0.07, 0.0, 0.0),
        lift=0.10,
    ),
    Put("wooden_cabinet_1_top_region", (0.0, -0.01, -0.006), carry=1.21),
)
HANDLE = (0.0065, 0.1125, -0.0065)
"""From a drawer's site to its handle's middle (the cabinet always faces world +y here)."""
DRAWER_OUT = 0.15
STOVE_ON = ("turnon", "flat_stove_1")
KNOB = Grip("flat_stove_1_button", (-0.016, 0.0, 0.031))


MUG_WHITE = Grip("porcelain_mug_1", (-0.002, -0.057, 0.092), hover=0.15)
MUG_YELLOW = Grip("white_yellow_mug_1", (0.0, 0.063, 0.088), hover=0.15)
"""Mugs are gripped by the wall across from the handle."""
LIVING = 0.60
"""Least height of the fingertips on the way, over the living room's low table."""
POT_KNOB = (0.0, 0.0, 0.078)
"""From a moka pot's position to the knob on its lid."""
ON_STOVE = 0.095
"""From the stove's cooking region to a moka pot's position when it is let go."""


def _pick(grip: Grip, put: Put) -> Step:
    return lambda world, home: PickPlace(world, grip, put, home)


def _basket(name: str, side: float) -> Step:
    return lambda world, home: _to_basket(world, name, "basket_1_contain_region", home, side=side)


def _pot(name: str, x: float = 0.0) -> Step:
    return _pick(
        Grip(name, POT_KNOB, hover=0.12),
        Put("flat_stove_1_cook_region", (x, 0.0, ON_STOVE), carry=1.14),
    )


LONG: dict[int, tuple[Step, ...]] = {
    0: (_basket("alphabet_soup_1", -0.033), _basket("tomato_sauce_1", 0.033)),
    2: (lambda world, home: TurnKnob(world, KNOB, STOVE_ON, home), _pot("moka_pot_1")),
    4: (
        _pick(MUG_WHITE, Put("plate_1", (0.0, 0.0, 0.006), carry=LIVING)),
        _pick(MUG_YELLOW, Put("plate_2", (0.0, 0.0, 0.006), carry=LIVING)),
    ),
    6: (
        _pick(MUG_WHITE, Put("plate_1", (0.0, 0.0, 0.006), carry=LIVING)),
        _pick(
            Grip("chocolate_pudding_1", (0.0, 0.0, 0.0), hover=0.15),
            Put("living_room_table_plate_right_region", (0.0, 0.0, 0.044), carry=0.53),
        ),
    ),
    7: (_basket("alphabet_soup_1", -0.033), _basket("cream_cheese_1", 0.033)),
    8: (_pot("moka_pot_1", -0.04), _pot("moka_pot_2", 0.04)),
}
"""What is done one after another in a task of libero_10. The others (cheese and butter, which lie
close together; a drawer or a door to close; the book) have no expert."""


def tasks_with_expert(suite: str) -> list[int]:
    """Indices of the tasks of a suite that `make_expert` knows."""
    return sorted(LONG) if suite == "libero_10" else list(range(10))


def make_expert(suite: str, task: int, world: World) -> Expert:
    """The expert of a task, for the episode `world` shows the beginning of.

    Raises:
        UserError: the task has none.
    """
    makers = {
        "libero_spatial": _spatial,
        "libero_object": _object,
        "libero_goal": _goal,
        "libero_10": _long,
    }
    return makers[suite](task, world)


def _spatial(task: int, world: World) -> Expert:
    _, name, place = world.goal()
    side = SPATIAL_SIDES.get(task, LEFT)
    put = Put(place, (0.0, 0.0, 0.004))
    if task == 4:
        # In the drawer only its right-hand side leaves the open fingers room: the hand is turned
        # along its width, goes in clear of the wall, and comes to the rim while it closes.
        cabinet = "wooden_cabinet_1"
        across = (world.position(name) - world.position(cabinet)) @ world.axes(cabinet)[:, 0]
        slide = max(0.0, RIM - DRAWER_CLEAR - across)
        grip = Grip(
            name, (0.0, -RIM, BOWL_GRASP), (0.0, 0.0, 1.12), lift=0.08, slide=(0.0, slide, 0.0)
        )
        return PickPlace(world, grip, put, world.hand_turn)
    return PickPlace(world, Grip(name, (0.0, side * RIM, BOWL_GRASP)), put, world.hand_turn)


def _object(task: int, world: World) -> Expert:
    _, name, region = world.goal()
    return _to_basket(world, name, region, world.hand_turn, OBJECT_SHIFT.get(task, 0.0))


def _to_basket(
    world: World, name: str, region: str, home: np.ndarray, shift: float = 0.0, side: float = 0.0
) -> PickPlace:
    """Into the basket, gripped `shift` from its middle and let go `side` from the basket's."""
    low, high = world.box(name)
    floor = low[2]
    height = max(floor + 0.012, high[2] - 0.035)
    above = height - floor
    start = world.position(name)
    middle = (low + high)[:2] / 2 - start[:2]
    release = floor + max(BASKET_LOW, above + 0.02) - (height - start[2])
    return PickPlace(
        world,
        Grip(name, (middle[0] + shift, middle[1], height - start[2])),
        Put(
            region,
            (side, 0.0, release - world.position(region)[2]),
            carry=floor + BASKET_RIM + above,
            near=0.01,
            far=0.04,
        ),
        home,
    )


def _goal(task: int, world: World) -> Expert:
    home = world.hand_turn
    if task == 0:
        return Pull(world, _handle("middle"), DRAWER_OUT, home)
    if task == 3:
        return Series(
            world,
            [
                lambda now: Pull(now, _handle("top"), DRAWER_OUT, home),
                lambda now: PickPlace(now, *BOWL_TO_DRAWER, home),
            ],
        )
    if task == 7:
        return TurnKnob(world, KNOB, STOVE_ON, home)
    grip, put = GOAL[task]
    return PickPlace(world, grip, put, home)


def _handle(drawer: str) -> Grip:
    """The bar of a drawer, pinched from the front with the hand laid down."""
    return Grip(
        f"wooden_cabinet_1_{drawer}_region", HANDLE, rotate=(-1.48, 0.0, 0.0), back=(0.0, 1.0, 0.0)
    )


def _long(task: int, world: World) -> Expert:
    if task not in LONG:
        raise UserError(f"--task {task}: libero_10 has experts for tasks {sorted(LONG)} alone.")
    home = world.hand_turn
    return Series(world, [partial(_begin, step=step, home=home) for step in LONG[task]])


def _begin(world: World, step: Step, home: np.ndarray) -> Expert:
    return step(world, home)
