"""Worker processes, with a simulator that fails on demand: real processes, real parquet, no MuJoCo.

What is patched in this process does not reach a worker's; faults go there by the environment.
"""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.rollout import fake_sim
from tests.rollout.test_engine import INFO
from tests.rows import measures
from vlaprune_bench.cli.eval import parse
from vlaprune_bench.config import EvalConfig, from_dict, run_id, to_dict
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout import pool, runner, server
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.identity import Facts, episode_ids
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.runner import run_engines
from vlaprune_bench.rollout.scene_guard import StoredScenes
from vlaprune_bench.store import Store, load_calls, load_results
from vlaprune_bench.types import ActionChunk, UserError


class FakePolicy:
    """Its actions depend on the episode, the method and the call; notes what it is asked for."""

    info = INFO

    def __init__(self):
        self.pruner = None
        self.log = []
        self.batches = []
        self.on_call = lambda memory: None

    def start(self, instruction, seed):
        keep = self.pruner.keep_ratio
        return SimpleNamespace(
            calls=0, random=np.random.default_rng(seed), kept=round(512 * keep), name=instruction
        )

    def act(self, memory, observation, eef_poses, batch_size=1):
        assert observation.images is not None
        self.log.append((memory.name, memory.kept, memory.calls))
        self.on_call(memory)
        memory.calls += 1
        n = memory.kept + memory.calls % 2
        actions = memory.random.uniform(-1, 1, (8, 7)) + eef_poses[-1, 2] / 100
        cost = measures(
            tokens_per_layer=[512, n], visual_tokens_kept=n, total_flops=n, batch_size=batch_size
        )
        return ActionChunk(actions=actions, measures=cost)

    def act_many(self, calls):
        self.batches.append(len(calls))
        answers = []
        for c in calls:
            try:
                answers.append(self.act(c.memory, c.observation, c.eef_poses, len(calls)))
            except RuntimeError as error:
                answers.append(error)
        return answers


@pytest.fixture
def make_engines(monkeypatch, tmp_path):
    """Engines of two methods on one policy, and workers that have the fake simulator."""
    monkeypatch.setattr(pool, "MODULE", "tests.rollout.fake_sim")
    monkeypatch.delenv(fake_sim.FAULTS, raising=False)

    def make(faults=None, **changes):
        if faults:
            monkeypatch.setenv(fake_sim.FAULTS, json.dumps(faults))
        else:
            monkeypatch.delenv(fake_sim.FAULTS, raising=False)
        config = EvalConfig(
            task_ids=(0, 1), trials=3, max_steps=24, output=tmp_path / "runs", workers=2
        )
        config = replace(config, **changes)
        policy, assets = FakePolicy(), SimpleNamespace(kind="lite", hash="a55e7")
        return [
            Engine(replace(config, pruner=Static(keep=k)), Store(config.output), policy, assets, "")
            for k in (0.25, 0.5)
        ]

    return make


@pytest.fixture
def started(monkeypatch):
    """Worker processes started."""
    pids = []
    start = pool.Processes.start

    def noting(self):
        process = start(self)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(pool.Processes, "start", noting)
    return pids


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
    make_engines, tmp_path, monkeypatch, started
):
    with monkeypatch.context() as patch:
        patch.setitem(fake_sim.sys.modules, "vlaprune_bench.sim.libero", None)
        fake_sim.install()
        assert run_engines(make_engines(workers=0, output=tmp_path / "none")) == 0
    assert not started
    assert run_engines(make_engines(workers=1, output=tmp_path / "one")) == 0
    assert len(started) == 1
    shuffle = runner.Runner._jobs

    def shuffled(self, engines):
        jobs = shuffle(self, engines)
        random.Random(0).shuffle(jobs)
        return jobs

    monkeypatch.setattr(runner.Runner, "_jobs", shuffled)
    assert run_engines(make_engines(workers=4, output=tmp_path / "four")) == 0
    rows = results(tmp_path / "none")
    assert rows.actions_hash.nunique() == 6  # both methods draw the same actions here
    assert (rows.total_flops_mean > 256).tolist() == (rows.keep == 0.5).tolist()  # own method
    same_rows(tmp_path / "none", tmp_path / "one")
    same_rows(tmp_path / "none", tmp_path / "four")
    assert [set(results(tmp_path / f).workers) for f in ("none", "one", "four")] == [{0}, {1}, {4}]
    assert all(gone(pid) for pid in started)


