"""Running a sweep: scene by scene, only what is missing, failures again when asked."""

import sys
from dataclasses import replace

import pandas as pd
import pytest

from tests.fakes import LOADED, FakeLauncher, FakePolicy, fake_libero
from tests.sweep.toys import FILE, run_sweep, toy_sweep
from tests.test_tracking import history, records
from vlaprune_bench.config import run_id, to_dict
from vlaprune_bench.report.summary import summarise
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.store import load_calls, load_results
from vlaprune_bench.sweep.plan import make_plan


@pytest.fixture
def libero(monkeypatch):
    """Stands in for the simulator; never breaks, never succeeds."""
    return fake_libero(monkeypatch)


class Launcher(FakeLauncher):
    """Policies on which `on_call` is called at each call; a checkpoint that may change."""

    def __init__(self, folder):
        folder.mkdir()
        super().__init__(self._make_policy, loaded=replace(LOADED, checkpoint=folder))
        self.on_call = lambda method, memory: None

    def _make_policy(self):
        return FakePolicy(lambda *call: self.on_call(*call))


@pytest.fixture
def launcher(libero, tmp_path):
    return Launcher(tmp_path / "checkpoint")


def results(tmp_path):
    return load_results(tmp_path / "out")


def test_all_cells_see_a_scene_before_the_next_scene(launcher, libero, tmp_path):
    assert run_sweep(toy_sweep(tmp_path), launcher) == 0
    scenes = [(task, trial) for task in (0, 2) for trial in range(3)]
    assert libero.shown == [scene for scene in scenes for _ in range(3)]
    assert [name for name, _ in launcher.policies[0].begun[:3]] == ["none", "static", "static"]
    rows = results(tmp_path)
    assert rows.groupby(["method", "keep"], dropna=False).size().tolist() == [6, 6, 6]
    assert set(rows.visual_tokens_kept_mean) == {128, 256, 512}  # each with its own method
    assert len(launcher.policies) == 1  # loaded once


def test_each_suite_has_its_own_checkpoint_and_all_its_cells_on_it(launcher, tmp_path):
    text = FILE + "zip: {suite: [libero_spatial, libero_object], checkpoint: [a, b]}\n"
    assert run_sweep(toy_sweep(tmp_path, text), launcher) == 0
    assert len(launcher.policies) == 2
    assert len(results(tmp_path)) == 2 * 3 * 6


def test_a_finished_sweep_does_nothing_and_says_so(launcher, tmp_path, capsys):
    sweep = toy_sweep(tmp_path)
    run_sweep(sweep, launcher)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}
    capsys.readouterr()
    assert run_sweep(sweep, launcher) == 0
    assert "finished: nothing left to run" in capsys.readouterr().out
    assert len(launcher.policies) == 1  # not even loaded
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}


def test_more_trials_and_cells_run_only_what_is_new(launcher, tmp_path):
    run_sweep(toy_sweep(tmp_path, trials=2), launcher)
    wider = toy_sweep(tmp_path, FILE.replace("[0.25", "[0.125, 0.25"))
    assert make_plan(wider).missing == 4 * 6 - 3 * 4
    run_sweep(wider, launcher)
    assert len(launcher.policies[1].begun) == 4 * 6 - 3 * 4
    assert len(results(tmp_path)) == results(tmp_path).episode_id.nunique() == 4 * 6


@pytest.fixture
def breaking(launcher, libero):
    """Episodes of task 2 with keep 0.25 fail while the list says so."""
    broken = [True]

    def failing(method, memory):
        if broken[0] and method.keep_ratio == 0.25 and libero.shown[-1][0] == 2:
            raise RuntimeError("no [/such] luck")

    launcher.on_call = failing
    return broken


def test_errors_are_rows_and_run_again_only_when_asked(launcher, breaking, tmp_path, capsys):
    sweep = toy_sweep(tmp_path)
    assert run_sweep(sweep, launcher) == 1
    assert (results(tmp_path).status == "error").sum() == 3
    assert run_sweep(sweep, launcher) == 1
    assert "3 of 18 episodes ended in errors" in capsys.readouterr().out
    assert len(launcher.policies) == 1  # errors are there, too
    plan = make_plan(sweep)
    assert (plan.missing, sum(len(state.failed) for state in plan.states)) == (0, 3)

    assert run_sweep(sweep, launcher, retry=True) == 1  # still broken: attempt 2
    breaking[0] = False
    assert run_sweep(sweep, launcher, retry=True) == 0
    rows = results(tmp_path)
    assert (len(rows), set(rows.status)) == (18, {"ok"})
    told = [text for texts in rows.warnings for text in texts if text.startswith("attempt")]
    assert len(told) == 3
    assert told[0].startswith("attempt 3; the one before ended in error: RuntimeError: no [/such]")
    assert len(launcher.policies[-1].begun) == 3
    assert len(load_calls(tmp_path / "out")) == 18 * 2
    capsys.readouterr()
    assert run_sweep(sweep, launcher, retry=True) == 0
    assert "nothing to retry" in capsys.readouterr().out


