"""A camera that goes black."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import CameraVariant, Scale, Variant, View


@Variant.register_subclass("blackout")
@dataclass(frozen=True)
class Blackout(CameraVariant):
    """A camera is black from a step on; by default both from the first frame on, which tells what a
    checkpoint does blind."""

    scales: ClassVar = {
        "from": Scale("control steps until it goes black", (160, 80, 40, 16, 0), default=5)
    }

    def frame(self, view: View, image: np.ndarray) -> np.ndarray:
        black = view.camera in self.cameras and view.step >= self.amount
        return np.zeros_like(image) if black else image
