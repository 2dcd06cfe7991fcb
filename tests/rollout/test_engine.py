"""The engine on a toy simulator: rows, resume, errors, Ctrl-C. Real parquet, no MuJoCo."""

import errno
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.rollout.test_episode import ToyTask
from tests.rows import measures
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.store import Store, load_calls, load_results
from vlaprune_bench.types import ActionChunk, UserError

INFO = SimpleNamespace(
    policy="openvla-oft",
    name="toy",
    checkpoint_hash="c0ffee",
    trained=False,
    assets="lite",
    device="cpu",
    dtype="float32",
    attention="sdpa",
    grids=((16, 16), (16, 16)),
)


class ToyPolicy:
    info = INFO

    def __init__(self):
        self.seeds: list[int] = []

    def start(self, instruction, seed):
        self.seeds.append(seed)
        return SimpleNamespace(calls=0)

    def act(self, memory, observation, eef_poses):
        memory.calls += 1
        n = 300 + 100 * (memory.calls % 2)
        chunk = measures(tokens_per_layer=[n, n], latency_total_ms=float(memory.calls))
        return ActionChunk(actions=np.zeros((8, 7)), measures=chunk)


class ToyLibero(ToyTask):
    """Stands in for LiberoTask: trial 1 of task 1 breaks."""

    opened: list[int] = []  # noqa: RUF012
    sim, self_check = "fast", "passed"
    scene, frames = "5ce9e", "f4a3e5"

    def __init__(self, suite, task, assets, protocol, *, sim, scenes):
        super().__init__(success_at=20)
        self.task, self.name = task, f"task_{task}"
        self.init_state_hash = self.scene_hash = self.scene
        self.frames_hash = self.frames
        self.opened.append(task)

    def fingerprint(self, trial):
        return self.scene

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def reset(self, trial):
        self.log.clear()
        self.trial = trial
        return super().reset(trial)

    def step(self, action, look):
        if (self.task, self.trial) == (1, 1) and len(self.log) == 9:
            raise RuntimeError("qpos is not finite")
        return super().step(action, look)


@pytest.fixture
def make_engine(monkeypatch, tmp_path):
    libero = pytest.importorskip("vlaprune_bench.sim.libero")
    monkeypatch.setattr(libero, "LiberoTask", ToyLibero)
    ToyLibero.opened = []

    def make(**changes):
        config = EvalConfig(
            pruner=Static(keep=0.5),
            task_ids=(0, 1),
            trials=3,
            max_steps=64,
            workers=0,  # what is patched here does not reach other processes
            output=tmp_path / "runs",
        )
        config = replace(config, **changes)
        assets = SimpleNamespace(kind="lite", hash="a55e7")
        return Engine(config, Store(config.output), ToyPolicy(), assets, "egl")

    return make


def test_a_row_for_every_episode_and_call(make_engine, tmp_path, capsys):
    engine = make_engine()
    assert engine.run() == 1  # one episode broke
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
    assert "toy" in capsys.readouterr().out


def test_an_exception_is_a_status_and_the_simulator_is_made_anew(make_engine, tmp_path):
    make_engine().run()
    bad = load_results(tmp_path / "runs").query("status == 'error'")
    assert len(bad) == 1
    row = bad.iloc[0]
    assert (row.task, row.trial, row.steps, row.calls) == (1, 1, 9, 2)
    assert "RuntimeError: qpos is not finite" in row.error
    assert row.success is None
    assert ToyLibero.opened == [0, 1, 1]


def test_warm_up_is_the_first_call_of_each_shape_and_left_out_of_latency(make_engine, tmp_path):
    make_engine(task_ids=(0,), trials=2).run()
    episodes = load_results(tmp_path / "runs").set_index("trial")
    calls = load_calls(tmp_path / "runs").merge(
        episodes.reset_index()[["trial", "episode_id"]], on="episode_id"
    )
    warm = calls.sort_values(["trial", "call"]).warmup.tolist()
    assert warm == [True, True, False, False, False, False]
    assert episodes.latency_p50_ms[0] == 3.0
    assert episodes.latency_p50_ms[1] == 2.0


