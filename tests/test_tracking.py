"""The Weights & Biases mirror: off unless asked for, needs no network, stops nothing."""

import json
import struct
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.rows import episode_row
from vlaprune_bench.config import EvalConfig, run_id
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.tracking import Tracker

BLOCK = 32768
"""Bytes after which the log format of a .wandb file begins a new block."""


def records(path: Path) -> list:
    """What a .wandb file holds: LevelDB's log format (crc, length, kind, data) of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, whole = path.read_bytes(), [], b""
    at = 7  # the file's own header
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def history(path: Path) -> list[dict]:
    return [
        {"".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in records(path)
        if r.WhichOneof("record_type") == "history"
    ]


def test_off_by_default_and_never_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    said = []
    with Tracker(said.append) as tracker:
        tracker.log(EvalConfig(), episode_row())
    assert not said


class Broken:
    """A wandb that fails at one point."""

    def __init__(self, where):
        self.where, self.finished = where, 0

    def __getattr__(self, name):
        def call(*_, **__):
            if name == self.where:
                raise OSError(f"no network\nin {name}")
            self.finished += name == "finish"
            return self

        return call


@pytest.mark.parametrize("where", ["init", "log", "finish", "import"])
def test_what_fails_is_said_once_and_stops_nothing(where, monkeypatch, tmp_path):
    wandb = Broken(where)
    monkeypatch.setitem(sys.modules, "wandb", None if where == "import" else wandb)
    said = []
    cells = [
        EvalConfig.of(wandb=True, output=tmp_path, suite=s) for s in ("libero_10", "libero_goal")
    ]
    with Tracker(said.append) as tracker:
        for _ in range(3):
            for cell in cells:
                tracker.log(cell, episode_row())
    why = "ModuleNotFoundError" if where == "import" else f"OSError: no network in {where};"
    assert len(said) == 1
    assert why in said[0]
    assert wandb.finished == (where == "log")  # the run that was there is closed all the same


@pytest.mark.slow
def test_offline_files_hold_every_row_once_and_go_on_with_the_run(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    cells = [
        EvalConfig.of(wandb=True, output=tmp_path, pruner=FastV(keep=keep), wandb_group="study")
        for keep in (0.25, 0.5)
    ]
    for part in (0, 1):  # the second command goes on where the first one stopped
        with Tracker(pytest.fail) as tracker:
            for trial in range(2 * part, 2 * part + 2):
                for cell in cells:
                    row = episode_row(trial=trial, success=trial == 3, steps=100 + trial)
                    tracker.log(cell, row)
            tracker.log(cells[0], episode_row(trial=9, status="error", success=None))
    files = sorted(tmp_path.glob("_wandb/wandb/offline-run-*/*.wandb"))
    counts = Counter(path.stem for path in files)
    assert counts == {f"run-{run_id(cell)}": 2 for cell in cells}
    rows = [row for path in files for row in history(path) if path.stem.endswith(run_id(cells[1]))]
    assert [(r["trial"], r["success"], r["steps"], r["status"]) for r in rows] == [
        (0, 0, 100, "ok"),
        (1, 0, 101, "ok"),
        (2, 0, 102, "ok"),
        (3, 1, 103, "ok"),
    ]
    failed = [
        r for r in history(next(p for p in files if run_id(cells[0]) in p.name)) if "steps" in r
    ]
    assert ("success" in failed[-1], failed[-1]["status"]) == (False, "error")
    (run,) = [r.run for r in records(files[0]) if r.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.project, run.run_group, run.run_id) == (
        "vlaprune-bench",
        "study",
        files[0].stem.removeprefix("run-"),
    )
    assert config["pruner"]["type"] == "fastv"
