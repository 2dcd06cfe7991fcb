"""A handful of published episodes run again: same actions, steps, success and FLOPs."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from vlaprune_bench.cli.sweep import run
from vlaprune_bench.measure.provenance import blas
from vlaprune_bench.store import load_results

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "tiny-table-2026-11" / "tiny-table.parquet"
KERNELS = Path(__file__).parents[1] / "data" / "published_rows.json"
KEY = ["suite", "method", "task", "trial"]
EPISODES = {
    # suite, task: its cells (methods by turns, one row of `none`); trial 0
    ("libero_spatial", 0): {"none": None, "fastv": 0.25, "vla-pruner": 0.25},
    ("libero_object", 2): {"adp": 0.5, "random": 0.125},
}
SCENE = ["scene_hash", "frames_hash"]
PLAYED = ["actions_hash", "steps", "success", "total_flops_mean", "llm_prefill_macs_mean"]
EVERY_CALL_THE_SAME = ["none", "fastv", "random"]


@pytest.fixture(scope="module")
def published():
    table = pd.read_parquet(TABLE)
    wanted = pd.concat(
        table[
            (table.suite == suite)
            & (table.task == task)
            & (table.trial == 0)
            & (table.method == method)
            & (table.keep.isna() if keep is None else table.keep == keep)
        ]
        for (suite, task), cells in EPISODES.items()
        for method, keep in cells.items()
    )
    return wanted.set_index(KEY)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    cells = [
        {
            "suite": suite,
            "task_ids": [task],
            "pruner": {"type": method} | ({} if keep is None else {"keep": keep}),
        }
        for (suite, task), methods in EPISODES.items()
        for method, keep in methods.items()
    ]
    base = {"checkpoint": "tiny", "trials": 1, "workers": 0}
    sweep = folder / "sweep.yaml"
    sweep.write_text(json.dumps({"base": base, "baseline": False, "cells": cells}))  # YAML, too
    with pytest.raises(SystemExit) as ended:
        run(["run", str(sweep), "--output", str(folder / "rows")])
    assert ended.value.code == 0
    return load_results(folder / "rows").set_index(KEY)


@pytest.mark.slow
@pytest.mark.sim
def test_published_episodes_play_again(published, played):
    played = played.loc[published.index]
    assert (played.status == "ok").all()
    assert played.init_state_hash.tolist() == published.init_state_hash.tolist()
    for column in SCENE:
        if played[column].tolist() != published[column].tolist():
            pytest.skip(f"{column} is not the published rows': another renderer or MuJoCo build")
    # whatever the processor rounds: how many tokens these compute follows from the method alone
    same = played.index.get_level_values("method").isin(EVERY_CALL_THE_SAME)
    for column in ("total_flops_mean", "llm_prefill_macs_mean", "visual_tokens_kept_mean"):
        assert played[column][same].tolist() == published[column][same].tolist()

    # the published rows' own processor is not here; and what its arithmetic rounds to follows from
    # the kernels that torch and NumPy choose, for policy and simulator
    here = f"torch {torch.backends.cpu.get_cpu_capability()}, {blas()}"
    known = json.loads(KERNELS.read_text())
    if here not in known:
        pytest.skip(f"{here} is not known: the same frames, other roundings than {list(known)}")
    expected = pd.DataFrame(known[here], index=published.index)
    assert played[PLAYED].to_dict("records") == expected.to_dict("records")