def test_the_same_command_again_runs_nothing(make_engine, tmp_path, capsys):
    make_engine().run()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.parquet")}
    again = make_engine()
    assert again.run() == 0
    assert again.policy.seeds == []
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.parquet")}
    assert "6 of 6 episodes are in" in capsys.readouterr().out
    # other options are other episodes
    make_engine(pruner=Static(keep=0.25), task_ids=(0,), trials=1).run()
    assert len(load_results(tmp_path / "runs")) == 7


def test_ctrl_c_keeps_what_was_finished(make_engine, tmp_path, capsys, monkeypatch):
    engine = make_engine()
    step = ToyLibero.step

    def interrupted(self, action, look):
        if self.trial == 2:
            raise KeyboardInterrupt
        return step(self, action, look)

    monkeypatch.setattr(ToyLibero, "step", interrupted)
    assert engine.run() == INTERRUPTED
    assert len(pd.read_parquet(tmp_path / "runs")) == 2
    assert "interrupted" in capsys.readouterr().out


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_the_episode_and_twice_does_not(
    make_engine, tmp_path, capsys, monkeypatch, times
):
    engine = make_engine()
    before = signal.getsignal(signal.SIGINT)
    step = ToyLibero.step

    def interrupted(self, action, look):
        if self.trial == 1 and len(self.log) < times:
            signal.raise_signal(signal.SIGINT)
        return step(self, action, look)

    monkeypatch.setattr(ToyLibero, "step", interrupted)
    assert engine.run() == INTERRUPTED
    assert load_results(tmp_path / "runs").trial.tolist() == ([0, 1] if times == 1 else [0])
    told = capsys.readouterr().out
    assert "stopping after the running episodes; Ctrl-C again stops now" in told
    assert "the same command goes on" in told
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(ToyLibero, "step", step)
    make_engine().run()
    assert len(load_results(tmp_path / "runs")) == 6


def test_actions_that_are_no_numbers_are_an_error_that_names_the_call(
    make_engine, tmp_path, monkeypatch
):
    """The real policy on the embedded checkpoint; its third call gives NaN."""
    load_policy = pytest.importorskip("vlaprune_bench.policies").load_policy
    engine = make_engine(task_ids=(0,), trials=1, pruner=NoPruning())
    engine.policy = policy = load_policy("tiny-untrained", NoPruning(), suite="libero_spatial")
    predict, calls = policy._predict, []

    def broken(*args):
        calls.append((yield from predict(*args)))
        if len(calls) == 3:
            calls[-1].actions[0, 0] = np.nan
        return calls[-1]

    monkeypatch.setattr(policy, "_predict", broken)
    assert engine.run() == 1
    row = load_results(tmp_path / "runs").iloc[0]
    assert (row.status, row.success, row.calls, row.steps) == ("error", None, 2, 16)
    assert "policy call 2 gave actions that are not finite" in row.error


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(make_engine, tmp_path, monkeypatch):
    engine, left = make_engine(), [4]
    fsync = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            engine.run()
    assert len(load_results(tmp_path / "runs")) == 1
    make_engine().run()
    assert len(load_results(tmp_path / "runs")) == 6


def test_a_second_run_on_the_folder_is_refused(make_engine):
    engine = make_engine()
    with engine.store.writing(), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        make_engine().run()


def test_a_damaged_episode_is_named_and_runs_again(make_engine, tmp_path, capsys):
    make_engine(task_ids=(0,)).run()
    part = min((tmp_path / "runs").glob("episode-*.parquet"))
    part.write_bytes(part.read_bytes()[:1000])
    again = make_engine(task_ids=(0,))
    assert again.run() == 0
    assert len(again.policy.seeds) == 1
    assert f"warning: {part} is damaged" in capsys.readouterr().out
    assert len(load_results(tmp_path / "runs")) == 3


