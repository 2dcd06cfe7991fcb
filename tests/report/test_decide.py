"""The noise floor, and the page that decides, on episodes of known rates."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.report.synthetic import cell, paired, write
from vlaprune_bench.cli.report import run
from vlaprune_bench.measure.stats import non_inferiority
from vlaprune_bench.report.build import Report, load
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.decide import pairs_to_decide


def report(*frames, **options):
    return Report(gather(pd.concat(frames, ignore_index=True)), **options)


def method(base, keep, loss, gain, rng, **columns):
    own = cell("fastv", keep, 0.9, rng, **columns)
    own["success"] = paired(base, loss, gain, rng)
    return own


@pytest.fixture
def frames():
    """None, rerun with 4 % flips, and settings that lose nothing, a fifth, and 4 %."""
    rng = np.random.default_rng(0)
    base = cell("none", None, 0.95, rng)
    again = cell("none", None, 0.95, rng, repeat=1, batch_size=4)
    again["success"] = base.success ^ (np.arange(500) % 25 == 0)
    same, bad = method(base, 0.7, 0, 0, rng), method(base, 0.1, 0.2, 0, rng)
    close = method(base, 0.3, 0, 0, rng)
    solved = np.flatnonzero(base.success.to_numpy())[:20]
    close.loc[solved, "success"] = False
    return base, again, same, bad, close


def section(made, title):
    return next(d.sentences for d in made.decisions if d.title.startswith(title))


def test_none_against_none_is_counted_and_stands_beside_every_difference(frames):
    made = report(*frames)
    (row,) = made.noise.table.rows
    assert (row["pairs"], row["lost"] + row["gained"]) == (500, 20)
    assert row["differs"] == "repeat 1, batch 4 (first: 1)"
    rows = {r["keep"]: r for r in made.paired.rows}
    assert {r["floor"].value for r in rows.values()} == {0.04}
    assert rows[0.7]["noise"] == rows[0.3]["noise"] == "noise"
    assert rows[0.1]["noise"] == "above it"
    assert len(made.paired.rows) == 3  # reruns are no method


def test_reruns_stay_out_of_rates_and_pairs(frames):
    base, again, same, *_ = frames
    one, two = report(base, same), report(base, again, same)
    assert [r["episodes"] for r in two.overview.success.rows if r["repeat"] == "0"] == [500, 500]
    assert one.paired.rows[0]["difference"] == two.paired.rows[0]["difference"]
    assert "0" not in one.overview.shared.replace("float32", "").split(", ")  # no title says it


def test_where_none_ran_once_the_floor_is_said_to_be_unknown(frames):
    base, _, same, *_ = frames
    made = report(base, same)
    assert "Unknown" in section(made, "Noise")[0]
    assert any("No noise floor" in note for note in made.paired.notes)
    assert "noise-floor" not in [table.name for table in made.tables()]


def test_other_settings_have_floors_of_their_own(frames):
    base, again, same, *_ = frames
    rng = np.random.default_rng(1)
    other = [f.assign(scenes="fresh") for f in (base, method(base, 0.7, 0.0, 0.0, rng))]
    for frame in other:
        frame["episode_id"] = "x" + frame.episode_id
    made = report(base, again, same, *other)
    floors = {r["scenes"]: r["floor"].value for r in made.paired.rows}
    assert floors["reference"] == 0.04
    assert np.isnan(floors["fresh"])


def test_precisions_are_noise_too_and_machines_are_named(frames):
    base, *_ = frames
    half = base.assign(
        repeat=2, dtype="bfloat16", device="cuda:0 (x)", episode_id="h" + base.episode_id
    )
    (row,) = report(base, half).noise.table.rows
    assert row["differs"] == "repeat 2, dtype bfloat16, device cuda:0 (x) (first: cpu)"
    assert row["flipped"].value == 0


def test_the_page_says_what_is_decided(frames):
    made = report(*frames)
    (fine,) = section(made, "Not worse than none by 5 points")
    assert "fastv 0.7" in fine
    assert "(0 lost, 0 gained)" in fine
    (bad,) = section(made, "Worse than none")[:1]
    assert "fastv" in bad
    saved = section(made, "What is saved")[0]
    assert "total FLOPs 21.0 % less" in saved
    assert "median call 18.0 % less" in saved
    assert "time to success" in saved
    assert "s at 20 Hz, the robot waiting for each call" in saved
    assert "20 of 500 episodes flipped" in section(made, "Noise")[0]
    assert section(made, "Dead axes") == ["None."]


def test_what_is_undecided_says_how_many_episodes_would_decide_it():
    rng = np.random.default_rng(2)
    base = cell("none", None, 0.9, rng, trials=5)
    own = cell("fastv", 0.5, 0.9, rng, trials=5)
    own["success"] = base.success
    own.loc[np.flatnonzero(base.success)[:1], "success"] = False
    own.loc[np.flatnonzero(~base.success)[:1], "success"] = True
    made = report(base, own)
    (sentence,) = section(made, "Undecided")
    more = pairs_to_decide(1, 1, 50, 0.05)
    assert f"about {more} more pairs would decide it" in sentence
    scale = (50 + more) / 50
    assert non_inferiority(round(scale), round(scale), 50 + more, 0.05) < 0.025
    assert non_inferiority(1, 1, 50, 0.05) > 0.025
    assert pairs_to_decide(500, 0, 10_000, 0.05) == 0  # many, and worse for sure
    assert pairs_to_decide(5, 0, 100, 0.05) is not None
    assert pairs_to_decide(0, 0, 0, 0.05) is None


def test_an_untrained_checkpoint_decides_nothing():
    rng = np.random.default_rng(3)
    base = cell("none", None, 0.9, rng, trials=2, checkpoint_trained=False)
    assert "decided by it" in section(report(base), "Not worse")[0]


def test_it_stands_at_the_top_of_every_report(frames, tmp_path, capsys):
    folder = write(tmp_path / "runs", pd.concat(frames, ignore_index=True))
    run([str(folder), "--html", str(tmp_path / "r.html")])
    text = capsys.readouterr().out
    assert text.index("Not worse than none by 5 points") < text.index("Success rates")
    page = (tmp_path / "r.html").read_text()
    assert page.index('id="decisions"') < page.index('id="summary"')
    run([str(folder), "--format", "markdown"])
    assert capsys.readouterr().out.startswith("## What this decides")
    run([str(folder), "--format", "csv", "--table", "noise-floor"])
    assert capsys.readouterr().out.startswith("differs,pairs")


def test_a_folder_of_certificates_is_said_to_be_no_sample(frames, tmp_path):
    folder = write(tmp_path / "runs", frames[0])
    name = frames[0].run_id.iloc[0]
    text = f"# vlaprune-certify --budget 0.2\n{json.dumps({'suite': 'libero_spatial'})}\n"
    (folder / "_runs" / f"{name}.yaml").write_text(text)
    made = load(folder)
    assert made.warnings[0].startswith("vlaprune-certify ran here")
    assert made.overview.absent == [0]
