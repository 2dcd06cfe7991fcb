"""The variants of a task at work: on a trial's words and frames (on its scene: see `stage`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlaprune_bench.sim.suites import TaskInfo
from vlaprune_bench.sim.variants import Draw, Variant, View, identity
from vlaprune_bench.types import CAMERAS


class Applied:
    """Edits words and frames of one task, trial after trial.

    Attributes:
        variants: The task's own, then those asked for.
        said: What they do, as bytes for `scene_hash`; empty where there are none.
    """

    def __init__(self, task: TaskInfo, chosen: Sequence[Variant], seed: int) -> None:
        """See whether the task can have them.

        Raises:
            UserError: it cannot have one.
        """
        self._task, self._seed = task, seed
        self.variants = (*task.variants, *chosen)
        for variant in self.variants:
            variant.check(task)
        self.said = identity(self.variants).encode() if self.variants else b""
        self.begin(0)

    def begin(self, trial: int) -> None:
        """Forget the last trial's frames."""
        self._trial_draw = self.draw(trial)
        self._held: list[dict[Any, np.ndarray]] = [{} for _ in self.variants]

    def draw(self, trial: int) -> Draw:
        """Where a trial's random numbers come from."""
        return Draw(self._seed, self._task.suite, self._task.index, trial)

    def words(self, trial: int) -> str:
        """The instruction of a trial."""
        words, draw = self._task.instruction, self.draw(trial)
        for variant in self.variants:
            words = variant.words(draw, words)
        return words

    def frames(self, images: np.ndarray, step: int) -> np.ndarray:
        """The cameras' frames as the variants show them.

        Args:
            images: (cameras, size, size, 3) uint8, upright.
            step: Control steps since the scene has settled; before, nothing is edited.
        """
        if step < 0:
            return images
        for variant, held in zip(self.variants, self._held, strict=True):
            views = [View(camera, step, self._trial_draw, held) for camera in CAMERAS]
            images = np.stack([variant.frame(v, i) for v, i in zip(views, images, strict=True)])
        return images

    def hold(self, step: int) -> bool:
        """Whether a step's frames are needed later, though nobody may look at them now."""
        return step >= 0 and any(v.holds_frame(self._trial_draw, step) for v in self.variants)
