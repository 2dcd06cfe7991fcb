"""ADP's gate: equal to its reference, and each of its options read."""

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from vlaprune_bench.pruning.gate import GateMemory, MotionGate
from vlaprune_bench.types import UserError

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "adp_gate.json"


def poses(positions, angles=0.0):
    """(n, 7) poses: positions, turned about z by `angles` (radians)."""
    half = np.broadcast_to(np.asarray(angles) / 2, len(positions))
    zero = np.zeros(len(positions))
    return np.column_stack([positions, zero, zero, np.sin(half), np.cos(half)])


def decisions(gate: MotionGate, trajectory: np.ndarray, windows: int, reading: str = "code"):
    memory = GateMemory()
    out = []
    for window in range(windows):
        seen = trajectory[max(0, window - 1) * 8 : window * 8 + 1]
        out.append(gate.decide(memory, seen, reading))
    return out, memory


def test_gate_equals_the_reference_in_every_case():
    fixture = json.loads(GOLDEN.read_text())
    rules = Counter()
    for case in fixture["cases"]:
        gate = MotionGate(
            rule=case["decision_method"],
            lookback=case["window"] - 1,
            hold_last_state=case["hold_last_state"],
            displacement=case["delta_method"],
            min_delta_pos=case["min_delta_pos"],
            max_consecutive_pruned=case["max_consecutive"] * case["limit_consecutive"],
            initial_state=bool(case["initial_state"]),
        )
        trajectory = poses(np.array(fixture["eef_positions"][case["trajectory"]]))
        out, memory = decisions(gate, trajectory, len(case["prune_states"]))
        assert out == [bool(state) for state in case["prune_states"]], case
        np.testing.assert_allclose(
            memory.displacements, case["deltas"][: len(memory.displacements)], atol=1e-7
        )
        rules[case["decision_method"]] += 1
    assert min(rules["avg"], rules["adjacent"]) > 30


CHANGES = {
    "rule": "avg",
    "window_steps": 16,
    "lookback": 4,
    "hold_last_state": False,
    "displacement": "net",
    "min_delta_pos": 0.01,
    "lever_arm": 0.2,
    "min_delta_rot": 0.2,
    "hysteresis_up": 0.2,
    "hysteresis_down": 0.2,
    "tolerance": 0.01,
    "max_consecutive_pruned": 1,
    "initial_state": True,
}


def random_walk(windows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    steps = random.normal(scale=0.01, size=(8 * windows, 3))
    turns = random.normal(scale=0.1, size=8 * windows)
    positions = np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
    return poses(positions, np.concatenate([[0.0], np.cumsum(turns)]))


def test_every_option_is_walked():
    assert set(CHANGES) == {f.name for f in fields(MotionGate)}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_decisions(option):
    walk = random_walk(40)
    # the rotation dead zone needs a lever arm to act on
    base = MotionGate(lever_arm=0.2) if option == "min_delta_rot" else MotionGate()
    before, _ = decisions(base, walk, 40, "paper")
    after, _ = decisions(replace(base, **{option: CHANGES[option]}), walk, 40, "paper")
    assert before != after


def line(*displacements):
    """What each call sees: nothing yet, then one window of a single straight step each."""
    ends = np.cumsum([0.0, *displacements])
    points = poses(np.column_stack([ends, 0 * ends, 0 * ends]))
    return [points[:1], *(points[i : i + 2] for i in range(len(displacements)))]


def last(gate, windows, reading="code"):
    memory, gate = GateMemory(), replace(gate, window_steps=1)
    return [gate.decide(memory, window, reading) for window in windows][-1]


def test_calls_within_a_window_share_its_decision():
    walk = random_walk(40)
    gate = MotionGate()
    by_window, _ = decisions(gate, walk, 40)
    memory = GateMemory()
    by_step = [gate.decide(memory, walk[max(0, i - 1) : i + 1], "code") for i in range(8 * 40)]
    assert by_step == [decision for decision in by_window for _ in range(8)]


def test_readings_differ_in_path_length_and_at_the_minimum():
    there_and_back = poses(np.array([[0.0, 0, 0], [0.1, 0, 0], [0.0, 0, 0]]))
    assert MotionGate().measure(there_and_back, "paper") == pytest.approx(0.2)
    assert MotionGate().measure(there_and_back, "code") == 0.0
    gate = MotionGate(lookback=2, hold_last_state=False)
    assert last(gate, line(0.25, 0.125, 0.125), "paper") is False
    assert last(gate, line(0.25, 0.125, 0.125), "code") is True


def test_a_lever_arm_adds_rotation_beyond_its_dead_zone():
    turning = poses(np.zeros((3, 3)), [0.0, 0.3, 0.4])
    assert MotionGate().measure(turning, "paper") == 0.0
    assert MotionGate(lever_arm=0.5).measure(turning, "paper") == pytest.approx(0.2)
    assert MotionGate(lever_arm=0.5, min_delta_rot=0.2).measure(turning, "paper") == pytest.approx(
        0.15
    )
    # q and -q are the same orientation
    turning[1, 3:] *= -1
    assert MotionGate(lever_arm=0.5).measure(turning, "paper") == pytest.approx(0.2)


def test_lookback_widens_the_extremes():
    windows = line(0.5, 0.125, 0.125, 0.25)
    assert last(MotionGate(lookback=2), windows) is True  # above 0.125 twice
    assert last(MotionGate(lookback=3), windows) is False  # between 0.125 and 0.5: hold


def test_hysteresis_and_tolerance_move_the_thresholds():
    up = line(0.10, 0.10, 0.11)
    assert last(MotionGate(), up) is True
    assert last(MotionGate(hysteresis_up=0.2), up) is False
    down = line(0.10, 0.10, 0.12, 0.095)
    assert last(MotionGate(), down) is False
    assert last(MotionGate(hysteresis_down=0.2), down) is True  # not low enough: hold pruned
    near = line(0.10, 0.10, 0.099)
    assert last(MotionGate(), near) is False
    assert last(MotionGate(tolerance=0.002), near) is True


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rule", "median"),
        ("lookback", 0),
        ("min_delta_pos", -1.5),
        ("displacement", "euclid"),
        ("lever_arm", -0.5),
        ("hysteresis_up", -0.1),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(UserError, match=rf"--{option.replace('_', '-')} is {value}"):
        MotionGate(**{option: value})
