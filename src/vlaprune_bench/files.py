"""Paths and texts that a user hands us."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from vlaprune_bench.types import UserError


def user_path(path: str | Path) -> Path:
    """A path as a user typed it, with `~` for the home folder: a shell leaves that of `--x=~/y`.

    Raises:
        UserError: nobody knows that home folder, or it is no path.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is no path; give the path of a file or folder.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: whose home folder is not known; give the whole path.") from error


def expand_paths(options: Any) -> None:
    """Apply `user_path` to every path among the fields of a (frozen) dataclass, as it is made."""
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, Path):
            object.__setattr__(options, f.name, user_path(value))


def read_text(path: Path, name: str) -> str:
    """The text of a file, UTF-8 whatever the machine's locale (a mark at its begin is left out).

    Args:
        path: of the file.
        name: what it is, for the sentence: a flag, as `--config`.

    Raises:
        UserError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} is {path}; it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is {path}; it is not UTF-8 (byte {error.start}): save it with that encoding."
        ) from error
