"""Every method on one short episode of the real simulator, as vlaprune-eval runs it.

In one process, so that networks and simulator are imported once; tests/test_smoke.py runs the
command itself.
"""

import pytest

from vlaprune_bench.cli.eval import parse
from vlaprune_bench.pruning import methods
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.store import load_calls, load_results

EPISODE = "--suite libero_spatial --assets lite --task-ids 0 --trials 1 --workers 0"
OPTIONS = {
    # gates start pruned, a history of one call is enough: so that three calls show the method
    "adp": "--initial-state",
    "gated": "--inner fastv --initial-state",
    "vla-pruner": "--window 1",
    # layers that a model of four has
    "schedule": "--scorer fastv --layer 1 --keep 0.7 --later-layers 2 3 --later-keeps 0.5 0.3",
}


def evaluate(line: str, folder):
    argv = [*f"{EPISODE} {line}".split(), "--output", str(folder)]
    assert run_cells([parse(argv)], ["vlaprune-eval", *argv]).code == 0
    (row,) = load_results(folder).to_dict("records")
    assert row["status"] == "ok"
    return row, load_calls(folder)


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("name", methods())
def test_every_method_runs_an_episode(name, tmp_path):
    line = f"--checkpoint tiny-untrained --method {name} {OPTIONS.get(name, '')} --max-steps 24"
    row, calls = evaluate(line, tmp_path)
    assert (row["method"], row["checkpoint"]) == (name, "tiny-untrained")
    assert (row["steps"], row["calls"], len(calls)) == (24, 3, 3)
    assert (row["pruned_call_fraction"] > 0) == (name != "none")
    assert (calls.visual_tokens_kept < 512).any() == (name not in ("none", "ttf"))
    assert (calls.fused_patches > 0).any() == (name == "ttf")
    assert any("not trained with it" in text for text in row["warnings"]) == (name == "lightvla")


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("method", ["none", "adp"])
def test_the_trained_checkpoint_succeeds(method, tmp_path):
    """Ten of ten on this task where it was trained; another processor may round otherwise."""
    argv = f"--method {method} --task-ids 0 --trials 3 --workers 0 --output {tmp_path}".split()
    assert run_cells([parse(argv)], ["vlaprune-eval", *argv]).code == 0
    rows = load_results(tmp_path)
    assert set(rows.checkpoint) == {"tiny-spatial"}
    assert rows.checkpoint_trained.all()
    assert rows.success.sum() >= 2
    assert (rows.steps[rows.success.astype(bool)] < 150).all()


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("name", ["fastv", "vla-pruner"])
def test_openvla_runs_an_episode(name, tmp_path):
    line = f"--checkpoint tiny-openvla --method {name} --max-steps 6"
    row, calls = evaluate(line, tmp_path)
    assert (row["policy"], row["steps"], row["calls"]) == ("openvla", 6, 6)
    assert calls.pruned.tolist() == [name == "fastv"] * 3 + [True] * 3


@pytest.mark.slow
@pytest.mark.sim
def test_calls_of_no_latency_are_the_world_that_waits(tmp_path):
    """Bit for bit on the real simulator; and a robot that waits moves otherwise."""
    line = "--checkpoint tiny --method adp --max-steps 48 --execute-steps 4"
    wanted, _ = evaluate(line, tmp_path / "stop")
    for clock in ("hold", "async"):
        got, _ = evaluate(f"{line} --clock {clock} --latency 0", tmp_path / clock)
        for column in (
            "actions_hash",
            "steps",
            "success",
            "path_m",
            "rms_jerk",
            "total_flops_mean",
        ):
            assert got[column] == wanted[column], column
        assert got["episode_id"] != wanted["episode_id"]
        assert got["held_steps"] == 0
    late, calls = evaluate(f"{line} --clock hold --latency 80", tmp_path / "late")
    assert late["actions_hash"] != wanted["actions_hash"]
    assert late["held_steps"] == calls.latency_steps[calls.used == "used"].sum() > 0
