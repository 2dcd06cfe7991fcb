"""Reading a results folder, while others may be writing there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.store.parts import DamagedError, read_part, schema
from vlaprune_bench.types import CallRow, EpisodeRow, UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

READ_ATTEMPTS = 5
"""How often a reader starts again because a writer merged parts under its hands."""


@dataclass
class Contents:
    """What a folder held at one moment: every readable episode once, by file."""

    parts: dict[Path, pa.Table]
    """Merged files first; single ones only where no merged one has their episode."""
    superseded: list[Path]
    """Single parts whose rows are in a merged file."""
    damaged: dict[Path, str]
    """Unreadable files and why."""


def contents(folder: Path, columns: Sequence[str] | None = None) -> Contents:
    # single parts are listed first: what is merged in between is then seen in its merged file
    single = sorted(folder.glob("episode-*.parquet"))
    merged = sorted(folder.glob("merged-*.parquet"))
    found = Contents({}, [], {})
    in_merged: set[str] = set()
    for path in [*merged, *single]:
        if episode_id(path) in in_merged:
            found.superseded.append(path)
            continue
        try:
            found.parts[path] = read_part(path, EpisodeRow, columns)
        except DamagedError as error:
            found.damaged[path] = str(error)
            continue
        if is_merged(path):
            in_merged.update(found.parts[path]["episode_id"].to_pylist())
    return found


def episode_id(path: Path) -> str:
    """The episode a single part holds, from its name."""
    return path.stem.removeprefix("episode-")


def is_merged(part: Path) -> bool:
    return part.name.startswith("merged-")


def calls_path(part: Path) -> Path:
    """Where the calls of a part's episodes are."""
    return part.parent / "_calls" / part.name.replace("episode-", "calls-", 1)


def read_episodes(folder: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, list[str]]:
    """Every episode of a results folder once, while others may be writing there.

    Args:
        folder: need not exist.
        columns: of `EpisodeRow`, `episode_id` among them; None: all.

    Returns:
        The rows, and a sentence for every file that cannot be read.
    """
    import pyarrow as pa

    for attempt in range(READ_ATTEMPTS):
        try:
            found = contents(folder, columns)
        except FileNotFoundError:  # a writer has just merged or replaced it
            if attempt == READ_ATTEMPTS - 1:
                raise
            continue
        break
    wanted = pa.schema([f for f in schema(EpisodeRow) if columns is None or f.name in columns])
    none = pa.Table.from_batches([], wanted)  # Schema.empty_table() would import pandas
    return pa.concat_tables([none, *found.parts.values()]), [
        f"{sentence}: left out" for sentence in found.damaged.values()
    ]


def read_calls(folder: Path) -> tuple[pa.Table, list[str]]:
    """Every call of every episode of a results folder; as `read_episodes`."""
    import pyarrow as pa

    for attempt in range(READ_ATTEMPTS):
        found = contents(folder, ["episode_id"])
        tables, damaged = [schema(CallRow).empty_table()], list(found.damaged.values())
        missing = 0
        for part in found.parts:
            try:
                tables.append(read_part(calls_path(part), CallRow))
            except DamagedError as error:
                damaged.append(str(error))
            except FileNotFoundError:
                missing += 1
                damaged.append(f"{calls_path(part)} is missing")
        if not missing or attempt == READ_ATTEMPTS - 1:
            break
    return pa.concat_tables(tables), [f"{sentence}: left out" for sentence in damaged]


def load_results(folder: str | Path) -> pd.DataFrame:
    """All episodes of a results folder; a file that cannot be read is named in a warning.

    Returns:
        One row per episode; columns as in `EpisodeRow`.

    Raises:
        UserError: the folder holds no episodes.
    """
    return _frame(folder, read_episodes)


def load_calls(folder: str | Path) -> pd.DataFrame:
    """All policy calls of a results folder, one row per call; columns as in `CallRow`."""
    return _frame(folder, read_calls)


def _frame(folder: str | Path, read: Any) -> pd.DataFrame:
    folder = Path(folder)
    table, damaged = read(folder)
    for sentence in damaged:
        warnings.warn(sentence, stacklevel=3)
    if not len(table) and not any(folder.glob("[!._]*.parquet")):
        raise UserError(f"{folder} holds no results; it must be a folder vlaprune-eval wrote.")
    return table.to_pandas()
