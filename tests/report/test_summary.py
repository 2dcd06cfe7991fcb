"""Tables: success rates with intervals, costs weighted by calls, errors apart."""

from dataclasses import asdict

import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binomtest

from tests.rows import episode_row
from vlaprune_bench.report.summary import summarise, summary_table, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (417, 500)])
def test_wilson_equals_scipy(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high))


def frame(*rows):
    return pd.DataFrame([asdict(episode_row(**row)) for row in rows])


def test_errors_are_no_failures_and_have_a_column():
    episodes = frame(
        {"success": True, "calls": 10, "total_flops_mean": 1e12},
        {"success": False, "calls": 30, "total_flops_mean": 3e12},
        {"success": None, "status": "error", "error": "boom", "calls": 0, "total_flops_mean": None,
         "latency_p50_ms": None, "pruned_call_fraction": None, "visual_tokens_kept_mean": None,
         "llm_prefill_macs_mean": None},
    )  # fmt: skip
    (row,) = summarise(episodes).to_dict("records")
    assert (row["episodes"], row["errors"], row["success_rate"]) == (2, 1, 0.5)
    assert row["total_tflops"] == pytest.approx(2.5)  # (10 x 1 + 30 x 3) / 40 calls


def test_options_make_rows_of_their_own_and_none_has_no_keep():
    episodes = frame(
        {"method": "none", "keep": None, "method_options": "{}"},
        {"method": "static", "keep": 0.5, "method_options": '{"qk_layer": 0}'},
        {"method": "static", "keep": 0.5, "method_options": '{"qk_layer": 1}'},
    )
    summary = summarise(episodes)
    assert len(summary) == 3
    console = Console(width=80, record=True)
    console.print(summary_table(summary))
    text = console.export_text()
    assert text.count("static") == 2
    assert "openvla-oft, tiny-untrained, lite, float32, sdpa, libero_spatial" in text
    assert "…" not in text


def test_protocols_and_executed_steps_are_rows_of_their_own():
    """Not one rate of both."""
    openpi = {"protocol": "openpi", "scenes": "fresh", "execute_steps": 5}
    rows = summarise(
        frame({"success": True}, {"success": False, **openpi}, {"execute_steps": 4})
    ).set_index(["protocol", "scenes", "execute_steps"])
    assert rows.success_rate.to_dict() == {
        ("openpi", "fresh", "5"): 0,
        ("openvla", "reference", "4"): 0,
        ("openvla", "reference", "8"): 1,
    }
