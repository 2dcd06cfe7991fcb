"""A task's BDDL file with objects added to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from vlaprune_bench.sim.package import cache_root, write_atomically

_OBJECTS = re.compile(r"\(:objects\b[^)]*")


def with_objects(bddl_file: Path, objects: Mapping[str, str]) -> Path:
    """A copy of a BDDL file that has more objects, in our cache.

    They are in no region and in no goal: LIBERO's samplers draw what they drew without them, and
    leave them where the model has them.

    Args:
        bddl_file: The file.
        objects: Category by name of the object, of categories the file does not name.
    """
    text = bddl_file.read_text()
    lines = "".join(f"    {name} - {category}\n" for name, category in objects.items())
    text = _OBJECTS.sub(lambda found: f"{found[0].rstrip()}\n{lines}  ", text, count=1)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_root() / "problems" / f"{bddl_file.stem}-{key}.bddl"
    if not path.is_file():
        write_atomically(path, text.encode())
    return path


def categories(bddl_file: Path) -> dict[str, str]:
    """Category of each object (not fixture) of a BDDL file by its name."""
    found = _OBJECTS.search(bddl_file.read_text())
    assert found is not None, bddl_file
    words = found[0].split()[1:]
    named: dict[str, str] = {}
    waiting: list[str] = []
    it = iter(words)
    for word in it:
        if word == "-":
            named |= dict.fromkeys(waiting, next(it))
            waiting = []
        else:
            waiting.append(word)
    return named