def test_methods_stay_interleaved_and_workers_stay_with_a_task(make_engines):
    engines = make_engines(task_ids=(0, 1, 2), trials=2)
    jobs = [server.Job(e, spec) for spec in engines[0].specs() for e in engines]
    schedule = server.Schedule(jobs)
    took = []
    own = {"a": None, "b": None}
    for turn in range(12):
        who, other = ("a", "b") if turn % 2 == 0 else ("b", "a")
        job = schedule.take(own[who], [own[other]] if own[other] is not None else [])
        own[who] = job.spec.task
        took.append((who, job.spec.task, job.spec.trial, job.engine.config.pruner.keep))
    scenes = [(trial, keep) for trial in (0, 1) for keep in (0.25, 0.5)]
    assert [t[1:] for t in took if t[1] == 0] == [(0, *scene) for scene in scenes]
    assert {t[0] for t in took if t[1] == 0} == {"a"}
    assert {t[0] for t in took if t[1] == 1} == {"b"}
    # of the last task everybody takes the next, in order
    assert [t[1:] for t in took if t[1] == 2] == [(2, *scene) for scene in scenes]
    assert {t[0] for t in took if t[1] == 2} == {"a", "b"}
    assert not schedule


def test_a_simulator_that_hangs_is_a_timeout_and_the_run_goes_on(make_engines, tmp_path, started):
    """Within native code that keeps Python's lock: in a reset, and in a step."""
    faults = {"0:1:reset": "hang", "1:1:11": "hang"}
    engines = make_engines(faults, episode_timeout=3.0)
    assert run_engines(engines[:1]) == 1
    rows = results(tmp_path / "runs").set_index(["task", "trial"])
    assert rows.status.tolist() == ["ok", "timeout", "ok"] * 2
    assert rows.error[0, 1] == "no sign of life from the simulator for 3 s, before its scene stood"
    assert rows.error[1, 1] == "no sign of life from the simulator for 3 s, after policy call 1"
    assert (rows.calls[1, 1], rows.steps[1, 1], rows.success[1, 1]) == (2, 8, None)
    assert rows.scene_hash.isna().tolist() == [False, True, False, False, False, False]
    assert len(load_calls(tmp_path / "runs")) == rows.calls.sum()
    assert all(gone(pid) for pid in started)


def test_however_a_worker_ends_its_episode_is_a_row_and_the_run_goes_on(
    make_engines, tmp_path, started
):
    faults = {
        "0:0:9": "kill",
        "0:1:9": "segfault",
        "0:2:9": "memory",
        "1:0:9": "leave",
        "1:1:9": "fail",
        "1:2:reset": "kill",
    }
    engines = make_engines(faults, trials=4)
    assert run_engines(engines[:1]) == 1
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
    again = make_engines(trials=4)[:1]
    assert again[0].run() == 0  # errors are rows: nothing is missing


def test_a_call_that_fails_is_an_error_and_names_the_call(make_engines, tmp_path):
    engines = make_engines(batch=2, workers=2)

    def nan(memory):
        if (memory.name, memory.calls) == ("do task 1", 2):
            raise RuntimeError("policy call 2 gave actions that are not finite")

    engines[0].policy.on_call = nan
    assert run_engines(engines) == 1
    rows = results(tmp_path / "runs")
    bad = rows[rows.status == "error"]
    assert set(bad.task) == {1}
    assert not ((rows.task == 1) & (rows.status == "ok") & (rows.calls > 2)).any()
    assert bad.error.str.contains("policy call 2 gave actions that are not finite").all()
    assert set(bad.steps) == {16}
    assert set(bad.calls) == {2}


def test_workers_that_never_reach_a_scene_are_refused(make_engines, tmp_path, started):
    with pytest.raises(UserError, match=r"3 simulators in a row .* exit code 3: native code: out"):
        run_engines(make_engines({"start": "leave"}, workers=1))
    assert len(started) == 3
    assert Store(tmp_path / "runs").done() == set()
    started.clear()
    faults = {f"0:{trial}:reset": "segfault" for trial in range(3)}
    with pytest.raises(UserError, match=r"3 simulators in a row .*SIGSEGV.* before its scene"):
        run_engines(make_engines(faults, workers=1, task_ids=(0,)))
    assert len(results(tmp_path / "runs")) == 3


def test_what_a_worker_cannot_do_without_the_user_stops_the_run(make_engines, started):
    with pytest.raises(UserError, match="--assets is nowhere; give a folder"):
        run_engines(make_engines({"0:0:reset": "complain"}))
    assert all(gone(pid) for pid in started)


def test_workers_that_see_different_scenes_are_refused(make_engines, monkeypatch):
    start = pool.Processes.start

    def second_drifts(self):
        process = start(self)
        monkeypatch.setenv("FAKE_DRIFT", "other versions")
        return process

    monkeypatch.setattr(pool.Processes, "start", second_drifts)
    engines = make_engines(task_ids=(0,), trials=30)
    engines[0].policy.on_call = lambda memory: _wait_for_others()
    with pytest.raises(UserError, match="holds task_0 trial 0 with scene"):
        run_engines(engines)


