"""One small sweep on the real simulator gives the same rows however it is run.

Another way to run it is a function and a line in `WAYS`.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.sweep.test_ray import run_while_nodes_die
from vlaprune_bench.rollout.launcher import Local
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.store import load_calls, load_results
from vlaprune_bench.sweep.file import load_sweep

# one process, so that the rows to compare with are made once
pytestmark = [pytest.mark.slow, pytest.mark.sim, pytest.mark.xdist_group("same rows")]

FILE = """
base: {checkpoint: tiny, assets: lite, task_ids: [0], trials: 2, max_steps: 16}
cells:
  - {pruner: {type: static, keep: 0.25}}
  - {pruner: {type: adp, keep: 0.5, gate: {initial_state: true}}}
"""
EPISODES = 6
ROWS = ["episode_id", "suite", "task", "trial", "method", "method_options", "status", "success"]
ROWS += ["steps", "calls", "init_state_hash", "scene_hash", "actions_hash", "pruned_call_fraction"]
ROWS += ["visual_tokens_kept_mean", "llm_prefill_macs_mean", "total_flops_mean", "batch_size"]
CALLS = ["episode_id", "call", "step", "eef_displacement", "pruned", "visual_tokens_kept"]
CALLS += ["llm_prefill_macs", "total_flops", "scoring_flops"]


def run(path, launcher=None, **options):
    sweep = load_sweep(path, overrides={"output": str(path.parent / "out"), **options})
    return run_cells(sweep.cells, [], launcher=launcher).code


def with_one_worker(path):
    assert run(path, workers=1) == 0


class Shuffled(Local):
    def run(self, jobs, guard, stopping, say):
        return super().run(random.Random(1).sample(jobs, len(jobs)), guard, stopping, say)


def with_four_workers_in_shuffled_order(path):
    assert run(path, Shuffled(), workers=4) == 0


def killed_and_resumed(path):
    command = [sys.executable, "-m", "vlaprune_bench.cli.sweep", "run", str(path)]
    folder = path.parent / "out"
    sweep = subprocess.Popen(
        [*command, "--output", str(folder)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while sweep.poll() is None and len(list(folder.glob("episode-*"))) < 2:
        time.sleep(0.02)
    sweep.send_signal(signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    assert 2 <= len(load_results(folder)) < EPISODES
    assert run(path) == 0


def on_a_cluster_that_loses_nodes(path):
    said = run_while_nodes_die(path)
    assert sum(bool(re.search("was lost: its [1-9]", text)) for text in said) == 2, said


WAYS = [
    with_one_worker,
    with_four_workers_in_shuffled_order,
    killed_and_resumed,
    # with the other clusters, one after the other
    pytest.param(on_a_cluster_that_loses_nodes, marks=pytest.mark.xdist_group("ray")),
]


@pytest.fixture(scope="module")
def in_this_process(tmp_path_factory):
    """The rows to compare with."""
    pytest.importorskip("vlaprune_bench.sim.libero")
    path = tmp_path_factory.mktemp("reference") / "small.yaml"
    path.write_text(FILE)
    assert run(path, workers=0) == 0
    return rows_of(path.parent / "out")


def rows_of(folder):
    episodes = load_results(folder).sort_values("episode_id")[ROWS].reset_index(drop=True)
    calls = load_calls(folder).sort_values(["episode_id", "call"])[CALLS].reset_index(drop=True)
    assert len(episodes) == EPISODES
    return episodes, calls


@pytest.mark.parametrize("way", WAYS)
def test_the_same_rows(way, in_this_process, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    way(path)
    for one, two in zip(in_this_process, rows_of(tmp_path / "out"), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_the_sweep_tells_its_cells_apart(in_this_process):
    """Otherwise equal rows would mean little."""
    episodes, _ = in_this_process
    assert set(episodes.status) == {"ok"}
    assert episodes.groupby("method").total_flops_mean.mean().nunique() == 3
    assert episodes.scene_hash.nunique() == 2
    assert episodes.actions_hash.nunique() >= 4
