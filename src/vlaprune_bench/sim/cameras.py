"""The frames of both cameras, from one GL context that lives as long as the model.

Equal to robosuite's frames pixel for pixel, and cheaper: software rendering is bound by vertices.
What lies outside a camera's view is not drawn for it (`culling`), and what rests before a camera
that does not move is drawn once (`still`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np

from vlaprune_bench.sim.culling import Culling
from vlaprune_bench.types import CAMERAS

_HIDDEN_GROUP = 5
"""A geom group that is not drawn (MuJoCo shows groups 0 to 2, robosuite hides 0)."""


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
        self._still = self._still_cameras()

    def forget(self) -> None:
        """Another scene: what was drawn of the last one is of no use."""
        for still in self._still.values():
            still.forget()

    def draw_everything(self) -> bool:
        """Draw every frame anew from now on; whether that is a change."""
        changed, self._still = bool(self._still), {}
        return changed

    def frames(self) -> list[np.ndarray]:
        """Render the scene the data's kinematics describe.

        Returns:
            For each of `types.CAMERAS` (size, size, 3) uint8, rows from the bottom up.
        """
        size, context = self._size, self._sim._render_context_offscreen
        context.gl_ctx.make_current()
        frames = []
        for camera in self._ids:
            unseen = np.zeros(self._model.ngeom, dtype=bool)
            unseen[self._culling.unseen(camera)] = True
            still = self._still.get(camera)
            draw = functools.partial(self._draw, camera)
            if still is None or not still.draw(unseen, draw):
                draw(unseen)
            frames.append(context.read_pixels(size, size))
        return frames

    def _draw(self, camera: int, hidden: np.ndarray) -> None:
        """Draw all but the geoms of a mask into the offscreen buffer."""
        self._model.geom_group[hidden] = _HIDDEN_GROUP
        try:
            self._sim._render_context_offscreen.render(self._size, self._size, camera_id=camera)
        finally:
            self._model.geom_group[:] = self._group

    def _still_cameras(self) -> dict[int, Any]:
        """Cameras fixed to the world, and what draws their frames, where OpenGL can."""
        from OpenGL import error

        from vlaprune_bench.sim.backdrop import Backdrop
        from vlaprune_bench.sim.still import StillCamera

        model, context = self._model, self._sim._render_context_offscreen
        if model.ntendon or model.nskin or model.nflex or model.nhfield:
            return {}
        context.gl_ctx.make_current()
        (robot,) = {int(model.body_rootid[body]) for body in model.cam_bodyid[self._ids] if body}
        try:
            return {
                camera: StillCamera(
                    model,
                    self._data,
                    camera,
                    self._culling,
                    [Backdrop(context.con, self._size) for _ in range(3)],
                    robot,
                )
                for camera in self._ids
                if model.cam_bodyid[camera] == 0
            }
        except (error.Error, RuntimeError) as reason:
            # frames are the same, and take longer
            logging.getLogger(__name__).info("every frame is drawn anew: %s", reason)
            return {}
