"""Another light: from elsewhere, darker, of another colour."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import Scale, Variant
from vlaprune_bench.sim.variants.camera import about, rotate

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage

_COLOURS = (
    "light_ambient",
    "light_diffuse",
    "light_specular",
    "vis.headlight.ambient",
    "vis.headlight.diffuse",
    "vis.headlight.specular",
)


@Variant.register_subclass("light")
@dataclass(frozen=True)
class Light(Variant):
    """Other light: darker, from a side, or of another colour."""

    scales: ClassVar = {
        "intensity": Scale("stops darker (a stop: half the light)", (0.5, 1, 1.5, 2, 3)),
        "direction": Scale("degrees all lamps lean to a side", (10, 20, 35, 50, 70)),
        "colour": Scale("share of a channel's light taken away", (0.15, 0.3, 0.45, 0.6, 0.8)),
    }
    """LIBERO's lamps and the camera's own light together are brighter than white: brighter still
    shows nothing. For `direction` the camera's light goes out and the lamps share what one gives:
    otherwise nobody would see from where they shine."""

    def edit(self, stage: Stage) -> None:
        rng, model = stage.draw.rng(self.key), stage.model
        if self.kind == "direction":
            self._lean(stage, rng)
            stage.set("light_diffuse", model.light_diffuse / model.nlight)
            stage.set("vis.headlight.diffuse", 0)
            return
        factor = 2.0**-self.amount * np.ones(3)
        if self.kind == "colour":
            # one channel keeps its light, one loses the whole share, the third a part of it
            factor = 1 - self.amount * rng.permutation([0.0, rng.uniform(), 1.0])
        for field in _COLOURS:
            stage.set(field, attrgetter(field)(model) * factor)

    def _lean(self, stage: Stage, rng: np.random.Generator) -> None:
        """Turn the lamps around a horizontal axis through the middle of the table."""
        model, pivot = stage.model, np.array(stage.inner.workspace_offset, dtype=float)
        towards = rng.uniform(0, 2 * np.pi)
        turn = about((np.cos(towards), np.sin(towards), 0.0), np.deg2rad(self.amount))
        stage.set("light_pos", [pivot + rotate(turn, pos - pivot) for pos in model.light_pos])
        stage.set("light_dir", [rotate(turn, d) for d in model.light_dir])
