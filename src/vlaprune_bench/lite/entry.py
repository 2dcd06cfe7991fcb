"""An object's entry: what it is, and what LIBERO must know to load and place it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlaprune_bench.lite.mjcf import Model, Vec3
from vlaprune_bench.lite.things import Thing

SCANNED = "stable_scanned_objects"
HOPE = "stable_hope_objects"
TURBOSQUID = "turbosquid_objects"


@dataclass(frozen=True)
class Entry:
    """Where LIBERO looks for an object, what it is, and its placement sites."""

    folder: str
    thing: Thing
    bottom: float = -0.06
    top: float = 0.04
    radius: float = 0.025
    y_up: bool = False
    """Whether it stands along its y axis, though its dimensions are given with z up."""
    nested: tuple[str, Vec3] | None = None
    """Name and place of a body inside the object's own, for the one object that has such."""

    def write(self, root: Path, name: str) -> None:
        """Write the object's folder below `root`."""
        folder = root / self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        radius: Vec3 = (self.radius, self.radius, 0.0)
        model = Model(name, self.bottom, self.top, radius, self.y_up)
        if self.nested is not None:
            model.object = model.body(model.object, *self.nested)
        self.thing.make(model, folder)
        model.save(folder / f"{name}.xml")
