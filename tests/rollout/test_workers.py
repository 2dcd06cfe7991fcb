"""Worker processes, with a simulator that fails on demand: real processes, real parquet, no MuJoCo.

Faults reach workers by the environment.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.fakes import LOADED, FakeLauncher, FakePolicy, FakePool
from tests.rollout import fake_sim
from vlaprune_bench.cli.eval import parse
from vlaprune_bench.config import EvalConfig, from_dict, run_id, to_dict
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout import pool
from vlaprune_bench.rollout.identity import Facts, episode_ids, specs
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.launcher import Local
from vlaprune_bench.rollout.messages import Opened, SceneReady
from vlaprune_bench.rollout.record import EpisodeRecord
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.server import Server
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.store import Store, load_calls, load_results
from vlaprune_bench.types import UserError


@pytest.fixture
def fake_pool():
    return FakePool()


@pytest.fixture
def started(fake_pool):
    """Worker processes started."""
    return fake_pool.pids


@pytest.fixture
def cells(tmp_path):
    """Two methods; options may be changed."""

    def cells(**changes):
        config = EvalConfig.of(
            task_ids=(0, 1), trials=3, max_steps=24, output=tmp_path / "runs", workers=2
        )
        return [config.but(pruner=Static(keep=k), **changes) for k in (0.25, 0.5)]

    return cells


@pytest.fixture
def run(monkeypatch, fake_pool):
    """Run cells on workers that have the fake simulator; the exit code."""

    def run(cells, faults=None, **launcher):
        monkeypatch.setenv(fake_sim.FAULTS, json.dumps(faults or {}))
        return run_cells(cells, [], launcher=FakeLauncher(pool=fake_pool, **launcher)).code

    return run


def gone(pid):
    """Whether a process has ended (one that nobody has reaped yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def results(folder):
    return load_results(folder).sort_values(["task", "trial", "keep"]).reset_index(drop=True)


SAME = ["episode_id", "status", "success", "steps", "calls", "scene_hash", "init_state_hash"]
SAME += ["actions_hash", "total_flops_mean", "visual_tokens_kept_mean", "task_name", "instruction"]
COST = ["episode_id", "call", "step", "eef_displacement", "total_flops", "visual_tokens_kept"]


def same_rows(one, two):
    """Whether two folders hold the same episodes, as far as these do not say how long it took."""
    pd.testing.assert_frame_equal(results(one)[SAME], results(two)[SAME])
    calls = [load_calls(f).sort_values(["episode_id", "call"])[COST] for f in (one, two)]
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in calls))


def test_the_same_rows_in_this_process_and_in_any_number_of_others(
    run, cells, tmp_path, monkeypatch, started
):
    with monkeypatch.context() as patch:
        patch.setitem(fake_sim.sys.modules, "vlaprune_bench.sim.libero", None)
        fake_sim.install()
        assert run(cells(workers=0, output=tmp_path / "none")) == 0
    assert not started
    assert run(cells(workers=1, output=tmp_path / "one")) == 0
    assert len(started) == 1

    def shuffled(jobs):
        return random.Random(0).sample(jobs, len(jobs))

    assert run(cells(workers=4, output=tmp_path / "four"), order=shuffled) == 0
    rows = results(tmp_path / "none")
    assert rows.actions_hash.nunique() == 6  # both methods draw the same actions here
    assert (rows.total_flops_mean >= 256).tolist() == (rows.keep == 0.5).tolist()  # own method
    same_rows(tmp_path / "none", tmp_path / "one")
    same_rows(tmp_path / "none", tmp_path / "four")
    assert [set(results(tmp_path / f).workers) for f in ("none", "one", "four")] == [{0}, {1}, {4}]
    assert all(gone(pid) for pid in started)


def test_methods_stay_interleaved_and_workers_stay_with_a_task(cells):
    setups = [Setup(cell, LOADED) for cell in cells(task_ids=(0, 1, 2), trials=2)]
    schedule = Schedule(Job(s, spec) for spec in specs(setups[0].config) for s in setups)
    took = []
    own = {"a": None, "b": None}
    for turn in range(12):
        who, other = ("a", "b") if turn % 2 == 0 else ("b", "a")
        job = schedule.take(own[who], [own[other]] if own[other] is not None else [])
        own[who] = job.spec.task
        took.append((who, job.spec.task, job.spec.trial, job.setup.config.what.pruner.keep))
    scenes = [(trial, keep) for trial in (0, 1) for keep in (0.25, 0.5)]
    assert [t[1:] for t in took if t[1] == 0] == [(0, *scene) for scene in scenes]
    assert {t[0] for t in took if t[1] == 0} == {"a"}
    assert {t[0] for t in took if t[1] == 1} == {"b"}
    # of the last task everybody takes the next, in order
    assert [t[1:] for t in took if t[1] == 2] == [(2, *scene) for scene in scenes]
    assert {t[0] for t in took if t[1] == 2} == {"a", "b"}
    assert not schedule


