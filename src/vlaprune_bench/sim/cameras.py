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


class Cameras:
    """Renders `types.CAMERAS`; making one disturbs the simulation's warm start."""

    def __init__(self, inner: Any, size: int) -> None:
        """Make a GL context and upload the model.

        Args:
            inner: LIBERO's environment (robosuite's class).
            size: Side of the square frames, pixels.
        """
        import mujoco
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
        bounded = np.array(groups, dtype=bool)[self._group]
        bounded &= ~np.isin(
            self._model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD)
        )
        # without shadows and mirrors, a geom shows nowhere but where it is
        bounded &= not self._model.light_castshadow.any() and not self._model.mat_reflectance.any()
        self._geoms = np.flatnonzero(bounded)
        corners = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), axis=-1).reshape(8, 3)
        centre, half = np.split(self._model.geom_aabb[self._geoms][:, None], 2, axis=-1)
        self._boxes = centre + corners * half

    def frames(self) -> list[np.ndarray]:
        """Render the scene the data's kinematics describe.

        Returns:
            For each of `types.CAMERAS` (size, size, 3) uint8, rows from the bottom up.
        """
        size, context = self._size, self._sim._render_context_offscreen
        context.gl_ctx.make_current()
        frames = []
        for camera in self._ids:
            self._model.geom_group[self._geoms[self._outside(camera)]] = _HIDDEN_GROUP
            try:
                context.render(size, size, camera_id=camera)
            finally:
                self._model.geom_group[:] = self._group
            frames.append(context.read_pixels(size, size))
        return frames

    def _outside(self, camera: int) -> np.ndarray:
        """Which of `_geoms` have a bounding box all on the far side of one border of the view."""
        model, data = self._model, self._data
        turn = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        corners = self._boxes @ turn.transpose(0, 2, 1) + data.geom_xpos[self._geoms][:, None]
        # camera frame: x to the right, y up, looking along -z
        seen = (corners - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
        reach = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2) * -seen[..., 2] + _SLACK_M
        x, y = seen[..., 0], seen[..., 1]
        beyond = np.stack([x > reach, -x > reach, y > reach, -y > reach])
        return beyond.all(axis=-1).any(axis=0)
