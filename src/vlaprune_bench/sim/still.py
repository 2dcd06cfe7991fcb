"""Frames of a camera that does not move: what rests is drawn once, what moves at every frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlaprune_bench.sim.backdrop import Backdrop
from vlaprune_bench.sim.culling import Culling


class StillCamera:
    """Draws the frames of one camera that is fixed to the world.

    Poses count as the renderer sees them, in single precision: things at rest stay equal to the bit
    there. A thing that has moved once is drawn at every frame until the next reset.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        camera: int,
        culling: Culling,
        backdrops: list[Backdrop],
        robot: int,
    ) -> None:
        """Keep nothing yet.

        Args:
            model: MuJoCo's.
            data: MuJoCo's.
            camera: Its id.
            culling: Knows the mirror.
            backdrops: Three, used by this camera alone: what rests with the mirror's surface and
                without, and what is still being put together.
            robot: Root body of the robot, whose links move at every step.
        """
        self._model, self._data, self._camera = model, data, camera
        self._culling, self._backdrops = culling, backdrops
        self._roots = model.body_rootid[model.geom_bodyid]
        alpha = np.minimum(
            np.append(model.mat_rgba[:, 3], 1)[model.geom_matid], model.geom_rgba[:, 3]
        )
        self._translucent = culling.shown & (alpha > 0) & (alpha < 1)
        linked = model.body_weldid[model.geom_bodyid] != 0
        self._start = linked & (self._roots == robot)
        self.forget()

    def forget(self) -> None:
        """Another scene: nothing of the last one holds."""
        self._moving = self._start.copy()
        self._kept: set[bool] = set()
        self._poses: np.ndarray | None = None
        self._around: bytes = b""

    def draw(self, unseen: np.ndarray, draw: Callable[[np.ndarray], None]) -> bool:
        """Draw the frame of now.

        Args:
            unseen: (ngeom,) what may be left out.
            draw: Renders all but the geoms of a mask.

        Returns:
            False where nothing was drawn: more than depth decides in this frame.
        """
        self._look()
        mirrored = self._culling.mirrored(self._camera, unseen)
        reflecting = bool((mirrored & self._moving & ~unseen).any())
        mirror = self._culling.mirror_mask & reflecting
        if not self._depth_decides(unseen, self._moving | mirror):
            return False
        backdrop = self._backdrops[reflecting]
        if reflecting not in self._kept:
            draw(unseen | self._moving | mirror)
            backdrop.keep()
            self._kept.add(reflecting)
        if not reflecting:
            draw(unseen | ~self._moving)
            backdrop.put_behind()
            return True
        # what stands before a mirror is drawn twice: the rest of what moves apart from it
        draw(unseen | ~(self._moving & ~mirrored))
        backdrop.put_behind()
        self._backdrops[2].keep()
        draw(unseen | ~(mirror | mirrored))
        self._backdrops[2].put_behind()
        return True

    def _depth_decides(self, unseen: np.ndarray, anew: np.ndarray) -> bool:
        """Whether no sample mixes something kept with something behind it that is drawn anew.

        Where both hold the same surface the kept one stays: what rests may be drawn again.

        Args:
            unseen: (ngeom,) what may be left out.
            anew: (ngeom,) what is not in the kept samples.
        """
        sites = self._model.site_rgba[:, 3]
        panes = self._translucent & ~unseen
        if not self._culling.exact or ((sites > 0) & (sites < 1)).any():
            return False
        if not panes.any():
            return True
        anew = anew & self._culling.shown & ~unseen
        return not (panes & anew).any() and not self._culling.behind(self._camera, panes, anew)

    def _look(self) -> None:
        """See what has moved since the last frame, or changed around it."""
        data, model = self._data, self._model
        poses = np.concatenate([data.geom_xpos, data.geom_xmat], axis=1).astype(np.float32)
        around = b"".join(
            np.ascontiguousarray(array, dtype=np.float32).tobytes()
            for array in (
                data.cam_xpos[self._camera], data.cam_xmat[self._camera], data.light_xpos,
                data.light_xdir, model.site_rgba, data.site_xpos[model.site_rgba[:, 3] > 0],
            )
        )  # fmt: skip
        if self._poses is None or around != self._around:
            self._kept.clear()
        else:
            moved = (poses != self._poses).any(axis=1) & ~self._moving
            if moved.any():
                self._moving |= np.isin(self._roots, np.unique(self._roots[moved]))
                self._kept.clear()
        self._poses, self._around = poses, around
