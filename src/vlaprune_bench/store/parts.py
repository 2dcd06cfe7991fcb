"""One part of a results folder: rows as a parquet file, whole or known to be damaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from vlaprune_bench.types import CallRow, EpisodeRow, UserError

if TYPE_CHECKING:
    import pyarrow as pa


UNKNOWN = {(CallRow, "batch_size")}
"""Columns whose default says nothing of rows from before them: those calls may have shared one."""


class DamagedError(Exception):
    """A part is no parquet, was cut short, or its checksums do not fit."""


@cache
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
        meta = {key: f.metadata[key] for key in ("doc", "unit") if f.metadata[key]}
        columns.append(pa.field(f.name, kind, nullable=nullable, metadata=meta))
    return pa.schema(columns)


def write_rows(kind: type, rows: Iterable[Any], path: Path) -> None:
    """Write objects of a row class as parquet; the file is there whole or not at all."""
    write_hidden(to_table(kind, rows), path).replace(path)


def to_table(kind: type, rows: Iterable[Any]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema(kind))


def write_hidden(table: pa.Table, path: Path) -> Path:
    """Write under a hidden name, which is returned: renaming it to `path` is the caller's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # made in memory first: what can fail on a full disk is then one write of ours
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return write_bytes(sink.getvalue(), path)


def write_bytes(content: Any, path: Path) -> Path:
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with hidden.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return hidden


def bring_up_to_date(path: Path) -> None:
    """Give episodes that were written before a column joined that column, at its default.

    Readers that take one file's columns for those of all (pandas, pyarrow) would lose it. A part
    with columns of a version yet to come stays as it is.
    """
    import pyarrow.parquet as pq

    known, there = schema(EpisodeRow), set(pq.read_schema(path).names)
    if there < set(known.names):
        write_hidden(relaxed(read_part(path, EpisodeRow)), path).replace(path)


def relaxed(table: pa.Table) -> pa.Table:
    """Let null stand in a column that some rows are older than: parquet would not write it."""
    import pyarrow as pa

    fields = [f.with_nullable(f.nullable or table[f.name].null_count > 0) for f in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def read_part(path: Path, kind: type, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, with the columns of today's schema.

    Where the part is older than a column, that is at its default, else null.

    Raises:
        DamagedError: which file, and what is wrong with it.
        FileNotFoundError: it is not there (any more).
        UserError: it cannot be read, as on a failing disk, which is no damage to the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _content(path)
    wanted = [f for f in schema(kind) if columns is None or f.name in columns]
    try:
        part = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        there = set(part.schema_arrow.names)
        if "episode_id" not in there:
            raise DamagedError(f"{path} holds no episodes or calls (no column episode_id)")
        table = part.read([f.name for f in wanted if f.name in there], use_threads=False)
        arrays = [
            _cast(table[f.name], f.type) if f.name in there else before(kind, f, len(table))
            for f in wanted
        ]
    except (pa.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise DamagedError(f"{path} is damaged ({why})") from error
    return pa.table(arrays, schema=pa.schema(wanted))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise
        raise DamagedError(f"{path} is a link that leads nowhere") from error
    except IsADirectoryError as error:
        raise DamagedError(f"{path} is a folder") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put that right.") from error


def before(kind: type, field: pa.Field, rows: int) -> pa.Array:
    """What a column is in rows from before it: at the default of its field, where it has one."""
    import pyarrow as pa

    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    known = defaults.get(field.name) if (kind, field.name) not in UNKNOWN else None
    return pa.repeat(pa.scalar(known, field.type), rows)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # a cast that changes nothing would still import pyarrow.compute, a tenth of a second
    return column if column.type == kind else column.cast(kind)