def test_a_scene_is_compared_with_that_of_its_own_trial(make_engines, tmp_path):
    """Though others have told of an earlier trial since the order was given."""
    (engine, _), scenes = make_engines(), {(0, 0): "5ce0", (0, 2): "5ce2"}
    stored = StoredScenes(engine.config, engine.store, "a55e7")
    serving = server.Server(stored, pool.Processes(), 2)
    jobs = {spec.trial: server.Job(engine, spec) for spec in engine.specs() if spec.task == 0}

    def tell(trial, compared):
        running = server.Running(jobs[trial], 2)
        serving._note(running, server.Opened("task_0", "do"))
        scene = scenes[0, trial]
        serving._note(running, server.Scene("1", scene, None, compared, "fast", "passed", 0.1))

    tell(2, None)
    assert serving._order(jobs[0]).compare == 2
    tell(0, (2, "5ce2"))
    assert serving._order(jobs[1]).compare == 0
    tell(2, (2, "5ce2"))
    with pytest.raises(UserError, match="holds task_0 trial 2 with scene 5ce2, here it has"):
        tell(0, (2, "07e4"))


def test_workers_are_replaced_after_so_many_episodes(make_engines, monkeypatch, started):
    made = server.Server.__init__
    monkeypatch.setattr(
        server.Server,
        "__init__",
        lambda self, *args, **kwargs: made(self, *args, **kwargs, recycle_after=2),
    )
    engines = make_engines(workers=1)
    assert run_engines(engines[:1]) == 0
    assert len(started) == 3
    assert len(set(started)) == 3


def test_calls_are_served_together_up_to_the_batch(make_engines, tmp_path):
    alone, together = make_engines(output=tmp_path / "one"), make_engines(workers=4, batch=3)
    assert run_engines(alone) == 0
    assert alone[0].policy.batches == []
    policy, sizes = together[0].policy, []
    policy.on_call = lambda memory: sizes.append(memory.calls) or _wait_for_others()
    assert run_engines(together) == 0
    assert policy.batches
    assert max(policy.batches) <= 3
    rows = results(tmp_path / "runs")
    assert set(rows.batch_size) <= {1, 2, 3}
    assert rows.batch_size.max() == max(policy.batches)
    calls = load_calls(tmp_path / "runs").groupby("episode_id").batch_size.max()
    assert calls[rows.episode_id].tolist() == rows.batch_size.tolist()
    same_rows(tmp_path / "one", tmp_path / "runs")


def _wait_for_others():
    """A call takes a while, so that others come to wait."""
    time.sleep(0.02)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_the_running_episodes_and_twice_does_not(
    make_engines, tmp_path, started, times, capsys
):
    engines = make_engines(trials=10)

    def interrupt(memory):
        if len(engines[0].policy.log) == 20:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    engines[0].policy.on_call = interrupt
    assert run_engines(engines) == INTERRUPTED
    policy = engines[0].policy
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
    again = make_engines(trials=10)
    assert run_engines(again) == 0
    assert len(results(tmp_path / "runs")) == 40


def test_workers_do_not_outlive_the_run_however_it_ends(make_engines, tmp_path, started):
    """The process with the policy is killed while one worker hangs in native code."""
    engines = make_engines({"0:0:3": "hang"})
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        note = os.fdopen(ready[1], "w")
        start = pool.Processes.start

        def noting(self):
            process = start(self)
            note.write(f"{process.pid}\n")
            note.flush()
            return process

        pool.Processes.start = noting
        run_engines(engines)
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
    assert (config.workers, config.batch, config.episode_timeout) == ("auto", 4, 20.0)
    assert run_id(config) == run_id(EvalConfig())
    assert from_dict(to_dict(config), "file") == config
    facts = Facts("openvla-oft", "c", "a", "float32")
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
def test_two_workers_on_the_real_simulator_and_one_loses_its_gl_context(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("vlaprune_bench.rollout.engine").evaluate
    config = EvalConfig(
        task_ids=(0, 1), trials=2, max_steps=16, assets="lite", output=tmp_path / "runs", workers=2
    )
    monkeypatch.setattr(pool, "MODULE", "tests.rollout.frail_sim")
    assert evaluate(config, []) == 1
    rows = results(tmp_path / "runs")
    assert rows.status.tolist() == ["ok", "ok", "error", "ok"]
    lost = rows.iloc[2]
    assert lost.error.startswith("RuntimeError: no frame: the GL context was freed")
    assert (lost.calls, lost.steps, lost.success) == (2, 15, None)
    assert lost.actions_hash is not None
    assert rows[rows.status == "ok"].self_check.eq("passed").all()
    assert rows.scene_hash.nunique() == 4
