"""Published numbers: intervals, what is noise, and ours beside them."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from tests.report.synthetic import cell
from vlaprune_bench.report.build import Report
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.published import (
    DEFINITIONS,
    against_none,
    definition,
    entries,
    published_tables,
)

ROOT = Path(__file__).parents[2]
ALL = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


def entry(source, method, keep):
    return next(
        e
        for e in entries()
        if e.source.startswith(source)
        and e.method == method
        and e.backbone == "openvla-oft"
        and (e.keep == keep)
    )


def test_the_package_has_the_table_as_it_was_gathered():
    """Both tables as gathered, one after the other; latencies of notes and trials are ours."""
    gathered = []
    for name in ("published.csv", "published_extra.csv"):
        shared = (ROOT / "../shared" / name).resolve()
        if not shared.is_file():
            pytest.skip(f"needs the gathered table: {shared} is absent")
        gathered += list(csv.DictReader(shared.read_text().splitlines()))
    own = (ROOT / "src/vlaprune_bench/report/published.csv").read_text().splitlines()
    rows = list(csv.DictReader(own))
    assert [{k: row[k] for k in there} for row, there in zip(rows, gathered, strict=True)] == (
        gathered
    )
    assert {row["trials"] for row in rows} == {"", "100"}


def test_each_rate_has_the_interval_of_500_trials():
    found = entry("ADP table", "adp", 0.5).rates["libero_spatial"]
    expected = binomtest(497, 500).proportion_ci(method="wilson")  # 99.4 %
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_printed_averages_are_those_of_the_suites():
    for e in entries():
        if e.rates and not math.isnan(e.printed_average):
            assert e.average.value == pytest.approx(e.printed_average, abs=0.0011)


def test_small_differences_are_noise_and_large_ones_are_not():
    known = entries()
    half = against_none(entry("ADP table", "adp", 0.5), known)
    assert half["libero_spatial"].low < 0 < half["libero_spatial"].high  # +0.8 points
    assert half["libero_10"].high < 0  # -3.6 points
    low = against_none(entry("ADP table", "adp", 0.3), known)
    assert low["average"].high < 0
    assert against_none(entry("ADP table", "none", 1.0), known) == {}


def test_every_printed_cost_has_a_definition():
    for e in entries():
        if not (math.isnan(e.flops) and math.isnan(e.speedup)):
            assert definition(e.source) in DEFINITIONS.values(), e.source


def test_columns_hold_one_definition_each():
    costs = next(t for t in published_tables() if t.name == "published-costs")
    for row in costs.rows:
        assert ("macs" in row) != ("flops" in row)
        if row["source"].startswith("ADP"):
            assert "macs" not in row
            assert "not a timing" in row["definition"]


def test_the_real_robot_rates_are_whole_successes_of_30():
    robot = next(t for t in published_tables() if t.name == "published-robot")
    none, adp = robot.rows
    for row in (none, adp):
        for task in "1234":
            assert 30 * row[f"t{task}"].value == pytest.approx(round(30 * row[f"t{task}"].value))
    assert none["average"].value == pytest.approx(103 / 120)
    assert adp["average"].value == pytest.approx(106 / 120)
    assert (none["latency"], adp["latency"]) == (76.9, 51.8)
    assert "+2.5 points" in robot.notes[0]
    assert "within noise; 4 of 4 tasks within noise" in robot.notes[0]


def test_ours_stand_beside_equal_backbone_method_and_keep_alone():
    rng = np.random.default_rng(0)
    frames = [
        cell("none", None, 0.97, rng, suites=ALL),
        cell("adp", 0.5, 0.95, rng, suites=ALL),
        cell("adp", 0.45, 0.95, rng),
        cell("random", 0.5, 0.95, rng),  # published by nobody
        cell("adp", 0.4, 0.0, rng, checkpoint="tiny", checkpoint_trained=False),
    ]
    made = Report(gather(pd.concat(frames, ignore_index=True)))
    success, cost = made.beside
    assert {(r["method"], r["keep"]) for r in success.rows if r["method"] != "none"} == {
        ("adp", 0.5)
    }
    spatial = next(r for r in success.rows if r["method"] == "adp" and r["suite"] == "Spatial")
    assert spatial["published"].value == pytest.approx(0.994)
    assert spatial["gap"].value == pytest.approx(spatial["ours"].value - 0.994)
    row = next(r for r in cost.rows if r["method"] == "adp")
    assert "macs_printed" not in row
    assert row["flops_printed"] == 6.43e12
    assert "not a timing" in row["differs"]
    assert any(r.get("macs_printed") == 4.013e12 for r in cost.rows if r["method"] == "none")
