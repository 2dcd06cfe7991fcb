"""Reading a results folder, while others may be writing there, or what was exported of one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.files import user_path
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
    """Merged files first; single ones only where no merged one has their episode; then others."""
    superseded: list[Path]
    """Single parts whose rows are in a merged file."""
    damaged: dict[Path, str]
    """Unreadable files and why."""


def contents(place: Path, columns: Sequence[str] | None = None) -> Contents:
    """What a results folder, an exported one or a single parquet file holds.

    Raises:
        UserError: an episode is there twice, other than by a merge that was killed.
        FileNotFoundError: a file has gone since it was listed.
    """
    found = Contents({}, [], {})
    origin: dict[str, Path] = {}
    """Where each episode was found first."""
    for path in part_files(place):
        if is_own(path) and is_merged(origin.get(episode_id(path), Path())):
            found.superseded.append(path)
            continue
        try:
            table = _read_episodes(path, columns)
        except DamagedError as error:
            found.damaged[path] = str(error)
            continue
        names = table["episode_id"].to_pylist()
        _refuse_doubles(path, names, origin)
        origin |= dict.fromkeys(names, path)
        found.parts[path] = table
    return found


def part_files(place: Path) -> list[Path]:
    """The files that may hold episodes: merged parts, single ones, others' (as exported ones)."""
    if place.is_file():
        return [place]
    # single parts are listed first: what is merged in between is then seen in its merged file
    single = sorted(place.glob("episode-*.parquet"))
    merged = sorted(place.glob("merged-*.parquet"))
    others = [path for path in sorted(place.glob("[!._]*.parquet")) if not is_own(path)]
    return [*merged, *single, *others]


def _refuse_doubles(path: Path, names: list[str], origin: dict[str, Path]) -> None:
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds an episode more than once; it would count as often.")
    if twice := origin.keys() & names:
        other = origin[next(iter(twice))]
        count = f"{len(twice)} episode{'s' * (len(twice) > 1)}"
        raise UserError(
            f"{other} and {path.name} both hold {count} and would count them twice; keep one of "
            "the files."
        )


def _read_episodes(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """A part's episodes as today's would be written."""
    if columns is None:
        return _as_executed(read_part(path, EpisodeRow))
    if "execute_steps" not in columns:
        return read_part(path, EpisodeRow, columns)
    table = _as_executed(read_part(path, EpisodeRow, [*columns, "policy"]))
    return table.select([name for name in table.column_names if name in columns])


def _as_executed(episodes: pa.Table) -> pa.Table:
    """Say how many actions a call of `openvla` had executed: the one it gives.

    Its first rows say what was asked of a chunk, the protocol's number. The ids of such episodes
    are those of the ones that say 1 (`rollout.identity`), so they must fall into one cell.
    """
    import pyarrow as pa

    place = episodes.schema.get_field_index("execute_steps")
    asked, policies = episodes["execute_steps"].to_pylist(), episodes["policy"].to_pylist()
    steps = [1 if p == "openvla" else n for p, n in zip(policies, asked, strict=True)]
    if steps == asked:
        return episodes
    return episodes.set_column(place, episodes.schema.field(place), pa.array(steps, pa.int64()))


def episode_id(path: Path) -> str:
    """The episode a single part holds, from its name."""
    return path.stem.removeprefix("episode-")


def is_merged(part: Path) -> bool:
    return part.name.startswith("merged-")


def is_own(part: Path) -> bool:
    """Whether a run wrote it: what others put into the folder is read but never touched."""
    return part.name.startswith(("episode-", "merged-"))


def calls_path(part: Path) -> Path:
    """Where the calls of a part's episodes are."""
    return part.parent / "_calls" / part.name.replace("episode-", "calls-", 1)


def read_episodes(folder: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, list[str]]:
    """Every episode of a results folder once, while others may be writing there.

    Args:
        folder: need not exist; or one file, as `vlaprune-report export` writes.
        columns: of `EpisodeRow`, `episode_id` among them; None: all.

    Returns:
        The rows, and a sentence for every file that cannot be read.

    Raises:
        UserError: an episode is in two files.
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

    Args:
        folder: a results folder, one that `vlaprune-report export` wrote, or a parquet file of it.

    Returns:
        One row per episode, each once; columns as in `EpisodeRow`, also of rows from before one.

    Raises:
        UserError: there are no episodes, or one is there in two files.
    """
    return _frame(folder, read_episodes)


def load_calls(folder: str | Path) -> pd.DataFrame:
    """All policy calls of what `load_results` reads, one row per call; columns as in `CallRow`."""
    return _frame(folder, read_calls)


def _frame(folder: str | Path, read: Any) -> pd.DataFrame:
    folder = user_path(folder)
    table, damaged = read(folder)
    for sentence in damaged:
        warnings.warn(sentence, stacklevel=3)
    if not len(table) and not part_files(folder):
        raise UserError(f"{folder} holds no results; it must be a folder vlaprune-eval wrote.")
    return table.to_pandas()
