"""Another look of the table, the floor or the walls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vlaprune_bench.sim.variants.base import Scale, Variant
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.stage import Stage

_SIDE = 256
_LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


@Variant.register_subclass("texture")
@dataclass(frozen=True)
class Texture(Variant):
    """A procedural pattern over a surface: checks, stripes or blotches in two drawn colours."""

    scales: ClassVar = {
        name: Scale(f"share of the {name}'s look that is the pattern's", _LEVELS)
        for name in ("table", "floor", "walls")
    }
    """libero_object plays on the floor and has no table."""

    def edit(self, stage: Stage) -> None:
        textures = self._textures(stage)
        if not textures:
            raise UserError(
                f"variant texture has kind={self.kind}; {stage.draw.suite} task {stage.draw.task} "
                "shows none with a texture."
            )
        picture = pattern(stage.draw.rng(self.key))
        for texture in textures:
            stage.paint(texture, picture, self.amount)

    def _textures(self, stage: Stage) -> list[int]:
        """Ids of the textures on the surface's visible geoms."""
        model, found = stage.model, set()
        for geom in range(model.ngeom):
            name, material = model.geom(geom).name, model.geom_matid[geom]
            body = model.body(model.geom_bodyid[geom]).name
            on = {
                "table": "table" in body,
                "floor": name == "floor",
                "walls": name.startswith("wall_") and name.endswith("_visual"),
            }
            if on[self.kind] and model.geom_group[geom] != 0 and material >= 0:
                found |= {int(t) for t in np.atleast_1d(model.mat_texid[material]) if t >= 0}
        return sorted(found)


def pattern(rng: np.random.Generator) -> np.ndarray:
    """A random picture, (256, 256, 3) uint8, of two colours."""
    rows, columns = np.indices((_SIDE, _SIDE)) / _SIDE
    count, angle = rng.integers(2, 9), rng.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    kind = rng.choice(("checks", "stripes", "blotches"))
    if kind == "stripes":
        share = 0.5 + 0.5 * np.sin(2 * np.pi * count * along)
    elif kind == "checks":
        share = (np.floor(count * along) + np.floor(count * across)) % 2
    else:
        waves = rng.normal(0, count, (12, 2))
        phases = rng.uniform(0, 2 * np.pi, 12)
        heights = sum(
            np.sin(2 * np.pi * (wave[0] * rows + wave[1] * columns) + phase)
            for wave, phase in zip(waves, phases, strict=True)
        )
        share = 1 / (1 + np.exp(-2 * np.asarray(heights)))
    one, other = rng.integers(0, 256, (2, 3))
    return np.rint(one + share[..., None] * (other - one)).astype(np.uint8)
