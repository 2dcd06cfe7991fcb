"""The frames of both cameras, from one GL context that lives as long as the model.

Equal to robosuite's frames pixel for pixel, and cheaper: software rendering is bound by vertices,
and most of them belong to robot parts a camera cannot see. What lies outside a camera's view is not
drawn for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlaprune_bench.types import CAMERAS

_HIDDEN_GROUP = 5
"""A geom group that is not drawn (MuJoCo shows groups 0 to 2, robosuite hides 0)."""
_SLACK_M = 0.01
"""How far outside the view a box must lie to be left out: far beyond rounding."""
_WIDE_M = 0.3
"""Half the side a box must have to be worth trying as a cover."""


class Cameras:
    """Renders `types.CAMERAS`; making one disturbs the simulation's warm start."""

    def __init__(self, inner: Any, size: int) -> None:
        """Make a GL context and upload the model.

        Args:
            inner: LIBERO's environment (robosuite's class).
            size: Side of the square frames, pixels.
        """
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        self._size = size
        self._model, self._data = inner.sim.model._model, inner.sim.data._data
        # Buffers nobody reads: the rest of a larger frame, and a shadow map without shadows.
        visual = self._model.vis
        visual.global_.offwidth = visual.global_.offheight = size
        if not self._model.light_castshadow.any():
            visual.quality.shadowsize = 0
        MjRenderContextOffscreen(inner.sim, device_id=inner.render_gpu_device_id)
        self._sim = inner.sim  # owns the context and frees it when the environment is closed
        groups = inner.sim._render_context_offscreen.vopt.geomgroup
        groups[0] = int(inner.render_collision_mesh)
        groups[1] = int(inner.render_visual_mesh)
        assert not groups[_HIDDEN_GROUP]
        self._ids = [self._model.camera(name).id for name in CAMERAS]
        self._group = self._model.geom_group.copy()
        self._culling = Culling(self._model, self._data, np.array(groups, dtype=bool))

    def frames(self) -> list[np.ndarray]:
        """Render the scene the data's kinematics describe.

        Returns:
            For each of `types.CAMERAS` (size, size, 3) uint8, rows from the bottom up.
        """
        size, context = self._size, self._sim._render_context_offscreen
        context.gl_ctx.make_current()
        frames = []
        for camera in self._ids:
            self._model.geom_group[self._culling.unseen(camera)] = _HIDDEN_GROUP
            try:
                context.render(size, size, camera_id=camera)
            finally:
                self._model.geom_group[:] = self._group
            frames.append(context.read_pixels(size, size))
        return frames


