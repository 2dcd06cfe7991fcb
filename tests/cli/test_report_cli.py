"""vlaprune-report from the command line."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests.report.synthetic import cell, write
from vlaprune_bench.cli.report import run
from vlaprune_bench.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    frames = [
        cell("none", None, 0.9, rng, tasks=2, trials=6),
        cell("adp", 0.5, 0.8, rng, tasks=2, trials=6),
    ]
    return write(tmp_path_factory.mktemp("runs"), pd.concat(frames, ignore_index=True), rng)


def test_a_folder_alone_prints_its_tables(folder, capsys):
    run([str(folder)])
    text = capsys.readouterr().out
    for piece in ("Success rates", "Cost per policy call", "Paired with none", "adp", "warning:"):
        assert piece in text


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_other_forms_keep_warnings_out_of_the_tables(folder, capsys, form):
    run([str(folder), "--format", form, "--table", "success"])
    out, err = capsys.readouterr()
    assert "adp" in out
    assert "warning" not in out
    assert "warning" in err


def test_one_table_as_csv_is_a_plain_file(folder, capsys, tmp_path):
    run([str(folder), "--format", "csv", "--table", "tasks"])
    path = tmp_path / "tasks.csv"
    path.write_text(capsys.readouterr().out)
    assert len(pd.read_csv(path)) == 2


def test_page_and_pictures(folder, tmp_path, capsys):
    run([str(folder), "--html", str(tmp_path / "r.html"), "--plots", str(tmp_path / "figures")])
    assert "<!doctype html>" in (tmp_path / "r.html").read_text()
    names = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert names == {".pdf", ".png"}


def test_published_needs_no_results(capsys):
    run(["published", "--table", "published-robot", "--format", "markdown"])
    assert "| none | 83.3 [66.4, 92.7] |" in capsys.readouterr().out.replace(
        "| ADP real robot (arXiv 2509.22093) ", ""
    )


def test_export_is_one_file_with_a_card(folder, tmp_path, capsys):
    file = tmp_path / "data" / "episodes.parquet"
    run(["export", str(folder), str(file)])
    assert len(pd.read_parquet(file)) == 24
    card = (tmp_path / "data" / "README.md").read_text()
    assert "data_files: episodes.parquet" in card
    assert "| `scene_hash` |" in card
    with pytest.raises(UserError, match="is there already"):
        run(["export", str(folder), str(file)])
    run(["export", str(folder), str(file), "--force"])


def test_a_damaged_file_is_named_and_left_out(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    own = write(tmp_path, cell("none", None, 0.9, rng, tasks=1, trials=3), rng)
    (own / "_calls" / "merged-x.parquet").write_bytes(b"noise")
    run([str(own)])
    text = " ".join(capsys.readouterr().out.split())
    assert "merged-x.parquet cannot be read" in text


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["nowhere"], "nowhere holds no results"),
        (["{folder}", "--format", "pdf"], "--format is pdf"),
        (["{folder}", "--margin", "5"], "--margin is 5"),
        (["{folder}", "--table", "sucess"], "did you mean success"),
        (["{folder}", "--html", "{folder}"], "--html is"),
        (["published", "--table", "x"], "--table has x"),
    ],
)
def test_bad_input_is_one_sentence(folder, argv, sentence, capsys):
    with pytest.raises(UserError, match=sentence):
        run([arg.format(folder=folder) for arg in argv])


def test_help_is_quick_and_light():
    code = (
        "import sys, json\n"
        "from vlaprune_bench.cli.report import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mujoco', 'pandas', 'matplotlib', 'plotly', 'scipy'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert time.perf_counter() - start < 10  # a second where nothing else runs