def test_a_retry_leaves_missing_episodes_alone(launcher, breaking, tmp_path):
    run_sweep(toy_sweep(tmp_path), launcher)
    breaking[0] = False
    assert run_sweep(toy_sweep(tmp_path, task_ids=[0, 1, 2]), launcher, retry=True) == 0
    assert len(results(tmp_path)) == 18


def interrupt_at(launcher, episodes):
    """Ctrl-C in the first call of that episode of a run."""

    def interrupted(method, memory):
        if len(launcher.policies[-1].begun) == episodes:
            raise KeyboardInterrupt

    launcher.on_call = interrupted


def test_an_interrupted_sweep_is_a_paired_comparison(launcher, tmp_path):
    interrupt_at(launcher, 8)
    assert run_sweep(toy_sweep(tmp_path), launcher) == INTERRUPTED
    rows = results(tmp_path)
    counts = rows.groupby(["method", "keep"], dropna=False).size()
    assert counts.sum() == 7
    assert counts.max() - counts.min() == 1


def test_the_same_rows_however_often_it_was_stopped(launcher, tmp_path):
    """Scenes, steps and decisions of a sweep in one go and of one stopped after each episode."""
    one, many = tmp_path / "one", tmp_path / "many"
    run_sweep(toy_sweep(tmp_path, output=str(one)), launcher)
    interrupt_at(launcher, 2)
    codes = [run_sweep(toy_sweep(tmp_path, output=str(many)), launcher) for _ in range(18)]
    assert codes == [INTERRUPTED] * 17 + [0]
    same = ["episode_id", "success", "steps", "scene_hash", "total_flops_mean", "seed", "keep"]
    frames = [load_results(path).sort_values("episode_id")[same] for path in (one, many)]
    pd.testing.assert_frame_equal(*(f.reset_index(drop=True) for f in frames))


def test_what_was_asked_is_the_sweep_alone(launcher, tmp_path):
    run_sweep(toy_sweep(tmp_path), launcher)
    other = toy_sweep(tmp_path, FILE.replace("pruner.keep: [0.25, 0.5]", "pruner.qk_layer: [1, 3]"))
    outcome = run_cells(other.cells, [], launcher=launcher)
    rows = results(tmp_path)
    assert len(rows) == 5 * 6
    table = summarise(rows[rows.episode_id.isin(outcome.asked)])
    assert [text for text in table.options if text] == ["qk_layer=1", "qk_layer=3"]
    assert table.episodes.tolist() == [6, 6, 6]


def test_a_changed_checkpoint_is_not_taken_for_done(launcher, tmp_path):
    sweep = toy_sweep(tmp_path)
    run_sweep(sweep, launcher)
    assert make_plan(sweep).missing == 0
    (tmp_path / "checkpoint" / "model.safetensors").write_text("other")
    plan = make_plan(sweep)
    assert plan.missing == 18
    assert "its files have changed" in plan.warnings[0]


def test_configurations_and_command_are_kept(launcher, tmp_path):
    sweep = toy_sweep(tmp_path)
    run_sweep(sweep, launcher)
    texts = [path.read_text() for path in (tmp_path / "out" / "_runs").glob("*.yaml")]
    assert len(texts) == 3
    assert all(text.startswith("# vlaprune-sweep run\n") for text in texts)
    assert to_dict(sweep.cells[1])["pruner"]["type"] == "static"


@pytest.mark.slow
def test_weights_and_biases_has_a_run_for_each_cell(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = toy_sweep(tmp_path, wandb=True)
    assert run_sweep(sweep, launcher) == 0
    files = sorted((tmp_path / "out" / "_wandb").glob("wandb/offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {f"run-{run_id(cell)}" for cell in sweep.cells}
    rows = results(tmp_path)
    for path in files:
        mirrored = history(path)
        of_run = rows[rows.run_id == path.stem.removeprefix("run-")]
        assert len(mirrored) == len(of_run) == 6
        assert {row["total_flops_mean"] for row in mirrored} == set(of_run.total_flops_mean)
        groups = [r.run.run_group for r in records(path) if r.WhichOneof("record_type") == "run"]
        assert set(groups) == {"toy"}


def test_a_sweep_goes_on_without_weights_and_biases(launcher, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run_sweep(toy_sweep(tmp_path, wandb=True), launcher) == 0
    assert len(results(tmp_path)) == 18
    assert capsys.readouterr().out.count("Weights & Biases") == 1
