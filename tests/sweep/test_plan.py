"""Plans: fast, without torch, exact about what is there."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rows import episode_row
from vlaprune_bench.cli.sweep import parse
from vlaprune_bench.config import EvalConfig, digest
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.rollout.identity import (
    Facts,
    episode_ids,
    facts_note,
    identity,
    known_facts,
    specs,
)
from vlaprune_bench.store import Store
from vlaprune_bench.sweep.file import Sweep
from vlaprune_bench.sweep.plan import make_plan, show, show_status
from vlaprune_bench.types import UserError

FACTS = Facts("openvla-oft", "c0ffee", "a55e7", "float32", 8)
CONFIG = EvalConfig.of(pruner=Adp(gate=MotionGate(lookback=3)), trials=3, task_ids=(1, 0))


def test_fast_ids_are_the_digests_of_identities():
    ids = episode_ids(CONFIG, FACTS)
    for spec in specs(CONFIG):
        assert ids[spec.task, spec.trial] == digest(identity(CONFIG, spec, FACTS))
    assert len(set(ids.values())) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "libero_goal"},
        {"seed": 8},
        {"max_steps": 100},
        {"execute_steps": 4},
        {"scenes": "fresh"},
        {"attention": "eager"},
        {"pruner": Adp(gate=MotionGate(lookback=4))},
    ],
    ids=str,
)
def test_what_an_episode_is_makes_its_id(change):
    other = episode_ids(CONFIG.but(**change), FACTS)
    assert not set(other.values()) & set(episode_ids(CONFIG, FACTS).values())


@pytest.mark.parametrize("name", ["policy", "checkpoint_hash", "assets_hash", "dtype"])
def test_facts_make_its_id_too(name):
    other = episode_ids(CONFIG, replace(FACTS, **{name: "other"}))
    assert not set(other.values()) & set(episode_ids(CONFIG, FACTS).values())


@pytest.mark.parametrize("change", [{"device": "cuda:3"}, {"video": "all"}, {"sim": "reference"}])
def test_where_and_how_fast_it_runs_does_not(change):
    assert episode_ids(CONFIG.but(**change), FACTS) == episode_ids(CONFIG, FACTS)


@pytest.fixture
def half_done(tmp_path):
    """A sweep of two cells of six episodes; of the first, two ended well and one did not."""
    other = CONFIG.but(pruner=Adp(keep=0.25), output=tmp_path / "out")
    cells = [CONFIG.but(output=tmp_path / "out"), other]
    store = Store(tmp_path / "out")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    store.save_note(*facts_note(cells[0], FACTS, checkpoint))
    ids = list(episode_ids(cells[0], FACTS).values())
    for name, status, wall in zip(ids, ("ok", "ok", "timeout"), (10, 20, 999), strict=False):
        row = {"episode_id": name, "status": status, "wall_s": float(wall), "method": "adp"}
        store.append(episode_row(**row, error="hung" if status == "timeout" else None), [])
    return Sweep("study", cells, ["an axis is dead"], 2)


def test_done_failed_missing_and_time(half_done, capsys):
    plan = make_plan(half_done)
    first, second = plan.states
    assert (len(first.rows), len(first.failed), first.missing) == (3, 1, 3)
    assert (len(second.rows), second.missing) == (0, 6)
    assert plan.seconds == 9 * 15.0  # what timed out says nothing of time
    from rich.console import Console

    show(plan, Console(width=200))
    told = capsys.readouterr().out
    assert "2 done, 1 ended in errors" in told
    assert "9 missing, about 0:02:15 at the rate of 2 finished ones on cpu" in told
    assert "warning: an axis is dead" in told
    show_status(plan, "process 1 on host", Console(width=200))
    told = capsys.readouterr().out
    assert "timeout: libero_spatial task 0 trial 0" in told
    assert "hung" in told
    assert "process 1 on host is writing now" in told


def test_facts_hold_only_for_the_same_settings_and_files(half_done, tmp_path):
    cell = half_done.cells[0]
    assert known_facts(cell.storage.output, cell) == FACTS
    assert known_facts(cell.storage.output, cell.but(dtype="bfloat16")) is None
    (tmp_path / "checkpoint" / "config.json").write_text('{"other": 1}')
    assert known_facts(cell.storage.output, cell) is None
    # the folder was carried to a machine without that checkpoint
    (tmp_path / "checkpoint" / "config.json").unlink()
    (tmp_path / "checkpoint").rmdir()
    assert known_facts(cell.storage.output, cell) == FACTS


def test_a_folder_that_is_not_there_is_an_empty_one(tmp_path):
    sweep = Sweep("study", [CONFIG.but(output=tmp_path / "none")], [], 1)
    plan = make_plan(sweep)
    assert (plan.missing, plan.seconds) == (6, None)
    assert not (tmp_path / "none").exists()


PLAN = """
import sys
from vlaprune_bench.cli.sweep import run
run(["plan", "configs/sweeps/main-table.yaml"])
heavy = {"torch", "mujoco", "robosuite", "transformers", "libero"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_plan_of_the_main_table_needs_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", PLAN],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "172 cells, 86000 episodes on 2000 scenes" in done.stdout
    assert "168 run and 4 baselines" in done.stdout
    assert "no rate yet" in done.stdout


def test_the_command_line():
    """Every option of an evaluation, by its definition; those that were given win."""
    line = "run file.yaml --smoke --task-ids 1 2 --output here --trials=3 --no-wandb --seed 7"
    asked, _, overrides = parse(line.split())
    assert (asked.action, str(asked.file), asked.smoke) == ("run", "file.yaml", True)
    assert overrides == {
        "task_ids": [1, 2],
        "output": "here",
        "trials": 3,
        "wandb": False,
        "seed": 7,
    }
    with pytest.raises(UserError, match=r"unknown option --trails; did you mean --trials\?"):
        parse("plan file.yaml --trails 3".split())
    with pytest.raises(UserError, match="--trials is 99"):
        parse("plan file.yaml --trials 99".split())
