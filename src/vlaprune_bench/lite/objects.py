"""Everything LIBERO loads as an object: name -> entry."""

from __future__ import annotations

from pathlib import Path

from vlaprune_bench.lite.dishes import DISHES
from vlaprune_bench.lite.entry import Entry
from vlaprune_bench.lite.groceries import GROCERIES
from vlaprune_bench.lite.joinery import JOINERY

OBJECTS: dict[str, Entry] = {**DISHES, **GROCERIES, **JOINERY}


def write_objects(root: Path) -> list[str]:
    """Write every entry of `OBJECTS` below `root`; returns their names."""
    for name, entry in OBJECTS.items():
        entry.write(root, name)
    return list(OBJECTS)
