"""A handful of kept episodes run again: same actions, steps, success and FLOPs.

After a change that is meant to change them: python -m tests.rollout.test_published_rows
"""

import json
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from vlaprune_bench.cli.sweep import run
from vlaprune_bench.measure.provenance import blas
from vlaprune_bench.store import load_results

KEPT = Path(__file__).parents[1] / "data" / "published_rows.json"
KEY = ["suite", "method", "task", "trial"]
EPISODES = {
    # suite, task: its cells (methods by turns, one row of `none`); trial 0
    ("libero_spatial", 0): {"none": None, "fastv": 0.25, "vla-pruner": 0.25},
    ("libero_object", 2): {"adp": 0.5, "random": 0.125},
}
SCENE = ["init_state_hash", "scene_hash", "frames_hash"]
COUNTED = ["total_flops_mean", "llm_prefill_macs_mean", "visual_tokens_kept_mean"]
PLAYED = ["actions_hash", "steps", "success", *COUNTED]
EVERY_CALL_THE_SAME = ["none", "fastv", "random"]


def play(folder: Path) -> pd.DataFrame:
    """Run the episodes."""
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
    return load_results(folder / "rows").sort_values(KEY).reset_index(drop=True)


def kernels() -> str:
    """What this processor's arithmetic rounds to follows from, for policy and simulator."""
    return f"torch {torch.backends.cpu.get_cpu_capability()}, {blas()}"


@pytest.mark.slow
@pytest.mark.sim
def test_kept_episodes_play_again(tmp_path):
    played, kept = play(tmp_path), json.loads(KEPT.read_text())
    assert (played.status == "ok").all()
    assert played[KEY].to_dict("records") == kept["episodes"]
    scenes = pd.DataFrame(kept["scenes"])
    assert played.init_state_hash.tolist() == scenes.init_state_hash.tolist()
    for column in SCENE:
        if played[column].tolist() != scenes[column].tolist():
            pytest.skip(f"{column} is not that of the kept rows: another renderer or MuJoCo build")
    # whatever the processor rounds: how many tokens these compute follows from the method alone
    same = played.method.isin(EVERY_CALL_THE_SAME)
    for rows in kept["played"].values():
        assert played[COUNTED][same].to_dict("list") == pd.DataFrame(rows)[COUNTED][same].to_dict(
            "list"
        )
    if kernels() not in kept["played"]:
        known = list(kept["played"])
        pytest.skip(f"{kernels()} is not known: the same frames, other roundings than {known}")
    assert played[PLAYED].to_dict("records") == kept["played"][kernels()]


def main() -> None:
    """Keep what the episodes do here; what other kernels did is no longer known."""
    with tempfile.TemporaryDirectory() as folder:
        played = play(Path(folder))
    kept = {
        "episodes": played[KEY].to_dict("records"),
        "scenes": played[SCENE].to_dict("records"),
        "played": {kernels(): played[PLAYED].to_dict("records")},
    }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    print(played[[*KEY, "steps", "success"]].to_string())


if __name__ == "__main__":
    main()
