"""LIBERO's own files, name by name: what a set of assets is verified against, and its hash.

`libero-assets.sha256` lists the 343 files LIBERO can load (scene descriptions, meshes, textures) as
they stand in its source tree (Lifelong-Robot-Learning/LIBERO, commit 8f1084e); `sha256sum -c` reads
it as well. None of the files themselves is part of this package.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

PUBLISHED_HASH = "50cb67468592b7a4"
"""`Contents.hash` of the files as published, wherever they came from."""


@dataclass(frozen=True)
class Contents:
    """What a folder of real assets holds of LIBERO's own files."""

    hash: str
    """First 16 hex digits of a SHA-256 over names and contents of these files; what else lies in
    the folder (another project's objects, sources of meshes) does not count."""
    changed: tuple[str, ...]
    """Names of the files whose contents are not the published ones."""


@functools.cache
def manifest() -> Mapping[str, str]:
    """SHA-256 (hex) of each of LIBERO's loadable files by its name below the assets folder."""
    text = (files("vlaprune_bench.sim") / "libero-assets.sha256").read_text()
    lines = (line.split("  ", 1) for line in text.splitlines())
    return MappingProxyType({name: digest for digest, name in lines})


def first_missing(folder: Path) -> str | None:
    """The first of LIBERO's files that `folder` lacks, or None."""
    return next((name for name in manifest() if not (folder / name).is_file()), None)


@functools.cache
def contents(folder: Path) -> Contents:
    """Read and hash LIBERO's files below `folder`, once a process (317 MB: a second or two).

    Args:
        folder: Holds all of them (`first_missing` says none).
    """
    digest, changed = hashlib.sha256(), []
    for name, wanted in sorted(manifest().items()):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
        if hashlib.sha256(content).hexdigest() != wanted:
            changed.append(name)
    return Contents(digest.hexdigest()[:16], tuple(changed))
