"""What pruning loses under a change of scenes: numbers worked out by hand, and known truth."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from tests.report.synthetic import cell, write
from tests.report.test_page import film
from vlaprune_bench.measure.stats import (
    Z95,
    change_of_difference,
    change_p,
    combine,
    paired_difference,
    rate,
)
from vlaprune_bench.report.build import Report, load
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.charts import charts
from vlaprune_bench.report.page import page
from vlaprune_bench.report.published_match import matches
from vlaprune_bench.report.runs import plan
from vlaprune_bench.sim.variants import identity, parse

CAMERA, BLIND, MUTE = "camera:3", "blackout:5", "words:5"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def episodes(method, successes, word="", suite="libero_spatial", **columns):
    """One task's trials with the outcomes told, under a variant named by its word."""
    made = cell(
        method,
        None if method == "none" else 0.5,
        0.5,
        np.random.default_rng(0),
        tasks=1,
        trials=len(successes),
        variants=identity([parse(word)]) if word else "",
        perturbation=word,
        **columns,
    )
    made["success"] = np.array(successes, bool)
    return made.assign(suite=suite)


def report(*frames):
    return Report(gather(pd.concat(frames, ignore_index=True)))


def row(table, **wanted):
    (found,) = [r for r in table.rows if all(r.get(k) == v for k, v in wanted.items())]
    return found


def near(found):
    return pytest.approx((found.value, found.low, found.high))


def numbers(found):
    return found.value, found.low, found.high


