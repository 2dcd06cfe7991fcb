"""The results folder: readable by pandas, never torn."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.rows import call_row, episode_row
from vlaprune_bench.store import Store, load_calls, load_results, schema
from vlaprune_bench.types import CallRow, EpisodeRow, UserError


def test_pandas_reads_the_folder(tmp_path):
    store = Store(tmp_path)
    store.save_config("abc", "suite: libero_spatial\n")
    for name in ("e1", "e2"):
        calls = [call_row(episode_id=name, call=0), call_row(episode_id=name, call=1)]
        store.append(episode_row(episode_id=name), calls)
    plain = pd.read_parquet(tmp_path)
    assert sorted(plain.episode_id) == ["e1", "e2"]
    assert list(plain.columns) == list(load_results(tmp_path).columns)
    assert len(load_calls(tmp_path)) == 4
    assert load_calls(tmp_path).tokens_per_layer[0].tolist() == [300, 300]
    assert store.done() == {"e1", "e2"}


def test_no_calls_and_nulls_keep_their_types(tmp_path):
    store = Store(tmp_path)
    store.append(episode_row(episode_id="bad", success=None, status="error", error="boom"), [])
    row = load_results(tmp_path).iloc[0]
    assert row.success is None
    assert row.error == "boom"
    assert load_calls(tmp_path).empty


@pytest.mark.parametrize("kind", [EpisodeRow, CallRow])
def test_every_column_says_what_it_is(kind):
    for column in schema(kind):
        assert column.metadata[b"doc"]
        if column.name.endswith("_ms"):
            assert column.metadata[b"unit"] == b"ms"


def test_units_survive_in_the_file(tmp_path):
    Store(tmp_path).append(episode_row(episode_id="e"), [])
    column = pq.read_schema(tmp_path / "episode-e.parquet").field("total_flops_mean")
    assert column.metadata[b"unit"] == b"FLOP"


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"--output is .*file/runs; it must be a folder"):
        Store(file / "runs")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        load_results(tmp_path)


WRITER = """
import sys
from pathlib import Path
from tests.rows import call_row, episode_row
from vlaprune_bench.store import Store
store = Store(Path(sys.argv[1]))
for i in range(10_000):
    name = f"{sys.argv[2]}-{i}"
    store.append(episode_row(episode_id=name), [call_row(episode_id=name, call=0)] * 30)
    print(name, flush=True)
"""


def test_kills_never_tear_a_file(tmp_path):
    random.seed(0)
    reported = []
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(attempt)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        reported.append(process.stdout.readline().strip())
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        reported += process.communicate()[0].split()
    episodes, calls = pd.read_parquet(tmp_path), load_calls(tmp_path)
    assert set(reported) <= set(episodes.episode_id)
    assert episodes.episode_id.is_unique
    counts = calls.groupby("episode_id").size()
    assert all(counts[name] == 30 for name in episodes.episode_id)
    assert json.loads(episodes.versions[0]) == {}
