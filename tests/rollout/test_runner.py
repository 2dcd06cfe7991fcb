"""A run on a toy simulator: rows, resume, errors, Ctrl-C. Real parquet, no MuJoCo."""

import errno
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.fakes import ASSETS, LOADED, FakeLauncher, FakePolicy, fake_libero
from vlaprune_bench.config import EvalConfig, digest
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout.identity import specs
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.store import Store, load_calls, load_results
from vlaprune_bench.types import DEFAULTS, IDENTITY, EpisodeRow, UserError


def breaks(task):
    """In trial 1 of task 1, after nine steps."""
    if (task.task, task.trial) == (1, 1) and len(task.log) == 9:
        raise RuntimeError("qpos is not finite")


@pytest.fixture
def libero(monkeypatch):
    """The simulator; solved after twenty steps, breaks once."""
    return fake_libero(monkeypatch, solved_at=20, before_step=breaks)


@pytest.fixture
def launcher(libero):
    """Loads a policy whose calls have two lengths in turn, and whose hand stays where it is."""
    return FakeLauncher(lambda: FakePolicy(moves=False))


@pytest.fixture
def run(launcher, tmp_path):
    """Run a configuration; the exit code."""

    def run(launcher=launcher, **changes):
        config = EvalConfig.of(
            pruner=Static(keep=0.5),
            task_ids=(0, 1),
            trials=3,
            max_steps=64,
            workers=0,  # what is patched here does not reach other processes
            output=tmp_path / "runs",
        )
        return run_cells([config.but(**changes)], [], launcher=launcher).code

    return run


def test_a_row_for_every_episode_and_call(run, tmp_path):
    assert run() == 1  # one episode broke
    episodes = load_results(tmp_path / "runs").sort_values(["task", "trial"])
    assert list(zip(episodes.task, episodes.trial, strict=True)) == [
        (task, trial) for task in (0, 1) for trial in range(3)
    ]
    ok = episodes[episodes.status == "ok"]
    assert (len(ok), ok.success.all(), set(ok.steps), set(ok.calls)) == (5, True, {20}, {3})
    assert json.loads(ok.method_options.iloc[0])["keep"] == 0.5
    assert "untrained" in ok.warnings.iloc[0][0]
    calls = load_calls(tmp_path / "runs")
    assert len(calls) == 5 * 3 + 2
    first = calls[calls.episode_id == ok.episode_id.iloc[0]].sort_values("call")
    assert first.step.tolist() == [0, 8, 16]


def test_an_exception_is_a_status_and_the_simulator_is_made_anew(run, libero, tmp_path):
    run()
    bad = load_results(tmp_path / "runs").query("status == 'error'")
    assert len(bad) == 1
    row = bad.iloc[0]
    assert (row.task, row.trial, row.steps, row.calls) == (1, 1, 9, 2)
    assert "RuntimeError: qpos is not finite" in row.error
    assert row.success is None
    assert libero.opened == [0, 1, 1]


def test_warm_up_is_the_first_call_of_each_shape_and_left_out_of_latency(run, tmp_path):
    run(task_ids=(0,), trials=2)
    episodes = load_results(tmp_path / "runs").set_index("trial")
    calls = load_calls(tmp_path / "runs").merge(
        episodes.reset_index()[["trial", "episode_id"]], on="episode_id"
    )
    warm = calls.sort_values(["trial", "call"]).warmup.tolist()
    assert warm == [True, True, False, False, False, False]
    assert episodes.latency_p50_ms[0] == 3.0
    assert episodes.latency_p50_ms[1] == 2.0


def test_the_first_call_of_each_method_is_a_warm_up_though_shapes_agree(launcher, tmp_path):
    """Another method runs other kernels: its scores, its selection."""
    config = EvalConfig.of(task_ids=(0,), trials=2, max_steps=8, workers=0, output=tmp_path / "o")
    cells = [config.but(pruner=pruner) for pruner in (Static(keep=0.5), FastV(keep=0.5))]
    assert run_cells(cells, [], launcher=launcher).code == 0
    rows = load_results(tmp_path / "o")[["episode_id", "method", "trial"]]
    calls = load_calls(tmp_path / "o").merge(rows, on="episode_id")
    assert calls[calls.warmup].groupby("method").trial.apply(list).to_dict() == {
        "fastv": [0],
        "static": [0],
    }