def test_a_simulator_that_hangs_is_a_timeout_and_the_run_goes_on(run, cells, tmp_path, started):
    """Within native code that keeps Python's lock: in a reset, and in a step."""
    faults = {"0:1:reset": "hang", "1:1:11": "hang"}
    assert run(cells(episode_timeout=3.0)[:1], faults) == 1
    rows = results(tmp_path / "runs").set_index(["task", "trial"])
    assert rows.status.tolist() == ["ok", "timeout", "ok"] * 2
    assert rows.error[0, 1] == "no sign of life from the simulator for 3 s, before its scene stood"
    assert rows.error[1, 1] == "no sign of life from the simulator for 3 s, after policy call 1"
    assert (rows.calls[1, 1], rows.steps[1, 1], rows.success[1, 1]) == (2, 8, None)
    assert rows.scene_hash.isna().tolist() == [False, True, False, False, False, False]
    assert len(load_calls(tmp_path / "runs")) == rows.calls.sum()
    assert all(gone(pid) for pid in started)


def test_however_a_worker_ends_its_episode_is_a_row_and_the_run_goes_on(
    run, cells, tmp_path, started, capsys
):
    faults = {
        "0:0:9": "kill",
        "0:1:9": "segfault",
        "0:2:9": "memory",
        "1:0:9": "leave",
        "1:1:9": "fail",
        "1:2:reset": "kill",
    }
    assert run(cells(trials=4)[:1], faults) == 1
    rows = results(tmp_path / "runs").set_index(["task", "trial"])
    assert rows.status.tolist() == ["error"] * 3 + ["ok"] + ["error"] * 3 + ["ok"]
    died = "the simulator's process died: it"
    assert rows.error[0, 0].startswith(f"{died} was killed by signal 9 (SIGKILL), after policy")
    assert rows.error[0, 1].startswith(f"{died} was killed by signal 11 (SIGSEGV)")
    assert "MemoryError" in rows.error[0, 2]
    assert f"{died} ended with exit code 3: native code: out of luck" in rows.error[1, 0]
    assert rows.error[1, 1].startswith("RuntimeError: qpos is not finite (fail, line")
    assert "before its scene stood" in rows.error[1, 2]
    assert len(started) > 6  # a fresh process after each, as long as there is something to do
    assert run(cells(trials=4)[:1]) == 1  # errors are rows: nothing is missing
    assert "6 of 8 episodes ended in errors" in capsys.readouterr().out


def test_a_call_that_fails_is_an_error_and_names_the_call(run, cells, tmp_path):
    def nan(method, memory):
        if (memory.name, memory.calls) == ("do task 1", 2):
            raise RuntimeError("policy call 2 gave actions that are not finite")

    assert run(cells(batch=2, workers=2), make_policy=lambda: FakePolicy(nan)) == 1
    rows = results(tmp_path / "runs")
    bad = rows[rows.status == "error"]
    assert set(bad.task) == {1}
    assert not ((rows.task == 1) & (rows.status == "ok") & (rows.calls > 2)).any()
    assert bad.error.str.contains("policy call 2 gave actions that are not finite").all()
    assert set(bad.steps) == {16}
    assert set(bad.calls) == {2}


@pytest.mark.parametrize(
    ("fault", "told"), [("segfault", "SIGSEGV.* before its scene"), ("fail", "qpos is not finite")]
)
def test_what_keeps_every_scene_from_opening_is_refused_and_leaves_no_rows(
    run, cells, tmp_path, started, monkeypatch, fault, told
):
    monkeypatch.setitem(fake_sim.sys.modules, "vlaprune_bench.sim.libero", None)
    fake_sim.install()
    with pytest.raises(UserError, match=r"no scene opens here: .* exit code 3: native code: out"):
        run(cells(workers=1), {"start": "leave"})
    assert len(started) == 3
    assert Store(tmp_path / "runs").done() == set()
    started.clear()
    faults = {f"0:{trial}:reset": fault for trial in range(3)}
    for n_workers in (0, 1) if fault == "fail" else (1,):
        with pytest.raises(UserError, match=rf"no scene opens here: .*{told}") as refused:
            run(cells(workers=n_workers, task_ids=(0,)), faults)
        assert "\n" not in str(refused.value)
        assert Store(tmp_path / "runs").done() == set()
    assert run(cells(task_ids=(0,))) == 0  # the same command runs them


