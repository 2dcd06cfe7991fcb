"""Latencies measured elsewhere: a number, a profile, quantiles; and what is refused."""

import pandas as pd
import pytest

from vlaprune_bench.measure.latencies import latencies, latency_identity, latency_name
from vlaprune_bench.types import UserError

TABLE = """\
# a robot's
method, keep, pruned, quantile, latency_ms
none,,, 0.5, 76.9
none,,, 0.9, 90
adp, 0.5, true, 0.5, 51.8
static, 0.5,, 0.1, 50
static, 0.5,, 0.9, 60
"""


@pytest.fixture
def table(tmp_path):
    def write(text=TABLE, name="robot.csv"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_a_number_is_every_calls():
    assert latencies("80", "adp", 0.5, True).at(0.01) == 80
    assert latency_name("080.0") == latency_name("80") == "80"


def test_quantiles_of_a_method(table):
    path = table()
    assert latencies(path, "adp", 0.5, True).at(0.99) == 51.8
    assert latencies(path, "adp", 0.5, False).at(0.7) == pytest.approx((76.9 + 90) / 2)  # as none's
    for pruned in (True, False):
        found = latencies(path, "static", 0.5, pruned)
        assert [found.at(share) for share in (0.0, 0.1, 0.5, 0.9, 1.0)] == [50, 50, 55, 60, 60]
    anybody = table("quantile,latency_ms\n0.5,10\n", "any.csv")
    assert latencies(anybody, "fastv", 0.25, True).at(0.5) == 10


def test_a_profile(tmp_path):
    path = tmp_path / "profile.parquet"
    rows = [("none", None, 80.0, 82.0, 90.0), ("adp", 0.5, 50.0, 52.0, 60.0)]
    names = [f"latency_total_p{p}_ms" for p in (50, 90, 99)]
    pd.DataFrame(rows, columns=["method", "keep", *names]).to_parquet(path)
    assert latencies(str(path), "adp", 0.5, True).at(0.7) == pytest.approx(51)
    assert latencies(str(path), "adp", 0.5, False).at(0.1) == 80
    assert latencies(str(path), "none", None, False).at(1.0) == 90


def test_a_file_is_known_by_its_bytes(table):
    one, copy = table(), table(name="copy.csv")
    assert latency_identity(one) == latency_identity(copy)
    before = latency_identity(one)
    table(TABLE + "adp, 0.25, true, 0.5, 40\n")
    assert latency_identity(one) != before
    assert latencies(one, "adp", 0.25, True).at(0.5) == 40


@pytest.mark.parametrize(
    ("latency", "sentence"),
    [
        ("-1", "--latency is -1; give ms from 0 on"),
        ("nan", "--latency is nan; give ms"),
        ("fast", "--latency is fast; give ms"),
        ("gone.csv", "there is no such file"),
    ],
)
def test_what_is_no_latency(latency, sentence):
    with pytest.raises(UserError, match=sentence):
        latency_name(latency)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TABLE, "no pruned calls of fastv keep 0.5; it has: adp keep 0.5, none, static keep 0.5"),
        ("quantile,ms\n0.5,1\n", "columns are quantile, ms; it must have quantile and latency_ms"),
        ("quantile,latency_ms\n50,1\n", "a quantile from 0 to 1"),
        ("quantile,latency_ms\n0.5,x\n", "its latency_ms is x; it must be a number"),
        ("quantile,latency_ms\n0.5,-1\n", "a latency_ms from 0 on"),
        ("quantile,latency_ms\n", "each row must have"),
        ("quantile,latency_ms\n0.5,9\n0.9,8\n", "must not be a shorter latency"),
        ("quantile,latency_ms\n0.5,9\n0.5,9\n", "more than once"),
        ("quantile,latency_ms,pruned\n0.5,9,maybe\n", "pruned is maybe; it must be true or false"),
        ("quantile,latency_ms,keep\n0.5,9,half\n", "keep is half; it must be a number"),
        ('"', "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_table_that_does_not_say_it(table, text, sentence):
    with pytest.raises(UserError, match=sentence):
        latencies(table(text), "fastv", 0.5, True)


def test_a_parquet_that_is_no_profile(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="no profile of ours"):
        latencies(str(path), "fastv", 0.5, True)
