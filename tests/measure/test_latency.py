"""The stopwatch."""

import pytest
import torch

from vlaprune_bench.measure import latency
from vlaprune_bench.measure.latency import StageTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until told."""
    now = [0.0]
    monkeypatch.setattr(latency, "perf_counter", lambda: now[0])
    return now


def test_time_goes_to_the_current_stage(clock):
    timer = StageTimer(torch.device("cpu"))
    for stage, seconds in (
        ("vision", 1.0),
        ("prefill", 2.0),
        ("scoring", 4.0),
        ("prefill", 8.0),
        ("head", 16.0),
    ):
        clock[0] += seconds
        timer.enter(stage)
    clock[0] += 32.0
    timer.stop()
    assert timer.ms == {
        "preprocess": 1000.0,
        "vision": 2000.0,
        "prefill": 4000.0 + 16000.0,
        "scoring": 8000.0,
        "decode": 0.0,
        "denoise": 0.0,
        "head": 32000.0,
    }
    assert timer.total_ms == 63000.0


def test_unknown_stage():
    with pytest.raises(KeyError, match="lunch"):
        StageTimer(torch.device("cpu")).enter("lunch")


def test_cuda_stages_are_events_and_only_the_ends_wait(clock, monkeypatch):
    """On a made-up device whose work takes as long as the clock says."""
    waits = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = clock[0]

        def synchronize(self):
            waits.append("event")

        def elapsed_time(self, other):
            return 1000.0 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append("device"))
    timer = StageTimer(torch.device("cuda", 0))
    for stage, seconds in (("vision", 1.0), ("prefill", 2.0), ("vision", 4.0), ("head", 8.0)):
        clock[0] += seconds
        timer.enter(stage)
    assert waits == ["device"]
    clock[0] += 16.0
    timer.stop()
    assert waits == ["device", "event"]
    assert (timer.ms["preprocess"], timer.ms["vision"]) == (1000.0, 2000.0 + 8000.0)
    assert (timer.ms["prefill"], timer.ms["head"]) == (4000.0, 16000.0)
    assert timer.total_ms == 31000.0