def test_the_same_command_again_runs_nothing_and_says_so_once(run, launcher, tmp_path, capsys):
    run()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.parquet")}
    capsys.readouterr()
    assert run() == 1  # the one that broke is a row
    assert [len(policy.begun) for policy in launcher.policies] in ([6], [6, 0])
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.parquet")}
    assert capsys.readouterr().out.count("6 of 6 episodes are in") == 1
    # other options are other episodes
    run(pruner=Static(keep=0.25), task_ids=(0,), trials=1)
    assert len(load_results(tmp_path / "runs")) == 7
    capsys.readouterr()
    run(task_ids=(0,), trials=4)
    assert capsys.readouterr().out.count("episodes are in") == 1


def test_ctrl_c_keeps_what_was_finished(run, libero, tmp_path, capsys):
    def interrupted(task):
        if task.trial == 2:
            raise KeyboardInterrupt

    libero.before_step = interrupted
    assert run() == INTERRUPTED
    assert len(pd.read_parquet(tmp_path / "runs")) == 2
    assert "interrupted" in capsys.readouterr().out


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_the_episode_and_twice_does_not(run, libero, tmp_path, capsys, times):
    before = signal.getsignal(signal.SIGINT)

    def interrupted(task):
        if task.trial == 1 and len(task.log) < times:
            signal.raise_signal(signal.SIGINT)

    libero.before_step = interrupted
    assert run() == INTERRUPTED
    assert load_results(tmp_path / "runs").trial.tolist() == ([0, 1] if times == 1 else [0])
    told = capsys.readouterr().out
    assert "stopping after the running episodes; Ctrl-C again stops now" in told
    assert "the same command goes on" in told
    assert signal.getsignal(signal.SIGINT) is before
    libero.before_step = breaks
    run()
    assert len(load_results(tmp_path / "runs")) == 6


def test_actions_that_are_no_numbers_are_an_error_that_names_the_call(run, tmp_path, monkeypatch):
    """The real policy on the embedded checkpoint; its third call gives NaN."""
    load_policy = pytest.importorskip("vlaprune_bench.policies").load_policy
    policy = load_policy("tiny-untrained", NoPruning(), suite="libero_spatial")
    predict, calls = policy._predict, []

    def broken(*args):
        calls.append((yield from predict(*args)))
        if len(calls) == 3:
            calls[-1].actions[0, 0] = np.nan
        return calls[-1]

    monkeypatch.setattr(policy, "_predict", broken)
    launcher = FakeLauncher(lambda: policy)
    assert run(launcher, task_ids=(0,), trials=1, pruner=NoPruning()) == 1
    row = load_results(tmp_path / "runs").iloc[0]
    assert (row.status, row.success, row.calls, row.steps) == ("error", None, 2, 16)
    assert "policy call 2 gave actions that are not finite" in row.error


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(run, tmp_path, monkeypatch):
    left = [6]  # two files of the configuration, two of an episode and their folders
    fsync = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            run()
    assert len(load_results(tmp_path / "runs")) == 1
    run()
    assert len(load_results(tmp_path / "runs")) == 6


def test_a_second_run_on_the_folder_is_refused(run, tmp_path):
    with (
        Store(tmp_path / "runs").writing(),
        pytest.raises(UserError, match=f"process {os.getpid()} on"),
    ):
        run()


def test_a_damaged_episode_is_named_and_runs_again(run, launcher, tmp_path, capsys):
    run(task_ids=(0,))
    part = min((tmp_path / "runs").glob("episode-*.parquet"))
    part.write_bytes(part.read_bytes()[:1000])
    assert run(task_ids=(0,)) == 0
    assert len(launcher.policies[-1].begun) == 1
    assert f"warning: {part} is damaged" in capsys.readouterr().out
    assert len(load_results(tmp_path / "runs")) == 3


def test_an_episodes_seed_depends_on_the_episode_alone(run, launcher, tmp_path):
    run()
    run(output=tmp_path / "other", task_ids=(1, 0))
    one, two = (policy.begun for policy in launcher.policies)
    assert len(set(one)) == 6
    assert one == two[3:] + two[:3]


