"""The stage of one trial: what variants may look at and edit, and how all of it is put back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from vlaprune_bench.sim.draw import Draw

_TEXTURE = "texture"


@dataclass(frozen=True)
class Change:
    """One edit of the model: what stood there, and what stands there now."""

    field: str
    """Of MuJoCo's model, dotted (`vis.headlight.ambient`), or "texture"."""
    index: Any
    old: np.ndarray | None
    """None of a texture: what was compiled is kept apart, once."""
    new: np.ndarray
    """Of a texture a small picture to blend over it."""
    share: float = 1.0
    """Of a texture: how much of the picture shows."""


class Editor(Protocol):
    """What a stage asks of a variant; see `variants.base.Variant`."""

    def edit(self, stage: Stage) -> None: ...

    def start(self, stage: Stage, state: np.ndarray) -> None: ...


class Stage:
    """Sets the variants of a task up for one trial after the other.

    Attributes:
        inner: LIBERO's environment (robosuite's class).
        draw: Where the trial's random numbers come from.
        arm_pose: (7,) joint positions, rad, of the arm at the reset: where its controller begins,
            and where its null space is drawn to. An init state has joints of its own.
        changes: The edits that are in place, in order.
    """

    def __init__(self, variants: Sequence[Editor], extras: Sequence[str]) -> None:
        """Nothing is edited yet.

        Args:
            variants: Applied in this order.
            extras: Objects that variants have added to the model, in its order.
        """
        self._variants = tuple(variants)
        self.extras = tuple(extras)
        self.changes: tuple[Change, ...] = ()
        self._compiled: dict[int, np.ndarray] = {}  # texels of textures that were painted
        self._stale: set[int] = set()
        self._model: Any = None

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self.inner.sim.model._model

    @property
    def data(self) -> Any:
        """MuJoCo's data."""
        return self.inner.sim.data._data

    def set(self, field: str, value: Any, index: Any = ...) -> None:
        """Write into an array of the model, to be undone later.

        Args:
            field: Its name, such as "cam_pos" or "vis.headlight.ambient".
            value: What to write.
            index: Where; everywhere by default.
        """
        array = attrgetter(field)(self.model)
        old = np.array(array[index])
        array[index] = value
        self.changes += (Change(field, index, old, np.array(array[index])),)

    def paint(self, texture: int, picture: np.ndarray, share: float) -> None:
        """Blend a picture over a texture, to be undone later.

        Args:
            texture: Its id.
            picture: (h, w, 3) uint8; stretched over the texture, over each face of a cube.
            share: How much of the picture shows, 0 to 1.
        """
        self._compiled.setdefault(texture, self._texels(texture).copy())
        change = Change(_TEXTURE, texture, None, picture, share)
        self._blend(change)
        self.changes += (change,)

    def open(self, inner: Any, draw: Draw) -> None:
        """Before a reset: take back the last trial's edits and make this one's.

        Args:
            inner: LIBERO's environment; its model is the one just compiled or the last one again.
            draw: Of the trial that begins.
        """
        if self._model is inner.sim.model._model:
            self.undo()
        else:
            self.changes, self._compiled, self._stale = (), {}, set()
        self.inner, self.draw, self._model = inner, draw, inner.sim.model._model
        (robot,) = inner.robots
        self.arm_pose = np.array(robot.robot_model.init_qpos)
        for variant in self._variants:
            variant.edit(self)
        robot.init_qpos = self.arm_pose

    def start(self, state: np.ndarray) -> np.ndarray:
        """After the reset: the init state as the variants want it.

        Args:
            state: (1 + nq + nv,) of the model, or of the model without its extras.

        Returns:
            Time, qpos and qvel of the model as it is.
        """
        state = self._with_extras(state)
        for variant in self._variants:
            variant.start(self, state)
        self.flush()
        return state

    def qpos(self, state: np.ndarray) -> np.ndarray:
        """The view of joint positions in an init state."""
        return state[1 : 1 + self.model.nq]

    def undo(self) -> None:
        """Put back everything that was edited."""
        for change in reversed(self.changes):
            if change.field == _TEXTURE:
                self._texels(change.index)[:] = self._compiled[change.index]
                self._stale.add(change.index)
            else:
                attrgetter(change.field)(self.model)[change.index] = change.old
        self.changes = ()

    def redo(self, changes: tuple[Change, ...]) -> None:
        """Put the edits of another trial in place of those there are."""
        if changes is self.changes:
            return
        self.undo()
        for change in changes:
            if change.field == _TEXTURE:
                self._blend(change)
            else:
                attrgetter(change.field)(self.model)[change.index] = change.new
        self.changes = changes
        self.flush()

    def flush(self) -> None:
        """Send changed textures to the renderer, if there is one by now."""
        import mujoco

        context = self.inner.sim._render_context_offscreen
        if context is not None and self._stale:
            context.gl_ctx.make_current()
            for texture in sorted(self._stale):
                mujoco.mjr_uploadTexture(self.model, context.con, texture)
        self._stale = set()

    def digest(self) -> bytes:
        """SHA-256 of all edits in place."""
        digest = hashlib.sha256()
        for change in self.changes:
            digest.update(f"{change.field} {change.index} {change.share}".encode())
            digest.update(np.ascontiguousarray(change.new).tobytes())
        return digest.digest()

    def _with_extras(self, state: np.ndarray) -> np.ndarray:
        """A state with the joints of extras put in, at the model's defaults."""
        model = self.model
        if len(state) == 1 + model.nq + model.nv:
            return state.copy()
        joints = [self.inner.get_object(name).joints[-1] for name in self.extras]
        qpos, qvel = np.zeros(model.nq, dtype=bool), np.zeros(model.nv, dtype=bool)
        for joint in (model.joint(name) for name in joints):
            qpos[joint.qposadr[0] :][:7] = True
            qvel[joint.dofadr[0] :][:6] = True
        whole = np.concatenate([[0.0], model.qpos0, np.zeros(model.nv)])
        whole[~np.concatenate([[False], qpos, qvel])] = state
        return whole

    def _texels(self, texture: int) -> np.ndarray:
        """(height, width, channels) uint8 view of a texture; a cube has its faces below each
        other."""
        model = self.model
        shape = (
            int(model.tex_height[texture]),
            int(model.tex_width[texture]),
            int(model.tex_nchannel[texture]),
        )
        start = int(model.tex_adr[texture])
        view: np.ndarray = model.tex_data[start : start + shape[0] * shape[1] * shape[2]]
        return view.reshape(shape)

    def _blend(self, change: Change) -> None:
        from PIL import Image

        texels = self._texels(change.index)
        for face in _faces(texels):
            size = (face.shape[1], face.shape[0])
            picture = np.asarray(
                Image.fromarray(change.new).resize(size, Image.Resampling.BILINEAR)
            )
            mixed = face[..., :3] * (1 - change.share) + picture * change.share
            face[..., :3] = np.rint(mixed).astype(np.uint8)
        self._stale.add(change.index)


def _faces(texels: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a cube texture's six faces, or of the whole of a flat one."""
    height, width = texels.shape[:2]
    faces = 6 if height == 6 * width else 1
    for k in range(faces):
        yield texels[k * height // faces : (k + 1) * height // faces]
