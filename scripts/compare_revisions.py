"""Whether two source trees play the same episodes: equal actions, steps, success and FLOPs.

    python scripts/compare_revisions.py --base ../other-checkout
    python scripts/compare_revisions.py --base v0.1.0          # a git revision of this repository

Forty episodes of a published table run with the other tree and with this one at the same time, on
this machine, by each tree's own `vlaprune-sweep`. Exits 1 where an episode differs. By rule, not by
choice: cells (suite, method, keep) in alphabetic order; cell i on task i mod 10; trial 0, in every
fourth cell (`none` is one) trials 0 and 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "results" / "tiny-table-2026-11" / "tiny-table.parquet"
KEY = ["suite", "method", "keep", "task", "trial"]
COMPARED = [
    "status",
    "actions_hash",
    "steps",
    "success",
    "total_flops_mean",
    "llm_prefill_macs_mean",
]
BEFORE = ["init_state_hash", "scene_hash", "frames_hash"]
"""Not compared; where they differ, the policy had nothing to do with it."""
READ = """
import json, sys, vlaprune_bench
from vlaprune_bench.store import load_results
rows = load_results(sys.argv[1])[sys.argv[2:]].astype(object)
print(vlaprune_bench.__file__)
print(json.dumps(rows.where(rows.notna(), None).to_dict("records"), default=lambda x: x.item()))
"""


def cells(table: pd.DataFrame, every: int) -> list[dict[str, Any]]:
    """The explicit cells of a sweep file that asks for the episodes."""
    found = table[KEY[:3]].drop_duplicates().sort_values(KEY[:3]).values.tolist()
    return [
        {
            "suite": suite,
            "pruner": {"type": method} | ({} if pd.isna(keep) else {"keep": keep}),
            "task_ids": [i % 10],
            "trials": 2 if i % 4 == 2 else 1,
        }
        for i, (suite, method, keep) in enumerate(found)
        if i % every == every // 2
    ]


@contextmanager
def checkout(base: str) -> Iterator[Path]:
    """The folder of a tree: as given, or a git revision in a temporary worktree."""
    if Path(base).is_dir():
        yield Path(base).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), base], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def python(tree: Path, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that imports the package of a tree; one thread, as in the table."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(tree / "src")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(trees: dict[str, Path], sweep: dict[str, Any], folder: Path) -> dict[str, pd.DataFrame]:
    """Run a sweep with all trees at once; the rows of each, by `KEY`.

    Raises:
        SystemExit: an episode ended in an error, or a tree was not the one imported.
    """
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    outputs = {name: str(folder / name) for name in trees}
    command = ("-m", "vlaprune_bench.cli.sweep", "run", str(file), "--output")
    running = {name: python(tree, *command, outputs[name]) for name, tree in trees.items()}
    said = {name: process.communicate()[0] for name, process in running.items()}
    rows = {}
    for name, tree in trees.items():
        if running[name].returncode:
            raise SystemExit(f"{name}: vlaprune-sweep failed in {tree}:\n{said[name]}")
        reading = python(tree, "-c", READ, outputs[name], *KEY, *COMPARED, *BEFORE)
        out = reading.communicate()[0]
        if reading.returncode:
            raise SystemExit(f"{name}: {tree} cannot read its own rows:\n{out}")
        imported, records = out.splitlines()[-2:]
        if not Path(imported).is_relative_to(tree):
            raise SystemExit(f"{name}: {imported} was imported, which is not in {tree}")
        rows[name] = by_key(pd.DataFrame(json.loads(records)))
    return rows


def by_key(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(keep=rows.keep.astype(float).fillna(1.0)).set_index(KEY).sort_index()


def differences(base: pd.Series, here: pd.Series, columns: list[str]) -> list[str]:
    """The columns in which two rows differ; a null equals a null."""
    pairs = ((c, base[c], here[c]) for c in columns)
    return [c for c, a, b in pairs if not (a == b or (pd.isna(a) and pd.isna(b)))]


def compare(base: pd.DataFrame, here: pd.DataFrame, published: pd.DataFrame) -> int:
    """Print a line for each episode; how many differ."""
    if list(base.index) != list(here.index):
        raise SystemExit(f"other episodes ran: {base.index.symmetric_difference(here.index)}")
    bad = known = 0
    for key in base.index:
        suite, method, keep, task, trial = key
        a, b = base.loc[key], here.loc[key]
        found = differences(a, b, COMPARED)
        bad += bool(found)
        known += not differences(published.loc[key], b, COMPARED)
        where = f"{suite:15} {method:11} {keep:<6g} task {task} trial {trial}"
        end = "success" if b.success else "failure"
        say = (
            "equal"
            if not found
            else "DIFFERS: "
            + ", ".join(f"{c} {a[c]} -> {b[c]}" for c in found + differences(a, b, BEFORE))
        )
        print(f"{where}  {b.steps:3} steps {end}  {b.actions_hash}  {say}")
    print(f"{len(base) - bad} of {len(base)} episodes are equal; {known} are as in the table")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", required=True, help="the other checkout, or a git revision")
    parser.add_argument("--every", type=int, default=1, help="each n-th cell alone, for a look")
    asked = parser.parse_args()
    table = pd.read_parquet(TABLE)
    sweep = {"base": {"checkpoint": "tiny"}, "baseline": False, "cells": cells(table, asked.every)}
    start = time.monotonic()
    with checkout(asked.base) as base, tempfile.TemporaryDirectory() as folder:
        trees = {"base": base, "here": ROOT}
        for name, tree in trees.items():
            print(f"{name}: {tree}")
        rows = play(trees, sweep, Path(folder))
    bad = compare(rows["base"], rows["here"], by_key(table))
    print(f"{time.monotonic() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