def test_other_assets_than_the_checkpoints_are_told_in_every_row(run, tmp_path):
    loaded = replace(LOADED, assets=replace(ASSETS, kind="real"))
    run(FakeLauncher(loaded=loaded), task_ids=(0,), trials=1)
    told = load_results(tmp_path / "runs").warnings.iloc[0]
    assert any("made for lite assets and ran on real" in warning for warning in told)


def test_assets_that_are_not_as_published_are_told_in_every_row(run, tmp_path):
    assets = replace(ASSETS, kind="real", changed=("textures/wood.png", "scenes/floor.xml"))
    run(FakeLauncher(loaded=replace(LOADED, assets=assets)), task_ids=(0,), trials=2)
    for told in load_results(tmp_path / "runs").warnings:
        assert any("2 files differ from the published ones (textures/wood.png" in w for w in told)


def test_chunks_may_be_executed_shorter_than_they_are(run, tmp_path):
    """--execute-steps makes other episodes, in rows of their own."""
    run(task_ids=(0,), trials=1)
    run(task_ids=(0,), trials=1, execute_steps=5)
    episodes = load_results(tmp_path / "runs").set_index("execute_steps")
    assert episodes.calls.to_dict() == {8: 3, 5: 4}
    assert episodes.episode_id.nunique() == 2
    calls = load_calls(tmp_path / "runs")
    shorter = calls[calls.episode_id == episodes.episode_id[5]].sort_values("call")
    assert shorter.step.tolist() == [0, 5, 10, 15]


def test_scenes_make_other_episodes_but_the_simulator_path_does_not(run, tmp_path):
    assert run(task_ids=(0,), trials=1) == 0
    run(task_ids=(0,), trials=1, sim="reference")
    assert len(load_results(tmp_path / "runs")) == 1
    run(task_ids=(0,), trials=1, scenes="fresh")
    assert set(load_results(tmp_path / "runs").scenes) == {"reference", "fresh"}


@pytest.mark.parametrize("changes", [{"trials": 2}, {"seed": 8}], ids=["resumed", "compared"])
def test_another_scene_under_the_same_name_is_refused(run, libero, changes):
    run(task_ids=(0,), trials=1)
    libero.scene = "07e4"
    with pytest.raises(UserError, match=r"holds task_0 trial 0 with scene 5ce9e, here .* 07e4"):
        run(**{"task_ids": (0,), "trials": 1, **changes})


@pytest.mark.parametrize("changes", [{"scenes": "fresh"}, {"protocol": "openpi"}], ids=str)
def test_a_scene_is_compared_with_those_of_the_same_kind_alone(run, libero, tmp_path, changes):
    run(task_ids=(0,), trials=1)
    libero.scene = "07e4"
    assert run(task_ids=(0,), trials=1, **changes) == 0
    assert set(load_results(tmp_path / "runs").scene_hash) == {"5ce9e", "07e4"}


def test_the_same_scene_drawn_otherwise_is_told_in_its_row(run, libero, tmp_path):
    run(task_ids=(0,), trials=1)
    libero.frames = "07e4f"
    run(task_ids=(0,), trials=2)
    rows = load_results(tmp_path / "runs").sort_values("trial")
    assert rows.frames_hash.tolist() == ["f4a3e5", "07e4f"]
    assert not any("first frames" in text for text in rows.warnings.iloc[1])  # seen first here
    run(task_ids=(0,), trials=1, seed=8)
    row = load_results(tmp_path / "runs").query("seed == 8").iloc[0]
    assert any("the first frames are not those" in text for text in row.warnings)


def test_a_failed_self_check_is_told_in_every_row(run, libero, tmp_path):
    libero.self_check, libero.sim = "frames differ in 3 pixels", "reference"
    run(task_ids=(0,), trials=1)
    row = load_results(tmp_path / "runs").iloc[0]
    assert (row.sim, row.self_check) == ("reference", "frames differ in 3 pixels")
    assert any("not exact here (frames differ in 3 pixels)" in text for text in row.warnings)


def test_more_steps_than_a_call_gives_are_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(UserError, match=r"--execute-steps is 20; a call of tiny gives 8 actions"):
        run(execute_steps=20)
    assert list((tmp_path / "runs").rglob("*.yaml")) == []