NONE = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
PRUNED = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0]
NONE_MOVED = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
PRUNED_MOVED = [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.fixture
def four():
    """The two methods with and without a change, the last without its last trial."""
    return report(
        episodes("none", NONE),
        episodes("adp", PRUNED),
        episodes("none", NONE_MOVED, CAMERA),
        episodes("adp", PRUNED_MOVED, CAMERA).iloc[:9],
        episodes("none", [0] * 10, BLIND),
        episodes("none", [1, 0] * 5, MUTE),
    )


def test_four_episodes_of_a_scene_tell_whether_pruning_loses_more(four):
    found = row(four.robustness.loss, method="adp")
    assert (found["dimension"], found["severity"]) == ("camera orbit agentview", "3")
    assert (found["suite"], found["scenes"]) == ("Spatial", "9 the same")
    # nine scenes: one lost and one gained of the nominal ones, three lost of the others
    before, after = np.array([0] * 7 + [-1, 1]), np.array([0, 0, -1, -1, -1, 0, 0, 0, 0])
    assert found["before"] == paired_difference(1, 1, 9)
    assert found["after"] == paired_difference(3, 0, 9)
    assert found["extra"].value == pytest.approx(-3 / 9)
    assert found["extra"] == change_of_difference(before, after, same=True)
    assert found["p_holm"] == found["p"] == change_p(before, after, same=True)
    assert found["verdict"] == "undecided"


def test_success_stands_beside_the_nominal_one_and_the_floor(four):
    found = row(four.robustness.success, method="adp")
    assert (found["nominal"], found["changed"]) == (rate(8, 10), rate(3, 9))
    # of nine scenes five are lost and none is gained; blind none solved nothing
    assert found["change"] == paired_difference(5, 0, 9)
    assert found["above"] == paired_difference(0, 3, 9)
    assert row(four.robustness.success, method="none")["change"] == paired_difference(2, 0, 10)
    assert {r["dimension"] for r in four.robustness.success.rows} == {"camera orbit agentview"}


def test_controls_are_floors_beside_none(four):
    found = row(four.robustness.floors, method="none")
    assert (found["success"], found["blind"], found["wordless"]) == (
        rate(8, 10),
        rate(0, 10),
        rate(5, 10),
    )
    assert found["above_blind"] == paired_difference(0, 8, 10)
    assert found["above_wordless"] == paired_difference(1, 4, 10)
    assert len(four.robustness.floors.rows) == 2
    assert [t.name for t in four.tables()].count("floors") == 1


def test_what_is_not_above_the_blind_floor_is_told(four):
    assert not [w for w in four.warnings if w.startswith("none is not above")]
    (told,) = [w for w in four.warnings if "blind floor" in w]
    # 3 of 9 against 0 of 9: Tango's interval reaches below 0; 8 of 10 does not
    assert paired_difference(0, 3, 9).low <= 0 < paired_difference(0, 8, 10).low
    assert told.startswith("adp 0.5 is not above")
    assert "camera orbit agentview 3 on Spatial (+33.3" in told
    assert "nominal" not in told


def test_half_black_and_late_cameras_are_no_floor():
    made = report(
        episodes("none", NONE),
        episodes("none", NONE, "blackout:4"),
        episodes("none", NONE, "blackout:5,camera=wrist"),
        episodes("none", NONE, "words:4"),
    )
    assert not made.robustness.floors.rows
    assert {r["dimension"] for r in made.robustness.success.rows} == {
        "blackout from both",
        "blackout from wrist",
        "words blank",
    }
    assert "none has not run blind" in made.robustness.success.notes[1]
    assert not [w for w in made.warnings if "blind floor" in w]


def test_without_nominal_pairs_nothing_is_made_up(four):
    made = report(
        episodes("none", NONE_MOVED, CAMERA),
        episodes("adp", PRUNED_MOVED, CAMERA),
        episodes("none", NONE, dtype="bfloat16"),
        episodes("adp", PRUNED, dtype="bfloat16"),  # of another setting
    )
    assert not made.robustness.loss.rows
    assert "nominal" not in row(made.robustness.success, method="adp")
    assert any("no nominal pairs" in w and "adp 0.5, camera" in w for w in made.warnings)


def test_a_nominal_folder_has_nothing_of_it():
    made = report(episodes("none", NONE), episodes("adp", PRUNED))
    assert made.robustness.tables == []
    assert made.robustness.warnings == []
    assert not [c for c in charts(made) if c.group == "Success over severity"]


def plus(method, successes, name="task_0_view_0_0_100_0_0_initstate_0", task=0):
    """Tasks of LIBERO-Plus, one trial each, that come from the first task of the base suite."""
    made = episodes(method, successes, suite="libero_plus_spatial", dimension="camera")
    numbers = range(task, task + len(made))
    return made.assign(
        task=numbers, trial=0, task_name=[f"{name}_{k}" for k in numbers], episode_id=[
            f"{method}{k:08d}" for k in numbers
        ]
    )  # fmt: skip


def test_a_perturbed_suite_is_held_against_the_tasks_it_comes_from():
    other = [
        episodes(method, [0] * 10, task_name="other").assign(task=1) for method in ("none", "adp")
    ]
    made = report(
        episodes("none", NONE),
        episodes("adp", PRUNED),
        *other,
        plus("none", [1] * 6 + [0] * 2),
        plus("adp", [1] * 3 + [0] * 5),
        episodes("none", [1] + [0] * 9, BLIND),
    )
    assert made.results.episodes.budget.unique().tolist() == ["protocol"]
    found = row(made.robustness.loss, method="adp")
    assert (found["dimension"], found["suite"]) == ("camera", "libero_plus_spatial")
    assert found["scenes"] == "8 beside 10 others"
    before, after = np.repeat([0, -1, 1], [8, 1, 1]), np.repeat([0, -1], [5, 3])
    assert found["extra"] == change_of_difference(before, after, same=False)
    independent = combine([paired_difference(3, 0, 8), paired_difference(1, 1, 10)], [1, -1])
    assert numbers(found["extra"]) == near(independent)
    there = row(made.robustness.success, method="adp")
    assert (there["nominal"], there["changed"]) == (rate(8, 10), rate(3, 8))
    assert numbers(there["change"]) == near(combine([rate(3, 8), rate(8, 10)], [1, -1]))
    assert numbers(there["above"]) == near(combine([rate(3, 8), rate(1, 10)], [1, -1]))


def test_the_average_leaves_perturbed_suites_out():
    made = report(
        episodes("none", NONE),
        episodes("none", [1] * 10, suite="libero_object", max_steps=280),
        plus("none", [0] * 8),
    )
    (found,) = made.overview.success.rows
    assert found["average"].value == pytest.approx(0.9)
    assert "Perturbed suites are in no average." in made.overview.success.notes


def test_suites_are_pooled_and_corrected_in_families_of_their_own():
    frames = []
    for suite, steps in (("libero_spatial", 220), ("libero_object", 280)):
        frames += [
            episodes("none", NONE * 10, suite=suite, max_steps=steps),
            episodes("adp", NONE * 10, suite=suite, max_steps=steps),
            episodes("none", NONE_MOVED * 10, CAMERA, suite=suite, max_steps=steps),
            episodes("adp", PRUNED_MOVED * 10, CAMERA, suite=suite, max_steps=steps),
        ]
    table = report(*frames).robustness.loss
    whole, *single = table.rows
    assert [r["suite"] for r in table.rows] == ["all", "Spatial", "Object"]
    assert whole["scenes"] == "200 the same"
    assert whole["extra"].value == pytest.approx(-0.2)
    assert whole["p_holm"] == whole["p"] < 0.001
    assert whole["verdict"] == "loses more"
    assert [r["p_holm"] for r in single] == pytest.approx([2 * r["p"] for r in single])


@pytest.mark.parametrize("same", [True, False])
def test_a_p_value_is_the_level_whose_interval_reaches_0(same):
    before, after = np.repeat([0, -1, 1], [80, 8, 12]), np.tile([0, -1, 0, 0], 25)
    p = change_p(before, after, same)
    assert 0 < p < 0.05
    wide = change_of_difference(before, after, same, -1 * _quantile(p / 2))
    assert wide.high == pytest.approx(0, abs=1e-5)
    assert change_of_difference(before, after, same, Z95).high < 0
    assert change_p(before, before, same) == 1.0
    assert math.isnan(change_p(before[:0], after[:0], same))


def _quantile(p):
    from scipy.special import ndtri

    return float(ndtri(p))


@pytest.mark.parametrize("same", [True, False])
def test_intervals_hold_the_truth_as_often_as_they_say(rng, same):
    """Scenes differ in how hard they are, and pruning hurts the hard ones: losses go together."""
    held, n, repeats = 0, 120, 300
    for _ in range(repeats):
        hard = rng.random(n)
        other = hard if same else rng.random(n)
        before = -(rng.random(n) < 0.2 * hard).astype(int) + (rng.random(n) < 0.05)
        after = -((other > 0.6) & (rng.random(n) < 0.5)).astype(int) + (rng.random(n) < 0.05)
        found = change_of_difference(before, after, same)
        # mean of 0.2 x hardness is 0.1; 0.4 x 0.5 is 0.2
        held += found.low <= -0.1 <= found.high
    assert 0.92 <= held / repeats <= 0.99


def test_severity_has_a_curve_from_the_nominal_scenes_over_the_floor(four):
    made = report(
        four.results.episodes.drop(columns=["cell", "pair", "budget"]),
        episodes("none", NONE_MOVED, "camera:5"),
        episodes("adp", [0] * 10, "camera:5"),
    )
    (chart,) = [c for c in charts(made) if c.group == "Success over severity"]
    assert chart.variant == "camera orbit agentview, Spatial"
    lines = {series.name: series for series in chart.series}
    assert lines["adp 0.5"].x == [0, 3, 5]
    assert lines["adp 0.5"].y == pytest.approx([80, 100 * 3 / 9, 0])
    assert lines["none"].y == pytest.approx([80, 60, 60])
    assert lines["none blind"].dashed
    assert lines["none blind"].y == [0, 0]


def test_variants_are_not_held_against_published_nominal_rates(four):
    from vlaprune_bench.report.published import entries

    entry = next(e for e in entries() if (e.backbone, e.method) == ("openvla-oft", "none"))
    kinds = {c.setting["perturbation"]: c for c in four.results.cells if c.method == "none"}
    assert matches(kinds[""], entry)
    assert not matches(kinds[CAMERA], entry)


def test_the_page_has_tables_and_first_frames(four, tmp_path):
    frame = four.results.episodes.drop(columns=["cell", "pair", "budget"])
    folder = write(tmp_path / "runs", frame, np.random.default_rng(0))
    filmed = frame[(frame.trial == 0) & frame.perturbation.isin(["", CAMERA])]
    film(folder, filmed)
    text = page(load(folder), tmp_path, [])
    for name in ("robustness", "interaction", "floors"):
        assert f'id="table-{name}"' in text
    assert text.count("data:image/jpeg;base64,") == 2
    first, second = (
        text.index(f"<figcaption>{name} on Spatial</figcaption>")
        for name in ("nominal scenes", "camera orbit agentview 3")
    )
    assert first < second


def test_several_variants_are_one_change_and_two_scales_of_one_word_are_two():
    both = identity([parse("camera:2"), parse("noise:4,kind=fog")])
    old = json.dumps([{**json.loads(both)[0], "amount": 11}])
    made = report(
        episodes("none", NONE),
        episodes("none", NONE).assign(variants=both, perturbation="camera:2 noise:4,kind=fog"),
        episodes("none", NONE, "camera:2"),
        episodes("none", NONE).assign(variants=old, perturbation="camera:2"),
    )
    names = [(r["dimension"], r["severity"]) for r in made.robustness.success.rows]
    assert ("camera orbit agentview + noise fog both", "2+4") in names
    assert len(set(names)) == 3


def test_a_run_of_a_perturbed_suite_says_what_it_asked_for_or_that_nobody_knows(monkeypatch):
    monkeypatch.setenv("VLAPRUNE_LIBERO_PLUS", "/nowhere")
    text = "suite: libero_plus_spatial\ndimension: camera\nbase_tasks: [0]\ntrials: 50\n"
    with pytest.warns(UserWarning, match="what runs of libero_plus_spatial lack is not counted"):
        assert plan(text) == set()
