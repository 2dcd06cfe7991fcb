"""The results folder: episodes and calls as parquet, written one episode at a time.

    results/runs/
      episode-<id>.parquet      one row: `load_results("results/runs")` reads them all
      merged-<n>.parquet        the rows of many episodes that ended well, once there are many
      _calls/calls-<id>.parquet one row per policy call of that episode (or merged-<n>.parquet)
      _runs/<run_id>.yaml       the configuration that made them
      _videos/                  videos, where asked for
      _damaged/                 parts that could not be read; their episodes run again

Names that begin with an underscore are skipped by parquet readers, so the folder itself is the
table of episodes, to others as well (`pandas.read_parquet`): parts from before a column get it when
the next run begins. What `vlaprune-report export` writes is laid out alike, with one file under a
name of its own. Whatever is killed whenever, three rules keep the folder whole:

- a part is written under a hidden name and renamed when it is whole;
- an episode's calls are there before the episode, so an episode that is there is complete;
- merged rows are there before their single parts go, and a row that is there twice counts once
  (only to other readers, and only from a kill within a merge to the next run, is it there twice).

One process writes at a time (`Store.writing`); any number may read.
"""

from vlaprune_bench.store.copies import copy_calls
from vlaprune_bench.store.parts import before, schema, write_rows
from vlaprune_bench.store.read import (
    calls_path,
    load_calls,
    load_results,
    part_files,
    read_calls,
    read_episodes,
)
from vlaprune_bench.store.write import Store, holder

__all__ = [
    "Store",
    "before",
    "calls_path",
    "copy_calls",
    "holder",
    "load_calls",
    "load_results",
    "part_files",
    "read_calls",
    "read_episodes",
    "schema",
    "write_rows",
]
