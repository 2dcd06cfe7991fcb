"""The results folder: episodes and calls as parquet, written one episode at a time.

    results/runs/
      episode-<id>.parquet      one row: `pandas.read_parquet("results/runs")` reads them all
      _calls/calls-<id>.parquet one row per policy call of that episode
      _runs/<run_id>.yaml       the configuration that made them
      _videos/                  videos, where asked for

Names that begin with an underscore are skipped by parquet readers, so the folder itself is the
table of episodes. A part is written under a hidden name and renamed when it is whole; an
episode's calls are renamed before the episode itself, so an episode that is there is complete.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from vlaprune_bench.types import CallRow, EpisodeRow, UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def schema(row: type) -> pa.Schema:
    """The arrow schema of a row class: types from annotations, units and docs as metadata."""
    import pyarrow as pa

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    kinds[list[int]] = pa.list_(pa.int32())
    kinds[list[str]] = pa.list_(pa.string())
    hints = get_type_hints(row)
    columns = []
    for f in fields(row):
        options = [k for k in (get_args(hints[f.name]) or ()) if k is not type(None)]
        nullable = type(None) in get_args(hints[f.name])
        kind = kinds[options[0] if nullable else hints[f.name]]
        meta = {key: value for key, value in f.metadata.items() if value}
        columns.append(pa.field(f.name, kind, nullable=nullable, metadata=meta))
    return pa.schema(columns)


class Store:
    """One results folder.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for sub in ("", "_calls", "_runs", "_videos"):
                (folder / sub).mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
                pass
        except OSError as error:
            raise UserError(
                f"--output is {folder}; it must be a folder that can be written to "
                f"({error.strerror})."
            ) from error

    def append(self, episode: EpisodeRow, calls: Iterable[CallRow]) -> None:
        """Write one finished episode; after a kill it is there whole or not at all."""
        name = episode.episode_id
        self._write(CallRow, calls, self.folder / "_calls" / f"calls-{name}.parquet")
        self._write(EpisodeRow, [episode], self.folder / f"episode-{name}.parquet")

    def _write(self, kind: type, rows: Iterable[Any], path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema(kind))
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with hidden.open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)

    def save_config(self, run_id: str, text: str) -> None:
        """Keep the configuration beside the rows it makes."""
        (self.folder / "_runs" / f"{run_id}.yaml").write_text(text)

    def done(self) -> set[str]:
        """Ids of the episodes the folder holds."""
        return {
            path.stem.removeprefix("episode-") for path in self.folder.glob("episode-*.parquet")
        }


def load_results(folder: str | Path) -> pd.DataFrame:
    """All episodes of a results folder.

    Returns:
        One row per episode; columns as in `EpisodeRow`.

    Raises:
        UserError: the folder holds no episodes.
    """
    return _read(Path(folder), EpisodeRow)


def load_calls(folder: str | Path) -> pd.DataFrame:
    """All policy calls of a results folder, one row per call; columns as in `CallRow`."""
    return _read(Path(folder) / "_calls", CallRow)


def _read(folder: Path, kind: type) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(folder.glob("[!._]*.parquet"))
    if not paths:
        raise UserError(f"{folder} holds no results; it must be a folder vlaprune-eval wrote.")
    tables = [pq.read_table(path, schema=schema(kind)) for path in paths]
    return pa.concat_tables(tables).to_pandas()
