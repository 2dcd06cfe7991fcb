"""What a missing or damaged asset file raises, said in a sentence that names it."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.types import UserError


@contextlib.contextmanager
def blaming(assets: AssetSet, task: str) -> Iterator[None]:
    """Around what loads assets: a description, a mesh or a texture that is no good is the user's.

    Args:
        assets: What is loaded.
        task: Who needs it.

    Raises:
        UserError: a file is missing, or cannot be read as what it should be.
    """
    where = f"The {assets.kind} assets in {str(assets.path)!r}"
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{where} lack {error.filename!r}, which {task} needs: choose other --assets."
        ) from error
    except ElementTree.ParseError as error:
        raise UserError(
            f"{where} are damaged, {_first_damaged(assets.path)} ({task} loads it): restore it, or "
            "choose other --assets."
        ) from error
    except ValueError as error:
        if not str(error).startswith(("Error", "XML Error")):
            raise  # not of MuJoCo's compiler
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where} cannot be loaded for {task} ({reason}): restore that file, or choose other "
            "--assets."
        ) from error


def _first_damaged(folder: Path) -> str:
    """Which description does not parse, and why."""
    for path in sorted(folder.rglob("*.xml")):
        try:
            ElementTree.parse(path)
        except ElementTree.ParseError as error:
            return f"{str(path)!r} is no XML: {error}"
    return "a description is no XML"
