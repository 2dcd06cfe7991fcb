"""The four forms of a table."""

import csv
import io
import math

import pytest

from vlaprune_bench.measure.stats import Rate
from vlaprune_bench.report.table import Column, Table, latex, markdown, show, terminal, to_csv

TABLE = Table(
    "success",
    "Success & more",
    [
        Column("method", "method", leading=True),
        Column("rate", "Spatial", "percent"),
        Column("flops", "total\nFLOPs", "flops"),
        Column("p", "p", "p"),
    ],
    [
        {"method": "none_x|y", "rate": Rate(0.5, 0.4, 0.6), "flops": 4.01e12, "p": 0.0001},
        {"method": "adp", "rate": Rate(math.nan), "p": math.nan},
    ],
    ["50 % of it."],
)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (Rate(0.1234, 0.1, 0.2), "percent", "12.3 [10.0, 20.0]"),
        (Rate(-0.01, -0.02, 0.0), "points", "-1.0 [-2.0, +0.0]"),
        (None, "text", "–"),
        (math.nan, "ms", "–"),
        (0, "count", "0"),
        (1.7e9, "flops", "1.7 G"),
        (0.0004, "p", "<0.001"),
    ],
)
def test_values(value, kind, text):
    assert show(value, kind) == text


def test_markdown():
    lines = markdown(TABLE).splitlines()
    assert lines[2] == "| method | Spatial | total FLOPs | p |"
    assert lines[4] == r"| none_x\|y | 50.0 [40.0, 60.0] | 4.01 T | <0.001 |"
    assert lines[5] == "| adp | – | – | – |"


def test_latex_escapes_and_balances():
    text = latex(TABLE)
    assert r"none\_x|y & 50.0 {\scriptsize [40.0, 60.0]} & 4.01 T & $<$0.001 \\" in text
    assert r"Success \& more. 50 \% of it." in text
    assert text.count("{") == text.count("}")


def test_csv_has_full_numbers_and_interval_columns():
    one, two = csv.DictReader(io.StringIO(to_csv(TABLE)))
    assert (float(one["rate"]), float(one["rate_low"]), float(one["flops"])) == (0.5, 0.4, 4.01e12)
    assert two["rate"] == two["flops"] == ""


@pytest.mark.parametrize("width", [30, 80])
def test_nothing_is_cut_on_a_narrow_terminal(width):
    text = terminal(TABLE, width)
    assert max(map(len, text.split("\n"))) <= width
    for piece in ("none_x|y", "50.0", "[40.0, 60.0]", "4.01 T", "<0.001"):
        assert piece in text
    assert text.count("method") == (2 if width == 30 else 1)
