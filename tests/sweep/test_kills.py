"""Sweeps that are killed: nothing reported is lost, nothing is there twice, all is readable."""

import os
import subprocess
import sys
import warnings

import pandas as pd
import pytest

from tests.sweep.kill_server import TEXT
from tests.sweep.toys import toy_sweep
from vlaprune_bench.store import load_calls, load_results
from vlaprune_bench.sweep.plan import make_plan
from vlaprune_bench.types import UserError

KILLS = 54
KILLED = "-9"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_fifty_kills_at_random_moments(tmp_path, workers):
    """Runs and retries, and their workers, are killed while another process (this one) reads the
    folder all along."""
    module = "tests.sweep.kill_server"
    server = subprocess.Popen(
        [sys.executable, "-m", module, str(tmp_path), str(KILLS), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    ends, most, merged = [], 0, 0
    with server, warnings.catch_warnings():
        warnings.simplefilter("error")  # a damaged part would be warned of
        for line in server.stdout:
            ends.append(line.strip())
            if not (tmp_path / "reported").exists():
                continue  # killed before it began
            reported = set((tmp_path / "reported").read_text().split())
            try:
                seen = load_results(tmp_path / "out").episode_id
            except UserError:
                assert not reported  # nothing there yet
                continue
            assert seen.is_unique
            most = max(most, len(seen))
            merged = max(merged, len(list((tmp_path / "out").glob("merged-*"))))
    assert server.wait() == 0
    assert ends.count(KILLED) + ends.count("worker") >= 50
    assert "orphan" not in ends
    assert ends[-1] in ("0", "1")
    assert merged > 3

    sweep = toy_sweep(tmp_path, TEXT)
    rows, calls = load_results(tmp_path / "out"), load_calls(tmp_path / "out")
    assert len(rows) == rows.episode_id.nunique() == 3 * 5 * 20
    assert most <= len(rows)
    assert set((tmp_path / "reported").read_text().split()) <= set(rows.episode_id)
    assert make_plan(sweep).missing == 0
    counts = calls.groupby("episode_id").call.apply(list)
    for row in rows[rows.calls > 0].itertuples():
        assert counts[row.episode_id] == list(range(row.calls))
    assert calls.episode_id.isin(rows.episode_id).all()
    ok = rows[rows.status == "ok"]
    assert ok.groupby("keep", dropna=False).visual_tokens_kept_mean.unique().tolist() == [
        [128],
        [256],
        [512],
    ]
    # a worker that was killed is named in its episode's row; a retry makes that good
    errors = rows[rows.status != "ok"].error
    assert errors.str.contains("bad luck|killed by signal 9").all()
    assert not (tmp_path / "out" / "_damaged").exists()
    # other readers see the same
    assert sorted(pd.read_parquet(tmp_path / "out").episode_id) == sorted(rows.episode_id)
