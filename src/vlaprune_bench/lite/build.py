"""The lite assets: stand-ins for LIBERO's meshes and textures, drawn by code on first use.

LIBERO's own assets are a download; these let every environment load without one. They keep what
LIBERO's code and its packaged init states rely on (names, joints, sites, sizes, masses) and look
simpler. Scores measured with them are not LIBERO scores.

    folder = build_lite(Path("~/.cache/vlaprune-bench").expanduser())
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from vlaprune_bench.lite import arena, fixtures, look, objects, textures
from vlaprune_bench.types import UserError

MARKER = "vlaprune-lite.json"
"""Written last; holds the generator's hash, the suites covered, the names of all entries and the
digest of every file."""

COVERED_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
"""Suites whose every object, fixture and arena has an entry."""


def generator_hash() -> str:
    """Hash of the source files that draw the assets: the key of a built folder."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build_lite(cache_root: Path) -> Path:
    """The folder of lite assets in LIBERO's asset layout, made if it is not there yet.

    Built in a temporary folder and moved into place whole, so processes may race for it.

    Args:
        cache_root: Folder to keep it in, as `lite-<hash of the generator>`.

    Returns:
        The folder; its `vlaprune-lite.json` lists what it holds.

    Raises:
        UserError: The folder is there but was not finished by us.
    """
    key = generator_hash()
    folder = cache_root / f"lite-{key}"
    if (folder / MARKER).is_file():
        return folder
    if folder.exists():
        raise UserError(f"lite assets {folder} lack {MARKER}: delete that folder and run again")
    cache_root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".lite-", dir=cache_root))
    try:
        write_assets(temporary, key)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except OSError:
        # Another process may have put its copy in place first; anything else is a real failure.
        if not (folder / MARKER).is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_assets(folder: Path, key: str) -> None:
    """Draw everything into `folder`, the marker last."""
    textures.write_surfaces(folder / "textures")
    entries = {
        "objects": objects.write_objects(folder),
        "fixtures": fixtures.write_fixtures(folder),
        "arenas": arena.write_arenas(folder),
        "robot": look.write_look(folder),
    }
    marker = {
        "generator": key,
        "suites": COVERED_SUITES,
        "entries": entries,
        "files": {name: file_digest(folder / name) for name in _names(folder)},
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def check_lite(folder: Path) -> None:
    """Compare every file with what was made: MuJoCo loads half a mesh without a word.

    Raises:
        UserError: a file is missing, was cut or changed.
    """
    marker = folder / MARKER
    mend = "delete that folder: it is made anew"
    try:
        files = json.loads(marker.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The lite assets in {str(folder)!r}: {MARKER} is damaged, {mend}."
        ) from error
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise UserError(f"The lite assets in {str(folder)!r} lack {name!r}: {mend}.")
        if file_digest(folder / name) != digest:
            raise UserError(
                f"The lite assets in {str(folder)!r} are damaged, {name!r} is not as it was made: "
                f"{mend}."
            )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
