"""What calls cost in time: numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from tests.report.synthetic import cell
from vlaprune_bench.measure.stats import mean_difference
from vlaprune_bench.report.build import Report
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.charts import charts
from vlaprune_bench.report.decide import as_text
from vlaprune_bench.report.waiting import break_even


def episodes(method, successes, ms, steps, clock="hold", path=1.0):
    """One task's trials at one latency: each takes `steps`, a tenth of them held."""
    made = cell(
        method,
        None if method == "none" else 0.5,
        0.5,
        np.random.default_rng(0),
        tasks=1,
        trials=len(successes),
        clock=clock,
        latency="" if clock == "stop" else f"{ms}",
        latency_source="" if clock == "stop" else f"{ms} ms",
        drawn_latency_mean_ms=None if clock == "stop" else float(ms),
    )
    made["success"] = np.array(successes, bool)
    made["steps"] = steps
    made["held_steps"] = steps // 10
    made["time_to_success_s"] = np.where(made.success, steps * 0.05, np.nan)
    made["path_m"] = path + 0.1 * np.arange(len(successes))
    return made


@pytest.fixture
def report():
    frames = [
        episodes("none", [1, 1, 1, 0], 0, 100, clock="stop"),
        episodes("none", [1, 1, 0, 0], 100, 200),
        episodes("adp", [1, 1, 1, 1], 0, 100, clock="stop", path=1.5),
        episodes("adp", [1, 1, 1, 0], 100, 150, path=1.5),
        episodes("adp", [0, 0, 0, 0], 200, 220),
    ]
    return Report(gather(pd.concat(frames, ignore_index=True)))


def row(table, **wanted):
    (found,) = [r for r in table.rows if all(r.get(k) == v for k, v in wanted.items())]
    return found


def test_success_time_and_tasks_an_hour(report):
    none = row(report.waiting.latency, method="none", clock="hold")
    assert (none["ms"], none["success"].value, none["time"], none["held"]) == (100, 0.5, 10, 0.1)
    assert none["hourly"] == pytest.approx(3600 * 2 / (4 * 200 * 0.05))
    assert none["break_even"] is None
    stop = row(report.waiting.latency, method="none", clock="stop")
    assert (stop["ms"], stop["time"]) == (0, 5)


def test_break_even_against_none_at_its_own_latency(report):
    """adp: 100, 75, 0 % at 0, 100, 200 ms; none has 50 % at 100 ms: two thirds on the way down."""
    adp = row(report.waiting.latency, method="adp", latency_source="100 ms")
    assert adp["break_even"] == "133"
    assert break_even([0, 100], [0.9, 0.8], 0.8) == "over 100"
    assert break_even([0, 100], [0.9, 0.8], 0.95) == "under 0"
    assert break_even([0, 100, 200], [0.9, 0.5, 0.9], 0.8) == "over 200"


def test_what_a_millisecond_is_worth(report):
    none = row(report.waiting.worth, method="none")
    assert none["points"] == pytest.approx(0.025)  # 25 points lost over 100 ms
    assert none["range"] == "0 to 100"
    adp = row(report.waiting.worth, method="adp")
    assert adp["points"] == pytest.approx(0.05)


def test_motion_is_compared_on_the_same_scenes(report):
    adp = row(report.waiting.motion, method="adp", clock="stop")
    assert adp["path_m"] == pytest.approx(1.65)
    gap = adp["path_m_gap"]
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(row(report.waiting.motion, method="none", clock="stop")["rms_jerk"])


def test_a_mean_of_differences_has_students_interval():
    found = mean_difference(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 * 1 / np.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)
    assert np.isnan(mean_difference(np.array([1.0])).low)
    assert np.isnan(mean_difference(np.array([])).value)


def test_the_curve_and_the_page(report):
    (chart,) = [c for c in charts(report) if c.group == "Success over latency"]
    assert [(s.name, list(s.x)) for s in chart.series] == [
        ("none", [0, 100]), ("adp 0.5", [0, 100, 200]),
    ]  # fmt: skip
    assert "time to success" not in as_text(report.decisions, 100)  # nothing is decided of four


def test_a_folder_whose_world_always_waits_has_no_table_of_time():
    found = Report(gather(episodes("none", [1, 1], 0, 100, clock="stop"))).waiting
    assert [table.name for table in found.tables] == ["motion"]
