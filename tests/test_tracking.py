"""The Weights & Biases mirror: off unless asked for, offline without a network."""

import sys
from pathlib import Path

import pytest

from tests.rows import episode_row
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.tracking import Tracker


def test_off_by_default_and_never_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    with Tracker(EvalConfig()) as tracker:
        tracker.log(episode_row())


@pytest.mark.slow
def test_offline_mirror_holds_the_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    with Tracker(EvalConfig(wandb=True, wandb_project="p")) as tracker:
        tracker.log(episode_row(steps=123))
        assert tracker.run.project == "p"
        assert tracker.run.summary["steps"] == 123
        assert tracker.run.summary["status"] == "ok"
    assert list(Path(tmp_path).rglob("*.wandb"))
