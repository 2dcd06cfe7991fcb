"""One episode end to end through the command line, and the ways a run can be refused or stopped."""

import json
import os
import signal
import subprocess
import sys

import imageio_ffmpeg
import pandas as pd
import pytest

from vlaprune_bench.store import load_calls

EVAL = [sys.executable, "-m", "vlaprune_bench.cli.eval"]


def evaluate(*args, **environment):
    return subprocess.run(
        [*EVAL, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.smoke
@pytest.mark.sim
def test_one_episode(tmp_path):
    args = ("--suite", "libero_spatial", "--method", "adp", "--keep", 0.5, "--task-ids", 0)
    args += ("--trials", 1, "--max-steps", 44, "--video", "query", "--output", tmp_path)
    args += ("--initial-state", "--count-flops-every", 2, "--checkpoint", "tiny-untrained")
    done = evaluate(*args)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "untrained" in done.stdout

    row = pd.read_parquet(tmp_path).iloc[0]
    assert (row.status, row.steps, row.calls) == ("ok", 44, 6)
    assert (row.method, row.keep, row.checkpoint) == ("adp", 0.5, "tiny-untrained")
    assert (row.assets, row.max_steps, row.batch_size) == ("lite", 44, 1)
    assert json.loads(row.versions)["mujoco"] == "3.3.2"
    # a row leaves nothing unsaid but the error, server, latency and success it did not have
    unsaid = {name for name, missing in row.isna().items() if missing} - {"git_revision"}
    absent = {"error", "round_trip_p50_ms", "server_p50_ms"}
    assert unsaid == absent | {"drawn_latency_mean_ms", "time_to_success_s"}

    calls = load_calls(tmp_path).sort_values("call")
    assert calls.step.tolist() == [0, 8, 16, 24, 32, 40]
    assert bool(calls.pruned.iloc[0])  # --initial-state
    assert calls.visual_tokens_kept.iloc[0] == 256
    sampled = calls.dropna(subset=["counted_flops"])
    assert sampled.call.tolist() == [0, 2, 4]
    assert ((sampled.counted_flops / sampled.total_flops - 1).abs() < 0.01).all()
    stages = [c for c in calls if c.startswith("latency_") and c != "latency_total_ms"]
    assert (calls[stages].sum(axis=1) <= calls.latency_total_ms * 1.001).all()

    (video,) = (tmp_path / "_videos").glob("*.mp4")
    frames = imageio_ffmpeg.read_frames(str(video))
    assert next(frames)["size"] == (512, 280)
    assert sum(1 for _ in frames) == 6 + 2  # the outcome stands for a second

    again = evaluate(*args)
    assert again.returncode == 0
    assert "1 of 1 episodes are in" in again.stdout


@pytest.mark.smoke
@pytest.mark.sim
@pytest.mark.parametrize("kind", ["pi0", "pi05", "smolvla"])
def test_one_episode_of_a_flow_policy(kind, tmp_path):
    args = ("--checkpoint", f"tiny-{kind}-untrained", "--method", "static", "--keep", 0.5)
    args += ("--task-ids", 0, "--trials", 1, "--max-steps", 12, "--output", tmp_path)
    done = evaluate(*args, "--count-flops-every", 2, "--policy-options", "empty_cameras=keep")
    assert done.returncode == 0, done.stderr
    row = pd.read_parquet(tmp_path).iloc[0]
    assert (row.status, row.steps, row.calls, row.policy) == ("ok", 12, 2, kind)
    # its own protocol, scene and number of executed steps
    assert (row.protocol, row.env_seed, row.execute_steps) == ("lerobot", 1000, 10)
    assert json.loads(row.policy_options)["empty_cameras"] == "keep"
    assert row.empty_tokens_dropped_mean == 0
    calls = load_calls(tmp_path).sort_values("call")
    assert calls.step.tolist() == [0, 10]
    assert (calls.visual_tokens_kept == calls.visual_tokens // 2).all()
    assert (calls.latency_denoise_ms > 0).all()
    (first, _) = calls.counted_flops / calls.total_flops
    assert abs(first - 1) < 0.01


@pytest.mark.slow
@pytest.mark.sim
def test_ctrl_c_ends_cleanly_with_what_was_finished(tmp_path):
    args = ["--task-ids", "0", "--trials", "50", "--max-steps", "8", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [*EVAL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("task 0 trial 1"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in out
    assert 2 <= len(pd.read_parquet(tmp_path)) < 50


@pytest.mark.parametrize(
    ("args", "environment", "sentence"),
    [
        ((), {"MUJOCO_GL": "vulkan"}, "MUJOCO_GL"),
        (("--checkpoint", "/nowhere/at-all"), {"HF_HUB_OFFLINE": "1"}, "/nowhere/at-all"),
        (("--method", "static", "--qk-layer", "99"), {}, "--qk-layer is 99"),
        (("--device", "cuda:77"), {}, "cuda:77"),
        (("--assets", "/nowhere"), {}, "/nowhere"),
    ],
)
@pytest.mark.slow
def test_what_cannot_run_is_refused_in_one_sentence(args, environment, sentence, tmp_path):
    done = evaluate("--output", tmp_path, *args, **environment)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "Traceback" not in done.stderr