class Culling:
    """Finds the geoms that leave no mark on a camera's frame."""

    def __init__(self, model: Any, data: Any, shown_groups: np.ndarray) -> None:
        """Look up bounding boxes and mirrors.

        MuJoCo mirrors the scene in the first geom that is a box or plane of reflecting material, on
        the side of its positive z axis, and draws it there once more.
        """
        import mujoco

        self._model, self._data = model, data
        plane, box = (
            model.geom_type == kind
            for kind in (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX)
        )
        shown = shown_groups[model.geom_group]
        shine = np.append(model.mat_reflectance, 0)[model.geom_matid]  # -1: no material
        mirrors = np.flatnonzero(shown & (shine > 0) & (plane | box))
        bounded = shown & (model.geom_type != mujoco.mjtGeom.mjGEOM_HFIELD)
        bounded &= ~plane | (model.geom_size[:, :2] > 0).all(axis=1)
        if model.light_castshadow.any() or len(mirrors) > 1 or plane[mirrors].any():
            bounded[:] = False  # a geom may show where it is not: draw all
        self._mirror = int(mirrors[0]) if bounded[mirrors].any() else None
        self._geoms = np.flatnonzero(bounded)
        centre, half = np.split(model.geom_aabb[self._geoms], 2, axis=-1)
        flat = plane[self._geoms]
        centre[flat] = 0
        half[flat] = model.geom_size[self._geoms[flat]] * (1, 1, 0)
        corners = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), axis=-1).reshape(8, 3)
        self._boxes = centre[:, None] + corners * half[:, None]
        # table tops: what lies below one is hidden where nothing else is in the view
        opaque = np.minimum(
            np.append(model.mat_rgba[:, 3], 1)[model.geom_matid], model.geom_rgba[:, 3]
        )
        wide = (model.geom_size[:, :2] > _WIDE_M).all(axis=1)
        self._covers = np.flatnonzero(shown & box & wide & (opaque >= 1))

    def unseen(self, camera: int) -> np.ndarray:
        """Ids of geoms whose bounding boxes lie outside the view and outside what it mirrors."""
        data = self._data
        turn = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        corners = self._boxes @ turn.transpose(0, 2, 1) + data.geom_xpos[self._geoms][:, None]
        reach = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        view = np.array([[-reach, -reach], [reach, reach]])
        outside = _outside(self._in_camera(camera, corners), view)
        for cover in self._covers.tolist():
            outside |= self._below_cover(camera, cover, corners, view)
        if self._mirror is not None and not outside[self._geoms == self._mirror].any():
            outside &= self._outside_mirror(camera, corners, view)
        return self._geoms[outside]

    def _in_camera(self, camera: int, points: np.ndarray) -> np.ndarray:
        """Points in the camera's frame: x to the right, y up, looking along -z."""
        turn = self._data.cam_xmat[camera].reshape(3, 3)
        return (points - self._data.cam_xpos[camera]) @ turn

    def _below_cover(
        self, camera: int, cover: int, corners: np.ndarray, view: np.ndarray
    ) -> np.ndarray:
        """Which boxes lie below the top face of a box that fills the whole view."""
        turn = self._data.geom_xmat[cover].reshape(3, 3)
        size = self._model.geom_size[cover]
        top = self._data.geom_xpos[cover] + turn[:, 2] * size[2]
        eye = (self._data.cam_xpos[camera] - top) @ turn  # in the frame of the face
        (x0, y0), (x1, y1) = view
        rays = np.array([(x0, y0, -1), (x0, y1, -1), (x1, y0, -1), (x1, y1, -1)])
        rays = rays @ self._data.cam_xmat[camera].reshape(3, 3).T @ turn
        if eye[2] < _WIDE_M / 10 or (rays[:, 2] > -_SLACK_M).any():
            return np.zeros(len(corners), dtype=bool)  # not looking down at it
        hits = eye[:2] - rays[:, :2] * eye[2] / rays[:, 2:]
        if (np.abs(hits) > size[:2] - _SLACK_M).any():
            return np.zeros(len(corners), dtype=bool)
        below = (corners - top) @ turn[:, 2] < -_SLACK_M
        return np.asarray(below.all(axis=-1))

    def _outside_mirror(self, camera: int, corners: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Which boxes have no mirror image in the part of the view the mirror takes."""
        mirror = self._mirror
        turn = self._data.geom_xmat[mirror].reshape(3, 3)
        x, y, z = self._model.geom_size[mirror]
        signs = np.array([(-x, -y, z), (-x, y, z), (x, -y, z), (x, y, z)])
        face = signs @ turn.T + self._data.geom_xpos[mirror]
        seen = self._in_camera(camera, face)
        if (seen[:, 2] < -_SLACK_M).all():
            slopes = seen[:, :2] / -seen[:, 2:]
            view = np.clip([slopes.min(axis=0), slopes.max(axis=0)], *view)
        height = (corners - face[0]) @ turn[:, 2]
        images = corners - 2 * height[..., None] * turn[:, 2]
        below = (height < -_SLACK_M).all(axis=-1)
        return below | _outside(self._in_camera(camera, images), view)


def _outside(boxes: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Which boxes lie all beyond one border of a view.

    Args:
        boxes: (n, 8, 3) corners in the camera's frame.
        view: (2, 2) lower and upper slopes of the view, x and y.
    """
    depth = -boxes[..., 2:]
    low, high = view
    beyond = (boxes[..., :2] < low * depth - _SLACK_M).all(axis=1)
    beyond |= (boxes[..., :2] > high * depth + _SLACK_M).all(axis=1)
    return beyond.any(axis=-1)