def test_rows_of_a_policy_of_one_action_say_one(run, tmp_path):
    """Not the protocol's eight; and two labels of one behaviour are one episode."""
    loaded = replace(LOADED, info=replace(LOADED.info, policy="openvla", chunk=1))
    for options in ({}, {"execute_steps": 1}):
        run(FakeLauncher(loaded=loaded), task_ids=(0,), trials=1, **options)
    (row,) = load_results(tmp_path / "runs").itertuples()
    assert row.execute_steps == 1
    # its id is the one it had when rows said eight
    config = EvalConfig.of(pruner=Static(keep=0.5), task_ids=(0,), trials=1, max_steps=64)
    data = {**Setup(config, loaded).shared(specs(config)[0]), "execute_steps": 8}
    known = {name: data[name] for name in IDENTITY if name not in DEFAULTS[EpisodeRow]}
    known["method_options"] = json.loads(known["method_options"])
    assert digest(known) == row.episode_id


def test_calls_take_simulated_time(run, tmp_path):
    """A success after twenty steps, of which calls of 100 ms held some."""
    run(task_ids=(0,), trials=1)
    run(task_ids=(0,), trials=1, clock="hold", latency="100")
    run(task_ids=(0,), trials=1, clock="async", latency="100", execute_steps=4)
    rows = load_results(tmp_path / "runs").set_index("clock")
    assert rows.episode_id.nunique() == 3
    assert rows.latency.to_dict() == {"stop": "", "hold": "100", "async": "100"}
    assert rows.latency_source["hold"] == "100 ms"
    assert rows.held_steps.to_dict() == {"stop": 0, "hold": 4, "async": 2}
    assert rows.stale_actions.to_dict() == {"stop": 0, "hold": 0, "async": 2 * 3}
    assert set(rows.time_to_success_s) == {1.0}
    assert rows.control_hz.to_dict() == {"stop": 20, "hold": 16, "async": 18}
    assert rows.drawn_latency_mean_ms.dropna().to_dict() == {"hold": 100, "async": 100}
    calls = load_calls(tmp_path / "runs").set_index("episode_id")
    held = calls.loc[[rows.episode_id["hold"]]].sort_values("call")
    assert held.step.tolist() == [0, 10]
    assert held.latency_steps.tolist() == [2, 2]
    assert set(held.used) == {"used"}
    # a success on the way to the last call's chunk: it cost what it cost
    run(task_ids=(0,), trials=1, clock="hold", latency="400")
    rows = load_results(tmp_path / "runs").query("latency == '400'").iloc[0]
    assert (rows.calls, rows.unused_calls, rows.held_steps) == (2, 1, 12)
    assert rows.total_flops_mean > 0


def test_one_latency_for_all_methods_or_for_each_its_own(run, tmp_path):
    table = tmp_path / "robot.csv"
    table.write_text("method,keep,quantile,latency_ms\nnone,,0,80\nnone,,1,90\nstatic,.5,0.5,40\n")
    for pruner in (NoPruning(), Static(keep=0.5)):
        run(pruner=pruner, task_ids=(0,), trials=2, clock="hold", latency=str(table))
    rows = load_results(tmp_path / "runs")
    drawn = rows.groupby("method").drawn_latency_mean_ms.agg(list).to_dict()
    assert drawn["static"] == [40, 40]
    assert all(80 < ms < 90 for ms in drawn["none"])
    assert len(set(drawn["none"])) == 2  # each trial has its own quantile
    assert rows.latency.nunique() == 1
    with pytest.raises(UserError, match=r"no pruned calls of static keep 0.25; it has: none, stat"):
        run(pruner=Static(keep=0.25), clock="hold", latency=str(table))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latency": "20"}, "--clock is async; all 8 actions of a chunk are executed before the"),
        (
            {"latency": "350.1", "execute_steps": 4},
            "--latency is 350.1; a call takes up to 8 control steps of 50 ms, and its chunk of 8",
        ),
    ],
)
def test_async_needs_something_to_go_on_with(run, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        run(clock="async", **options)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_renamed_latency_file_is_the_same_episode(run, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("quantile,latency_ms\n0.5,60\n")
        run(task_ids=(0,), trials=1, clock="hold", latency=str(tmp_path / name))
    assert len(load_results(tmp_path / "runs")) == 1
