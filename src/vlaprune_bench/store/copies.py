"""The calls of a results folder in one file, for others."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from vlaprune_bench.store.parts import DamagedError, read_part, schema
from vlaprune_bench.store.read import calls_path, contents
from vlaprune_bench.types import CallRow


def copy_calls(place: Path, file: Path) -> list[str]:
    """Write the calls of every episode of a results folder to one parquet file, part by part.

    Args:
        place: as of `load_results`.
        file: the file to write; where there are no calls, none is.

    Returns:
        A sentence for every part whose calls cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = pa.schema([f.with_nullable(True) for f in schema(CallRow)])  # old rows lack some
    options = {"compression": "zstd", "write_page_checksum": True}
    sentences: list[str] = []
    hidden = file.with_name(f".{file.name}.{os.getpid()}")
    with ExitStack() as opened:
        writer = None
        for part in contents(place, ["episode_id"]).parts:
            try:
                calls = read_part(calls_path(part), CallRow)
            except DamagedError as error:
                sentences.append(f"{error}: left out")
                continue
            except FileNotFoundError:
                sentences.append(f"{calls_path(part)} is missing: left out")
                continue
            if writer is None:
                file.parent.mkdir(parents=True, exist_ok=True)
                opened.callback(hidden.unlink, missing_ok=True)
                writer = opened.enter_context(pq.ParquetWriter(hidden, kinds, **options))
            writer.write_table(pa.Table.from_arrays(calls.columns, schema=kinds))
        if writer is None:
            file.unlink(missing_ok=True)  # of an export before
        else:
            writer.close()
            hidden.replace(file)
    return sentences
