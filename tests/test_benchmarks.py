"""Benchmarks run, in a small form: what they print is theirs to judge, on a quiet machine."""

import re
import sys

import pytest

from benchmarks import bench_sim, bench_workers


@pytest.mark.slow
@pytest.mark.sim
def test_workers_against_one(monkeypatch, capsys):
    argv = "bench_workers --trials 8 --steps 4 --turns 1"
    monkeypatch.setattr(sys, "argv", argv.split())
    bench_workers.main()  # its exit code says whether the aim was met
    assert re.search(r"ratio: \d+\.\d\dx, median of 1", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.sim
def test_the_simulator_against_the_reference(monkeypatch, capsys, lite_assets):
    argv = f"bench_sim --assets {lite_assets.path} --tasks libero_object:0 --steps 8 --turns 1"
    monkeypatch.setattr(sys, "argv", argv.split())
    assert bench_sim.main() == 0
    printed = capsys.readouterr().out
    for what in (*bench_sim.TARGETS, "reset, new", "reset, known", "of it private"):
        assert re.search(rf"libero_object:0 +{what} +[\d.]+ +[\d.]+ +[\d.]+x", printed), what