def test_an_episodes_seed_depends_on_the_episode_alone(make_engine, tmp_path):
    one, two = make_engine(), make_engine(output=tmp_path / "other", task_ids=(1, 0))
    one.run()
    two.run()
    assert len(set(one.policy.seeds)) == 6
    assert one.policy.seeds == two.policy.seeds[3:] + two.policy.seeds[:3]


def test_other_assets_than_the_checkpoints_are_told_in_every_row(make_engine, tmp_path):
    engine = make_engine(task_ids=(0,), trials=1)
    engine.assets.kind = "real"
    engine.run()
    told = load_results(tmp_path / "runs").warnings.iloc[0]
    assert any("made for lite assets and ran on real" in warning for warning in told)


def test_chunks_may_be_executed_shorter_than_they_are(make_engine, tmp_path):
    """--execute-steps makes other episodes, in rows of their own."""
    make_engine(task_ids=(0,), trials=1).run()
    make_engine(task_ids=(0,), trials=1, execute_steps=5).run()
    episodes = load_results(tmp_path / "runs").set_index("execute_steps")
    assert episodes.calls.to_dict() == {8: 3, 5: 4}
    assert episodes.episode_id.nunique() == 2
    calls = load_calls(tmp_path / "runs")
    shorter = calls[calls.episode_id == episodes.episode_id[5]].sort_values("call")
    assert shorter.step.tolist() == [0, 5, 10, 15]


def test_scenes_make_other_episodes_but_the_simulator_path_does_not(make_engine, tmp_path):
    one = make_engine(task_ids=(0,), trials=1)
    assert one.run() == 0
    assert make_engine(task_ids=(0,), trials=1, sim="reference").specs() == one.specs()
    make_engine(task_ids=(0,), trials=1, sim="reference").run()
    assert len(load_results(tmp_path / "runs")) == 1
    make_engine(task_ids=(0,), trials=1, scenes="fresh").run()
    assert set(load_results(tmp_path / "runs").scenes) == {"reference", "fresh"}


@pytest.mark.parametrize("changes", [{"trials": 2}, {"seed": 8}], ids=["resumed", "compared"])
def test_another_scene_under_the_same_name_is_refused(make_engine, monkeypatch, changes):
    make_engine(task_ids=(0,), trials=1).run()
    monkeypatch.setattr(ToyLibero, "scene", "07e4")
    with pytest.raises(UserError, match=r"holds task_0 trial 0 with scene 5ce9e, here .* 07e4"):
        make_engine(**{"task_ids": (0,), "trials": 1, **changes}).run()


def test_the_same_scene_drawn_otherwise_is_told_in_its_row(make_engine, tmp_path, monkeypatch):
    make_engine(task_ids=(0,), trials=1).run()
    monkeypatch.setattr(ToyLibero, "frames", "07e4f")
    make_engine(task_ids=(0,), trials=2).run()
    rows = load_results(tmp_path / "runs").sort_values("trial")
    assert rows.frames_hash.tolist() == ["f4a3e5", "07e4f"]
    assert not any("first frames" in text for text in rows.warnings.iloc[1])  # seen first here
    make_engine(task_ids=(0,), trials=1, seed=8).run()
    row = load_results(tmp_path / "runs").query("seed == 8").iloc[0]
    assert any("the first frames are not those" in text for text in row.warnings)


def test_a_failed_self_check_is_told_in_every_row(make_engine, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyLibero, "self_check", "frames differ in 3 pixels")
    monkeypatch.setattr(ToyLibero, "sim", "reference")
    make_engine(task_ids=(0,), trials=1).run()
    row = load_results(tmp_path / "runs").iloc[0]
    assert (row.sim, row.self_check) == ("reference", "frames differ in 3 pixels")
    assert any("not exact here (frames differ in 3 pixels)" in text for text in row.warnings)
