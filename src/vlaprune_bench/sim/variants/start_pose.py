"""Another pose of the arm to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import Scale, Variant

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage

_MARGIN_RAD = 0.05
"""How far a joint stays from its limits."""


@Variant.register_subclass("start-pose")
@dataclass(frozen=True)
class StartPose(Variant):
    """The arm starts elsewhere: noise of a given norm on its joints, in a random direction."""

    scales: ClassVar = {
        "joints": Scale("rad, norm over the seven joints", (0.1, 0.2, 0.3, 0.4, 0.5))
    }
    """The controller begins there as well, and its null space is drawn there."""

    def edit(self, stage: Stage) -> None:
        stage.arm_pose = stage.arm_pose + self._noise(stage)

    def start(self, stage: Stage, state: np.ndarray) -> None:
        model, (robot,) = stage.model, stage.inner.robots
        low, high = model.jnt_range[robot._ref_joint_indexes].T
        arm = robot._ref_joint_pos_indexes
        wanted = stage.qpos(state)[arm] + self._noise(stage)
        stage.qpos(state)[arm] = np.clip(wanted, low + _MARGIN_RAD, high - _MARGIN_RAD)

    def _noise(self, stage: Stage) -> np.ndarray:
        direction = stage.draw.rng(self.key).standard_normal(len(stage.arm_pose))
        return self.amount * direction / np.linalg.norm(direction)
