"""The lite objects can be picked up: a gripper comes from above, closes, and rises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lite_rig import STAY, loaded, move
from vlaprune_bench.lite.build import build_lite

pytestmark = pytest.mark.sim

# Where the gripper closes, in the object's own upright frame (m): sideways x and y from its origin,
# and height above it. It opens along the world's y; objects are first turned to yaw 0.
GRASPS: dict[str, tuple[str, int, tuple[float, float, float]]] = {
    "alphabet_soup_1": ("libero_object", 0, (0, 0, 0.004)),
    "cream_cheese_1": ("libero_goal", 6, (0, 0, 0.004)),
    "salad_dressing_1": ("libero_object", 2, (0, 0, 0.038)),
    "bbq_sauce_1": ("libero_object", 3, (0, 0, 0.019)),
    "ketchup_1": ("libero_object", 4, (0, 0, 0.038)),
    "tomato_sauce_1": ("libero_object", 5, (0, 0, 0.004)),
    "butter_1": ("libero_object", 6, (0, 0, 0.004)),
    "milk_1": ("libero_object", 7, (0, 0, 0.030)),
    "chocolate_pudding_1": ("libero_object", 8, (0, 0, 0.002)),
    "orange_juice_1": ("libero_object", 9, (0, 0, 0.030)),
    "wine_bottle_1": ("libero_goal", 2, (0, 0, 0.120)),
    "akita_black_bowl_1": ("libero_goal", 8, (0, -0.049, 0.043)),
    "moka_pot_1": ("libero_10", 2, (0, 0, 0.078)),
    "chefmate_8_frypan_1": ("libero_10", 2, (0.19, 0, 0.044)),
    "porcelain_mug_1": ("libero_10", 4, (0.0152, -0.045, 0.095)),
    "red_coffee_mug_1": ("libero_10", 4, (-0.0184, -0.042, 0.115)),
    "white_yellow_mug_1": ("libero_10", 9, (-0.0182, -0.048, 0.090)),
    "black_book_1": ("libero_10", 5, (0.012, 0, 0.115)),
}
FAST = ("ketchup_1", "white_yellow_mug_1")
# A book is thin along its x: turned a quarter, it fits between the fingers.
TURNED = {"black_book_1": np.pi / 2}


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lite(tmp_path_factory.mktemp("lite"))


def set_yaw(env: Any, name: str, yaw: float) -> None:
    """Turn an upright object about the vertical."""
    from scipy.spatial.transform import Rotation

    pose = env.sim.data.get_joint_qpos(f"{name}_joint0").copy()
    upright = Rotation.from_quat(pose[[4, 5, 6, 3]]).as_matrix()[2]
    base = Rotation.from_euler("x", 0.0 if upright[2] > 0.5 else np.pi / 2)
    pose[[4, 5, 6, 3]] = (Rotation.from_euler("z", yaw) * base).as_quat()
    env.sim.data.set_joint_qpos(f"{name}_joint0", pose)
    env.sim.forward()


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.heavy) for n in GRASPS]
)
def test_object_can_be_gripped_and_lifted(lite: Path, name: str) -> None:
    suite, task, place = GRASPS[name]
    up = np.array([0, 0, 0.10])
    with loaded(lite, suite, task) as scene:
        env = scene.env
        scene.start(0)
        yaw = TURNED.get(name, 0.0)
        set_yaw(env, name, yaw)
        for _ in range(20):
            observed, *_ = env.step(STAY)
        c, s = np.cos(yaw), np.sin(yaw)
        offset = np.array([c * place[0] - s * place[1], s * place[0] + c * place[1], place[2]])
        move(env, lambda seen: seen[f"{name}_pos"] + offset + up, -1, 80)
        observed = move(env, lambda seen: seen[f"{name}_pos"] + offset, -1, 40)
        for _ in range(14):
            env.step([0, 0, 0, 0, 0, 0, 1])
        rest, lifted = observed[f"{name}_pos"], observed["robot0_eef_pos"] + up
        observed = move(env, lambda seen: lifted, 1, 40)
        rise = observed[f"{name}_pos"][2] - rest[2]
        assert rise > 0.07, f"{name} rose by {rise:.3f} m only"
