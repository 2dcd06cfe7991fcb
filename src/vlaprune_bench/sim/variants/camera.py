"""Another pose of a camera: turned around the scene, nearer or farther, turned in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import CameraVariant, Scale, Variant

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage


@Variant.register_subclass("camera")
@dataclass(frozen=True)
class Camera(CameraVariant):
    """Another pose of a camera; to which side is drawn for every trial."""

    camera: str = "agentview"
    """agentview, wrist or both."""

    scales: ClassVar = {
        "orbit": Scale("degrees around the scene", (5, 10, 20, 30, 45)),
        "distance": Scale("% nearer or farther", (5, 10, 20, 30, 40)),
        "yaw": Scale("degrees turned sideways in place", (2, 4, 7, 10, 15)),
        "pitch": Scale("degrees turned up or down in place", (2, 4, 7, 10, 15)),
    }
    """The third-person camera moves around the vertical axis through the middle of the table and
    along the line to it, the wrist's around the hand's axis and along the line to its fingertips.
    """

    def edit(self, stage: Stage) -> None:
        model = stage.model
        for name in self.cameras:
            camera = model.camera(name).id
            sign = stage.draw.rng(f"{self.key} {name}").choice((-1.0, 1.0))
            pivot = self._pivot(stage, camera)
            pos, quat = moved(
                self.kind, sign * self.amount, model.cam_pos[camera], model.cam_quat[camera], pivot
            )
            stage.set("cam_pos", pos, camera)
            stage.set("cam_quat", quat, camera)

    def _pivot(self, stage: Stage, camera: int) -> np.ndarray:
        """What a camera moves around, in the frame of the body that carries it."""
        body = int(stage.model.cam_bodyid[camera])
        if body == 0:
            return np.array(stage.inner.workspace_offset, dtype=float)
        (robot,) = stage.inner.robots
        return point_in(
            stage.model, stage.model.site(robot.gripper.important_sites["grip_site"]).id, body
        )


def moved(
    kind: str, amount: float, pos: np.ndarray, quat: np.ndarray, pivot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A camera's pose after a move.

    Args:
        kind: Of `Camera.scales`.
        amount: In the scale's unit, with its sign: orbit to the left seen from above, distance
            away, yaw to the left, pitch up.
        pos: (3,) metres.
        quat: (4,) wxyz; a camera looks along its -z, y is up.
        pivot: (3,) what it moves around.

    Returns:
        pos, quat.
    """
    if kind == "distance":
        return pivot + (pos - pivot) * (1 + amount / 100), quat.copy()
    angle = np.deg2rad(amount)
    if kind == "orbit":
        turn = about((0.0, 0.0, 1.0), angle)
        return pivot + rotate(turn, pos - pivot), product(turn, quat)
    axis = {"yaw": (0.0, 1.0, 0.0), "pitch": (1.0, 0.0, 0.0)}[kind]
    return pos.copy(), product(quat, about(axis, angle))


def about(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    """(4,) wxyz quaternion of a turn by `angle`, rad, around a unit axis."""
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * np.array(axis)])


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Product of two wxyz quaternions: first `right`, then `left`."""
    w, v, x, u = left[0], left[1:], right[0], right[1:]
    return np.concatenate([[w * x - v @ u], w * u + x * v + np.cross(v, u)])


def rotate(quat: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A point turned by a unit quaternion."""
    w, v = quat[0], quat[1:]
    return point + 2 * np.cross(v, np.cross(v, point) + w * point)


def point_in(model: Any, site: int, body: int) -> np.ndarray:
    """Where a site lies in the frame of a body that carries it, joints between them at 0."""
    point = np.array(model.site_pos[site])
    carrier = int(model.site_bodyid[site])
    while carrier != body:
        assert carrier, f"body {body} does not carry site {site}"
        point = model.body_pos[carrier] + rotate(model.body_quat[carrier], point)
        carrier = int(model.body_parentid[carrier])
    return point
