"""vlaprune-report from the command line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest

from tests.report.synthetic import cell, write
from vlaprune_bench.cli.report import run
from vlaprune_bench.store import load_calls, load_results
from vlaprune_bench.types import UserError
from vlaprune_bench.video import VideoWriter


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


def test_what_is_decided_can_be_asked_for_alone(folder, capsys):
    run([str(folder), "--table", "decided"])
    assert "Success rates" not in (decided := capsys.readouterr().out)
    run([str(folder)])
    assert decided.splitlines()[0] in capsys.readouterr().out
    run([str(folder), "--table", "decided", "success"])
    both = capsys.readouterr().out
    assert decided.splitlines()[0] in both
    assert "Success rates" in both


def test_page_and_pictures(folder, tmp_path, capsys):
    run([str(folder), "--html", str(tmp_path / "r.html"), "--plots", str(tmp_path / "figures")])
    assert f"page: {tmp_path / 'r.html'}" in capsys.readouterr().out
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


def printed(capsys, *argv):
    run([*map(str, argv), "--format", "csv"])
    return capsys.readouterr()


def test_an_export_reports_as_the_folder_does(folder, tmp_path, capsys):
    run_id = load_results(folder).run_id[0]
    config = folder / "_runs" / f"{run_id}.yaml"
    config.write_text("# vlaprune-eval\nsuite: libero_spatial\ntrials: 8\ntask_ids: [0, 1]\n")
    expected, warned = printed(capsys, folder)
    config_text = config.read_text()
    run(["export", str(folder), str(tmp_path / "data" / "e.parquet")])
    config.unlink()
    capsys.readouterr()
    for place in (tmp_path / "data", tmp_path / "data" / "e.parquet"):
        assert printed(capsys, place) == (expected, warned)
        assert len(load_results(place)) == 24
    calls = [load_calls(place).sort_values(["episode_id", "call"]) for place in (folder, place)]
    assert len(calls[0])
    pd.testing.assert_frame_equal(*(c.reset_index(drop=True) for c in calls))
    assert (tmp_path / "data" / "_runs" / config.name).read_text() == config_text
    card = (tmp_path / "data" / "README.md").read_text()
    assert "{config_name: calls, data_files: _calls/e.parquet}" in card
    assert "| `tokens_per_layer` |" in card
    assert "Videos are left out" in card


def test_an_export_says_that_calls_are_left_out(folder, tmp_path, capsys):
    file = tmp_path / "e.parquet"
    pd.read_parquet(folder).to_parquet(file)
    run(["export", str(file), str(tmp_path / "again" / "e.parquet")])
    assert "_calls/e.parquet is missing: left out" in " ".join(capsys.readouterr().out.split())
    assert "calls are left out" in (tmp_path / "again" / "README.md").read_text()
    assert not (tmp_path / "again" / "_calls").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("{folder}/all.parquet", "merged-000000000000.parquet beside it holds the same episodes"),
        ("{tmp}/episodes", "must end in .parquet"),
        ("{tmp}/_episodes.parquet", "not begin with"),
        ("{tmp}/episode-1.parquet", "not begin with"),
    ],
)
def test_an_export_that_would_be_misread_is_refused(folder, tmp_path, name, sentence):
    with pytest.raises(UserError, match=sentence):
        run(["export", str(folder), name.format(folder=folder, tmp=tmp_path)])
    assert len(load_results(folder)) == 24


SHIPPED = Path(__file__).parents[2] / "results" / "tiny-table-2026-11"


def test_the_table_we_publish_is_read(capsys):
    table, _ = printed(capsys, SHIPPED, "--table", "success")
    assert len(table.splitlines()) == 17
    card = (SHIPPED / "README.md").read_text()
    for row in csv.DictReader(table.splitlines()):
        keep = row["keep"] or "–"
        rates = (f"{100 * float(row[name]):.1f} [" for name in ("libero_spatial", "libero_object"))
        line = f"| {row['method']} | {keep} | "
        assert any(
            text.startswith(line) and all(rate in text for rate in rates)
            for text in card.splitlines()
        )
    assert len(load_results(SHIPPED)) == 3200


@pytest.mark.parametrize(
    "text",
    [
        b"suite: \xff",
        b"suite: [",
        b"suite: nowhere",
        b"suite: libero_goal\ntrials: x",
        b"suite: libero_goal\ntask_ids: 3",
    ],
)
def test_a_damaged_configuration_is_named_and_left_out(tmp_path, capsys, text):
    rng = np.random.default_rng(0)
    own = write(tmp_path, cell("none", None, 0.9, rng, tasks=1, trials=3), rng)
    (own / "_runs" / "abc.yaml").write_bytes(text)
    out, err = printed(capsys, own)
    assert "none" in out
    assert "abc.yaml cannot be read" in " ".join(err.split())


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
        (["{folder}", "--table", "decided", "--format", "csv"], "--table has decided"),
        (["{folder}", "--margin", "5"], "--margin is 5"),
        (["{folder}", "--table", "sucess"], "did you mean success"),
        (["{folder}", "--html", "{folder}"], "--html is"),
        (["published", "--table", "x"], "--table has x"),
    ],
)
def test_bad_input_is_one_sentence(folder, argv, sentence, capsys):
    with pytest.raises(UserError, match=sentence):
        run([arg.format(folder=folder) for arg in argv])


def test_help_needs_nothing_heavy():
    code = (
        "import sys, json\n"
        "from vlaprune_bench.cli.report import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mujoco', 'pandas', 'matplotlib', 'plotly', 'scipy'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Two methods on four episodes; the first three of each were filmed."""
    rng = np.random.default_rng(0)
    none = cell("none", None, 1.0, rng, tasks=1, trials=4)
    adp = cell("adp", 0.5, 1.0, rng, tasks=1, trials=4)
    none["success"], adp["success"] = [True, False, False, True], [False, True, False, True]
    half = cell("adp", 0.25, 1.0, rng, tasks=1, trials=4)
    folder = write(tmp_path_factory.mktemp("runs"), pd.concat([none, adp, half]), rng)
    for row in [*none.itertuples(), *adp.itertuples()]:
        if row.trial < 3:
            name = f"libero_spatial-task0-trial{row.trial}-{row.method}-{row.episode_id}.mp4"
            with VideoWriter(folder / "_videos" / name, fps=4, seconds=1) as writer:
                writer.add(np.zeros((88, 128, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("argv", "trials"),
    [
        ([], [0, 1, 2]),
        (["--only", "lost"], [0]),
        (["--only", "gained"], [1]),
        (["--only", "failed"], [2]),
        (["--trial", "1", "--suite", "libero_spatial", "--task", "0"], [1]),
    ],
)
def test_videos_of_two_methods_side_by_side(filmed, tmp_path, argv, trials):
    run(["videos", str(filmed), "--right", "adp 0.5", "--output", str(tmp_path), *argv])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.partition("-none-adp-")[0] for name in names] == [
        f"libero_spatial-task0-trial{trial}" for trial in trials
    ]
    assert next(imageio_ffmpeg.read_frames(str(tmp_path / names[0])))["size"] == (256, 88)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--right", "adp"],
            "--right is adp, which has 2 cells; give one of 'adp 0.5', 'adp 0.25'",
        ),
        (["--right", "adp 0.6"], "--right is adp 0.6; did you mean adp 0.5"),
        (["--right", "adp 0.25"], "no episode asked for has a video of both none and adp 0.25"),
        (["--right", "adp 0.5", "--trial", "3"], "no episode asked for has a video"),
        (["--only", "won"], "--only is won"),
    ],
)
def test_videos_that_are_not_there_are_one_sentence(filmed, argv, sentence):
    with pytest.raises(UserError, match=sentence):
        run(["videos", str(filmed), *argv])