def test_what_a_worker_cannot_do_without_the_user_stops_the_run(run, cells, started):
    with pytest.raises(UserError, match="--assets is nowhere; give a folder"):
        run(cells(), {"0:0:reset": "complain"})
    assert all(gone(pid) for pid in started)


def test_workers_that_see_different_scenes_are_refused(run, cells, fake_pool, monkeypatch):
    # the second that starts drifts
    fake_pool.after_start = lambda _: monkeypatch.setenv("FAKE_DRIFT", "other versions")
    with pytest.raises(UserError, match="holds task_0 trial 0 with scene"):
        run(cells(task_ids=(0,), trials=30), make_policy=lambda: FakePolicy(_wait_for_others))


def test_a_scene_is_compared_with_that_of_its_own_trial(cells, fake_pool):
    """Though others have told of an earlier trial since the order was given."""
    setup, scenes = Setup(cells()[0], LOADED), {(0, 0): "5ce0", (0, 2): "5ce2"}
    server = Server(FakePolicy(), SceneGuard(Path("runs")), fake_pool, 2)
    jobs = {spec.trial: Job(setup, spec) for spec in specs(setup.config) if spec.task == 0}

    def tell(trial, compared):
        record = EpisodeRecord(jobs[trial], 2)
        server._note(record, Opened("task_0", "do"))
        scene = scenes[0, trial]
        server._note(record, SceneReady("1", scene, None, compared, "fast", "passed", 0.1))

    tell(2, None)
    assert server._order(jobs[0]).compare == 2
    tell(0, (2, "5ce2"))
    assert server._order(jobs[1]).compare == 0
    tell(2, (2, "5ce2"))
    with pytest.raises(UserError, match="holds task_0 trial 2 with scene 5ce2, here it has"):
        tell(0, (2, "07e4"))


def test_workers_are_replaced_after_so_many_episodes(run, cells, started):
    assert run(cells(workers=1)[:1], recycle_after=2) == 0
    assert len(started) == 3
    assert len(set(started)) == 3


def test_calls_are_served_together_up_to_the_batch(run, cells, tmp_path):
    alone = FakePolicy()
    assert run(cells(output=tmp_path / "one"), make_policy=lambda: alone) == 0
    assert alone.batches == []
    policy = FakePolicy(_wait_for_others)
    assert run(cells(workers=4, batch=3), make_policy=lambda: policy) == 0
    assert policy.batches
    assert max(policy.batches) <= 3
    rows = results(tmp_path / "runs")
    assert set(rows.batch_size) <= {1, 2, 3}
    assert rows.batch_size.max() == max(policy.batches)
    calls = load_calls(tmp_path / "runs").groupby("episode_id").batch_size.max()
    assert calls[rows.episode_id].tolist() == rows.batch_size.tolist()
    same_rows(tmp_path / "one", tmp_path / "runs")


@pytest.mark.slow
def test_the_command_line_batches_calls_of_a_real_policy(tmp_path, monkeypatch, fake_pool):
    """Of four simulators that take no time two always wait, so that a batch forms."""
    monkeypatch.delenv(fake_sim.FAULTS, raising=False)
    line = "--checkpoint tiny-untrained --assets lite --method fastv --layer 2 --keep 0.5"
    line += " --task-ids 0 1 --trials 2 --max-steps 24 --workers 4"
    for name, batch in (("alone", 1), ("together", 2)):
        config = parse(f"{line} --batch {batch} --output {tmp_path / name}".split())
        assert run_cells([config], [], launcher=Local(fake_pool)).code == 0
    one, two = results(tmp_path / "alone"), results(tmp_path / "together")
    assert set(one.batch_size) == {1}
    assert two.batch_size.max() == 2
    assert one.episode_id.tolist() == two.episode_id.tolist()
    assert one.total_flops_mean.tolist() == two.total_flops_mean.tolist()
    assert one.calls.tolist() == two.calls.tolist()


