"""Which geoms leave no mark on a camera's frame, and which show in a mirror."""

from __future__ import annotations

from typing import Any

import numpy as np

_SLACK_M = 0.01
"""How far outside the view a box must lie to be left out: far beyond rounding."""
_WIDE_M = 0.3
"""Half the side a box must have to be worth trying as a cover."""


class Culling:
    """Finds the geoms that leave no mark on a camera's frame.

    Attributes:
        exact: False where a geom may show elsewhere than where it is: shadows, several mirrors.
        mirror_mask: (ngeom,) bool, true of the one mirror.
        shown: (ngeom,) bool, false of what no camera draws (collision geoms).
    """

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
        shown = self.shown = shown_groups[model.geom_group]
        shine = np.append(model.mat_reflectance, 0)[model.geom_matid]  # -1: no material
        mirrors = np.flatnonzero(shown & (shine > 0) & (plane | box))
        bounded = shown & (model.geom_type != mujoco.mjtGeom.mjGEOM_HFIELD)
        bounded &= ~plane | (model.geom_size[:, :2] > 0).all(axis=1)
        self.exact = not (model.light_castshadow.any() or len(mirrors) > 1 or plane[mirrors].any())
        if not self.exact:
            bounded[:] = False  # a geom may show where it is not: draw all
        self._mirror = int(mirrors[0]) if bounded[mirrors].any() else None
        self.mirror_mask = np.zeros(model.ngeom, dtype=bool)
        if self._mirror is not None:
            self.mirror_mask[self._mirror] = True
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
        corners = self._corners()
        view = self._view(camera)
        outside = _outside(self._in_camera(camera, corners), view)
        for cover in self._covers.tolist():
            outside |= self._below_cover(camera, cover, corners, view)
        if self._mirror is not None and not outside[self._geoms == self._mirror].any():
            outside &= self._outside_mirror(camera, corners, view)
        return self._geoms[outside]

    def mirrored(self, camera: int, unseen: np.ndarray) -> np.ndarray:
        """(ngeom,) bool: what may show in the mirror; nothing where there is none in the view.

        Args:
            camera: Its id.
            unseen: (ngeom,) bool, true of what `unseen` gave.
        """
        if self._mirror is None or unseen[self._mirror]:
            return np.zeros_like(unseen)
        shows = np.ones_like(unseen)
        shows[self._geoms] = ~self._outside_mirror(camera, self._corners(), self._view(camera))
        return shows

    def behind(self, camera: int, panes: np.ndarray, things: np.ndarray) -> bool:
        """Whether any of some things may be seen through one of some panes.

        Args:
            camera: Its id.
            panes: (ngeom,) bool.
            things: (ngeom,) bool.
        """
        low, high, near, far = self._spans(camera)
        for pane in np.flatnonzero(panes).tolist():
            over = (low[things] <= high[pane]).all(axis=1) & (high[things] >= low[pane]).all(axis=1)
            over &= far[things] > near[pane]
            if over.any() and not self._all_before(camera, pane, np.flatnonzero(things)[over]):
                return True
        return False

    def _all_before(self, camera: int, pane: int, things: np.ndarray) -> bool:
        """Whether one of a pane's faces has the camera and all of some boxes on its outer side: a
        ray that meets the pane has left that side for good."""
        places = np.flatnonzero(np.isin(self._geoms, things))
        if len(places) < len(things) or pane not in self._geoms:
            return False
        turn, at = self._data.geom_xmat[pane].reshape(3, 3), self._data.geom_xpos[pane]
        own = self._boxes[self._geoms == pane][0]
        points = np.concatenate(
            [self._corners()[places].reshape(-1, 3), [self._data.cam_xpos[camera]]]
        )
        local = (points - at) @ turn
        beyond = np.concatenate(
            [local.min(0) > own.max(0) + _SLACK_M / 10, local.max(0) < own.min(0) - _SLACK_M / 10]
        )
        return bool(beyond.any())

    def _spans(self, camera: int) -> tuple[np.ndarray, ...]:
        """What each geom's box spans before a camera: lower and upper slopes, (ngeom, 2), nearest
        and farthest depth, (ngeom,); everything where that is not known."""
        n = self._model.ngeom
        low, high = np.full((n, 2), -np.inf), np.full((n, 2), np.inf)
        near, far = np.full(n, -np.inf), np.full(n, np.inf)
        seen = self._in_camera(camera, self._corners())
        depth = -seen[..., 2]
        near[self._geoms], far[self._geoms] = depth.min(1) - _SLACK_M, depth.max(1) + _SLACK_M
        before = depth.min(1) > _SLACK_M
        slopes = seen[before, :, :2] / depth[before][..., None]
        low[self._geoms[before]] = slopes.min(1) - _SLACK_M
        high[self._geoms[before]] = slopes.max(1) + _SLACK_M
        return low, high, near, far

    def _corners(self) -> np.ndarray:
        """(n, 8, 3) corners of the boxes around `_geoms`, in the world."""
        turn = self._data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        return self._boxes @ turn.transpose(0, 2, 1) + self._data.geom_xpos[self._geoms][:, None]

    def _view(self, camera: int) -> np.ndarray:
        """(2, 2) lower and upper slopes of a camera's view, x and y."""
        reach = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        return np.array([[-reach, -reach], [reach, reach]])

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
