"""Meshes and textures of LIBERO: which set a run uses, and where it lies.

Two kinds: "real" is the set LIBERO was published with; "lite" is made by `lite.build_lite` from
nothing, needs no download and renders fast, but shows other objects.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vlaprune_bench.files import user_path
from vlaprune_bench.sim.package import cache_root, package_folder, writing_cache
from vlaprune_bench.types import UserError

HUB_REPO = "lerobot/libero-assets"
HUB_TIMEOUT_S = 10.0
ENVIRONMENT_VARIABLE = "VLAPRUNE_ASSETS"

_REQUIRED = (
    "scenes/libero_tabletop_base_style.xml",
    "scenes/libero_kitchen_tabletop_base_style.xml",
    "scenes/libero_living_room_tabletop_base_style.xml",
    "scenes/libero_study_base_style.xml",
    "scenes/libero_floor_base_style.xml",
    "articulated_objects/wooden_cabinet.xml",
    "stable_hope_objects/alphabet_soup/alphabet_soup.xml",
    "stable_scanned_objects/akita_black_bowl/akita_black_bowl.xml",
    "turbosquid_objects/wine_bottle/wine_bottle.xml",
    "stable_hope_objects/alphabet_soup/visual/textured_vis.msh",
    "textures/martin_novak_wood_table.png",
)
_SUFFIXES = {".xml", ".msh", ".stl", ".obj", ".png", ".jpg"}
_BY_HAND = (
    f"copy the files of https://huggingface.co/datasets/{HUB_REPO} into a folder and name it with "
    f"--assets FOLDER or {ENVIRONMENT_VARIABLE}=FOLDER, or choose --assets lite"
)


@dataclass(frozen=True)
class AssetSet:
    """A folder of meshes, textures and scene files that libero can load."""

    kind: str
    """"real" or "lite"."""
    path: Path
    hash: str
    """First 16 hex digits of a SHA-256 over names and contents of the asset files."""


def resolve_assets(choice: str, needed: str) -> AssetSet:
    """Find (or make, or download) the asset set to use.

    Args:
        choice: "real", "lite", a folder, or "auto": what the environment variable `VLAPRUNE_ASSETS`
            says (same values), and where it says nothing, the kind `needed`. Anything but "auto"
            wins over the variable.
        needed: "real" or "lite": what the checkpoint was made for.

    Raises:
        UserError: the folder is no asset set or a damaged one, or the real set is neither here nor
            to be had.
    """
    if needed not in ("real", "lite"):
        raise UserError(f"needed={needed!r} is no asset kind: it is real or lite.")
    origin = "--assets"
    if choice == "auto":
        origin = ENVIRONMENT_VARIABLE
        choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if choice == "auto":
        choice = needed
    if choice == "real":
        return _asset_set(find_real() or _download())
    if choice == "lite":
        from vlaprune_bench.lite.build import build_lite  # draws with PIL

        with writing_cache():
            folder = build_lite(cache_root())
        return _asset_set(folder)
    folder = user_path(choice).absolute()
    if not folder.is_dir():
        raise UserError(
            f"{origin}={choice!r} is no folder: give real, lite, auto or a folder of LIBERO assets."
        )
    missing = None if _is_lite(folder) else _first_missing(folder)
    if missing is not None:
        raise UserError(
            f"{origin}={choice!r} is no folder of LIBERO assets: it lacks {missing}; {_BY_HAND}."
        )
    return _asset_set(folder)


def _asset_set(folder: Path) -> AssetSet:
    if not _is_lite(folder):
        return AssetSet(kind="real", path=folder, hash=hash_assets(folder))
    from vlaprune_bench.lite.build import check_lite

    check_lite(folder)
    return AssetSet(kind="lite", path=folder, hash=hash_assets(folder))


def _is_lite(folder: Path) -> bool:
    from vlaprune_bench.lite.build import MARKER

    return (folder / MARKER).is_file()


@functools.cache
def hash_assets(folder: Path) -> str:
    """Hash names and contents of the asset files below `folder`, once a process.

    Only files LIBERO can load count (scene descriptions, meshes, images), so that the same set has
    the same hash whether it came as an archive or as a snapshot of the hub with its extra files.
    Of pictures we drew ourselves the pixels count, however this machine's zlib packed them.
    """
    digest = hashlib.sha256()
    drawn = _is_lite(folder)
    files = (
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES
    )
    for name, path in sorted(files):
        if name.startswith(".") or "/." in name or not path.is_file():
            continue
        content = _pixels(path) if drawn and path.suffix == ".png" else path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _pixels(picture: Path) -> bytes:
    """Format, size and pixels of an image file."""
    from PIL import Image

    with Image.open(picture) as image:
        return f"{image.mode} {image.size} ".encode() + image.tobytes()


def _first_missing(folder: Path) -> str | None:
    """The first file of a real set that must be there and is not, or None."""
    return next((name for name in _REQUIRED if not (folder / name).is_file()), None)


def find_real() -> Path | None:
    """The real set where libero, LeRobot or an earlier download put it; no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    candidates = [package_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"]
    try:
        snapshot = snapshot_download(HUB_REPO, repo_type="dataset", local_files_only=True)
        candidates.append(Path(snapshot))
    except LocalEntryNotFoundError:
        pass  # not in the hub's cache, or only half of it: the caller downloads it
    return next((path for path in candidates if _first_missing(path) is None), None)


def _download() -> Path:
    """Fetch the real set into the Hugging Face cache, with its progress bar on standard error.

    The hub is first asked for the newest revision with a time limit: its client would otherwise
    wait for ever on a host that accepts a connection and says nothing.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # Whatever HTTP client this version of the hub uses, its errors share a base with the hub's own.
    http_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        info = HfApi().dataset_info(HUB_REPO, timeout=HUB_TIMEOUT_S)
        snapshot = snapshot_download(
            HUB_REPO, repo_type="dataset", revision=info.sha, etag_timeout=HUB_TIMEOUT_S
        )
    except (http_error, OSError) as error:  # being offline by choice is an OSError, too
        reason = str(error).strip().splitlines()
        raise UserError(
            "The real LIBERO assets are not on this machine and could not be downloaded "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}): {_BY_HAND}."
        ) from error
    folder = Path(snapshot)
    missing = _first_missing(folder)
    if missing is not None:
        raise UserError(f"The download of {HUB_REPO} to {folder} lacks {missing}: {_BY_HAND}.")
    return folder