def _wait_for_others(*_):
    """A call takes a while, so that others come to wait."""
    time.sleep(0.02)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_the_running_episodes_and_twice_does_not(
    run, cells, tmp_path, started, times, capsys
):
    def interrupt(method, memory):
        if len(policy.log) == 20:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    policy = FakePolicy(interrupt)
    assert run(cells(trials=10), make_policy=lambda: policy) == INTERRUPTED
    begun = {(*entry[:2], n) for n, entry in enumerate(policy.log) if entry[2] == 0}
    rows = results(tmp_path / "runs")
    assert set(rows.status) == {"ok"}
    if times == 1:
        assert len(rows) == len(begun) < 40
        counts = rows.groupby(["task", "keep"]).size().unstack(fill_value=0)
        assert (counts[0.25] - counts[0.5]).isin([0, 1]).all()  # still a paired comparison
    else:
        assert len(rows) < len(begun)
        assert len(policy.log) == 20
    assert all(gone(pid) for pid in started)
    assert "the same command goes on" in capsys.readouterr().out
    assert run(cells(trials=10)) == 0
    assert len(results(tmp_path / "runs")) == 40


def test_workers_do_not_outlive_the_run_however_it_ends(run, cells, fake_pool, tmp_path):
    """The process with the policy is killed while one worker hangs in native code."""
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        note = os.fdopen(ready[1], "w", buffering=1)
        fake_pool.after_start = lambda process: note.write(f"{process.pid}\n")
        run(cells(), {"0:0:3": "hang"})
        os._exit(0)
    os.close(ready[1])
    with os.fdopen(ready[0]) as lines:
        pids = [int(lines.readline()) for _ in range(2)]
        while not (tmp_path / "runs").exists() or len(Store(tmp_path / "runs").done()) < 6:
            pass  # the other worker goes on with what is left of its task
        assert not any(gone(pid) for pid in pids)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert lines.read() == ""
    deadline = 1000
    while not all(gone(pid) for pid in pids) and deadline:
        deadline -= 1
        _wait_for_others()
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--workers -1", r"--workers is -1; it must be auto, or 0 or more"),
        ("--batch 0", r"--batch is 0; it must be at least 1"),
        ("--episode-timeout 0", r"--episode-timeout is 0.0; give seconds above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(options.split())


def test_how_an_episode_is_run_is_not_what_it_is():
    config = parse("--workers auto --batch 4 --episode-timeout 20".split())
    c = config.compute
    assert (c.workers, c.batch, c.episode_timeout) == ("auto", 4, 20.0)
    assert run_id(config) == run_id(EvalConfig())
    assert from_dict(to_dict(config), "file") == config
    facts = Facts("openvla-oft", "c", "a", "float32", 8)
    assert episode_ids(config, facts) == episode_ids(EvalConfig(), facts)


def test_auto_counts_what_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(pool, "usable_cores", lambda: 8)
    monkeypatch.setattr(pool, "available_mib", lambda: 64 * 1024)
    assert pool.count_workers("auto")[0] == 8
    monkeypatch.setattr(pool, "available_mib", lambda: 3 * 1024)
    number, why = pool.count_workers("auto")
    assert number == 4
    assert why == ("--workers auto: 4 (8 cores, 3.0 GiB of memory available, 0.5 GiB a worker)")
    monkeypatch.setattr(pool, "available_mib", lambda: 100)
    assert pool.count_workers("auto")[0] == 1
    assert pool.count_workers(3) == (3, None)


@pytest.mark.slow
@pytest.mark.sim
def test_two_workers_on_the_real_simulator_and_one_loses_its_gl_context(tmp_path):
    config = EvalConfig.of(
        task_ids=(0, 1), trials=2, max_steps=16, assets="lite", output=tmp_path / "runs", workers=2
    )
    frail = Local(pool.Processes("tests.rollout.frail_sim"))
    assert run_cells([config], [], launcher=frail).code == 1
    rows = results(tmp_path / "runs")
    assert rows.status.tolist() == ["ok", "ok", "error", "ok"]
    lost = rows.iloc[2]
    assert lost.error.startswith("RuntimeError: no frame: the GL context was freed")
    assert (lost.calls, lost.steps, lost.success) == (2, 15, None)
    assert lost.actions_hash is not None
    assert rows[rows.status == "ok"].self_check.eq("passed").all()
    assert rows.scene_hash.nunique() == 4
