"""Where points of the scene lie in the policy's frames, as shares of its visual tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

SPREAD_M = 0.05
"""Radius of what a point stands for: a bowl, a can, the fingertips."""
WIDEST = 0.3
"""Largest such radius in a frame, of half its side."""


@dataclass(frozen=True)
class View:
    """A pinhole camera that looks along its -z, y up, as MuJoCo has them."""

    position: tuple[float, float, float]
    quat: tuple[float, float, float, float]
    """w, x, y, z."""
    fovy: float
    """Vertical field of view, degrees."""


TABLE = View((0.65861317, 0.0, 1.61035002), (0.63801772, 0.30484972, 0.30484984, 0.63801772), 45.0)
FLOOR = View((0.89657737, 0.0, 0.65), (0.61821664, 0.34323072, 0.34323141, 0.61821765), 45.0)
AGENT = {"libero_spatial": TABLE, "libero_goal": TABLE, "libero_object": FLOOR}
"""`agentview` of each suite, world frame (tests compare with the simulator)."""
WRIST = View((0.05, 0.0, -0.097), (0.0, math.sqrt(0.5), math.sqrt(0.5), 0.0), 75.0)
"""`robot0_eye_in_hand`, seen from the end effector."""


def shares(
    suites_B: list[str],
    hand_B6: np.ndarray,
    points_BN3: np.ndarray,
    grids: tuple[tuple[int, int], ...],
    crop_area: float,
) -> np.ndarray:
    """How much of each visual token belongs to the points.

    Args:
        suites_B: suite of each sample.
        hand_B6: end effector: position, axis times angle.
        points_BN3: N points a sample, metres, world frame.
        grids: rows and columns of visual tokens of the first camera, or of each of the two.
        crop_area: share of a frame's area the policy sees.

    Returns:
        (B, V) float32 over the tokens of those cameras, in all 1: a Gaussian of equal weight about
        every point in every frame that shows it (0 throughout where none does).
    """
    turn = Rotation.from_rotvec(hand_B6[:, 3:])
    wrist_at = hand_B6[:, :3] + turn.apply(WRIST.position)
    agent_at = np.array([AGENT[suite].position for suite in suites_B])
    agent_turn = Rotation.concatenate([rotation(AGENT[suite]) for suite in suites_B])
    fovy_B = np.array([AGENT[suite].fovy for suite in suites_B])
    cameras = (
        (agent_at, agent_turn, fovy_B),
        (wrist_at, turn * rotation(WRIST), np.full(len(hand_B6), WRIST.fovy)),
    )
    sides = [
        _camera(*camera, points_BN3, grid, crop_area)
        for camera, grid in zip(cameras, grids, strict=False)  # the wrist's is not always seen
    ]
    weight_BV = np.concatenate(sides, axis=1)
    total_B1 = weight_BV.sum(1, keepdims=True)
    return (weight_BV / np.where(total_B1 > 1e-6, total_B1, np.inf)).astype(np.float32)


def rotation(view: View) -> Rotation:
    """From the camera's frame to that its pose is given in."""
    return Rotation.from_quat(view.quat, scalar_first=True)


def _camera(
    at_B3: np.ndarray,
    turn_B: Rotation,
    fovy_B: np.ndarray,
    points_BN3: np.ndarray,
    grid: tuple[int, int],
    crop_area: float,
) -> np.ndarray:
    """(B, rows * columns): Gaussians of one camera."""
    seen_BN3 = np.einsum("bji,bnj->bni", turn_B.as_matrix(), points_BN3 - at_B3[:, None])
    depth_BN = np.maximum(-seen_BN3[..., 2], 0.02)
    # 1 is half the side of what the policy sees; it sees the frame mirrored left to right
    focal_B1 = 1.0 / np.tan(np.radians(fovy_B) / 2)[:, None] / math.sqrt(crop_area)
    x_BN, y_BN = (-seen_BN3[..., 0] * focal_B1 / depth_BN, -seen_BN3[..., 1] * focal_B1 / depth_BN)
    visible_BN = (seen_BN3[..., 2] < 0) & (np.abs(x_BN) < 1) & (np.abs(y_BN) < 1)
    rows, columns = ((2 * np.arange(n) + 1) / n - 1 for n in grid)
    # of the point's size, and of a token's
    spread_BN = np.minimum(SPREAD_M * focal_B1 / depth_BN, WIDEST) ** 2 + (1.0 / grid[0]) ** 2
    away_BNrc = (y_BN[..., None, None] - rows[:, None]) ** 2 + (
        x_BN[..., None, None] - columns
    ) ** 2
    bell_BNrc = np.exp(-0.5 * away_BNrc / spread_BN[..., None, None])
    total_BN11 = bell_BNrc.sum((2, 3), keepdims=True)  # 0 far out of view
    bell_BNrc *= visible_BN[..., None, None] / np.maximum(total_BN11, 1e-12)
    return bell_BNrc.sum(1).reshape(len(at_B3), -1)
