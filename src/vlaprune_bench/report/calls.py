"""Policy calls of a results folder: only the columns and episodes that are asked for are read.

100,000 episodes are some three million calls, and what each call kept is a list: reading it all
would take minutes and gigabytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaprune_bench.measure.latency import STAGES
from vlaprune_bench.types import CallRow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LATENCIES = [f"latency_{stage}_ms" for stage in ("total", *STAGES)]
"""Columns of the whole call and of its parts."""


def select_calls(
    folder: Path, columns: Sequence[str], episode_ids: Collection[str] | None = None
) -> pd.DataFrame:
    """Some columns of the policy calls of a results folder.

    A file that cannot be read is named in a warning and left out.

    Args:
        folder: a results folder.
        columns: of `CallRow`; `episode_id` comes along, as a category.
        episode_ids: of these episodes alone; None: of all.

    Returns:
        One row per call, each once; empty where the folder holds no calls.
    """
    import pyarrow as pa

    from vlaprune_bench.store import schema

    names = ["episode_id", *(name for name in columns if name != "episode_id")]
    kinds = schema(CallRow)
    wanted = pa.schema([kinds.field(name) for name in names])
    wanted = wanted.set(0, pa.field("episode_id", pa.dictionary(pa.int32(), pa.string())))
    paths = _paths(folder, episode_ids)
    tables = [_part(path, wanted, episode_ids) for path in paths]
    table = pa.concat_tables([wanted.empty_table(), *tables]).unify_dictionaries()
    frame = table.to_pandas()
    if "call" in names and len({_origin(path) for path in paths}) > 1:
        # a merge that was killed leaves rows both alone and merged
        frame = frame.drop_duplicates(["episode_id", "call"], ignore_index=True)
    return frame


def _origin(path: Path) -> str:
    """Files of one origin hold no call twice."""
    first = path.name.partition("-")[0]
    return first if first in ("calls", "merged") else path.name


def _paths(folder: Path, episode_ids: Collection[str] | None) -> list[Path]:
    """The files to look in: where each of a few episodes has one of its own, those alone."""
    if episode_ids is not None:
        own = [folder / "_calls" / f"calls-{name}.parquet" for name in sorted(episode_ids)]
        if all(path.is_file() for path in own):
            return own
    return sorted((folder / "_calls").glob("[!._]*.parquet"))


def _part(path: Path, wanted: pa.Schema, episode_ids: Collection[str] | None) -> pa.Table:
    """The wanted columns of one file; as they were before, where it is older than a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlaprune_bench.store import before

    only = None if episode_ids is None else [("episode_id", "in", set(episode_ids))]
    try:
        there = set(pq.read_schema(path).names)
        names = [name for name in wanted.names if name in there]
        table = pq.read_table(path, columns=names, filters=only, read_dictionary=["episode_id"])
        arrays = [
            table[f.name].cast(f.type) if f.name in there else before(CallRow, f, len(table))
            for f in wanted
        ]
        return pa.table(arrays, schema=wanted)
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        warnings.warn(f"{path} cannot be read ({why}): left out", stacklevel=3)
        return wanted.empty_table()


def measured_calls(folder: Path, episodes: pd.DataFrame) -> pd.DataFrame:
    """What tables and pictures need of every call whose episode is known, with its cell.

    Args:
        folder: a results folder.
        episodes: with columns `cell`, `device` and `batch_size`.

    Returns:
        Columns episode_id, call, step, warmup, visual_tokens_kept, batch_size (of the call; where
        the file is older than that column, the episode's), `LATENCIES`, cell and device.
    """
    import pandas as pd

    names = ["call", "step", "warmup", "visual_tokens_kept", "batch_size", *LATENCIES]
    calls = select_calls(folder, names)
    columns = ["cell", "device", "batch_size"]
    known = episodes.drop_duplicates("episode_id").set_index("episode_id")[columns]
    known = known.assign(device=known.device.astype("category"))
    place = known.index.get_indexer(calls.episode_id.cat.categories)
    place = place[calls.episode_id.cat.codes.to_numpy()]
    if (place < 0).any():
        calls, place = calls[place >= 0], place[place >= 0]
    found = {name: known[name].array[place] for name in columns}
    found["batch_size"] = calls.batch_size.fillna(pd.Series(found["batch_size"], calls.index))
    return calls.assign(**found)
