"""ADP's gate: equal to its reference, and each of its options read."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vlaprune_bench.pruning.gate import GateMemory, MotionGate
from vlaprune_bench.types import UserError

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "adp_gate.json"


def decisions(gate: MotionGate, positions: np.ndarray, windows: int, reading: str = "code"):
    memory = GateMemory()
    out = []
    for window in range(windows):
        seen = positions[max(0, window - 1) * 8 : window * 8 + 1]
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
        positions = np.array(fixture["eef_positions"][case["trajectory"]])
        out, memory = decisions(gate, positions, len(case["prune_states"]))
        assert out == [bool(state) for state in case["prune_states"]], case
        np.testing.assert_allclose(
            memory.displacements, case["deltas"][: len(memory.displacements)], atol=1e-7
        )
        rules[case["decision_method"]] += 1
    assert min(rules["avg"], rules["adjacent"]) > 30


CHANGES = {
    "rule": "avg",
    "lookback": 4,
    "hold_last_state": False,
    "displacement": "net",
    "min_delta_pos": 0.01,
    "max_consecutive_pruned": 1,
    "initial_state": True,
}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_decisions(option):
    steps = np.random.default_rng(0).normal(scale=0.01, size=(8 * 40, 3))
    positions = np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
    base, _ = decisions(MotionGate(), positions, 40, "paper")
    changed, _ = decisions(MotionGate(**{option: CHANGES[option]}), positions, 40, "paper")
    assert base != changed


def test_readings_differ_in_path_length_and_at_the_minimum():
    there_and_back = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.0, 0, 0]])
    assert MotionGate().measure(there_and_back, "paper") == pytest.approx(0.2)
    assert MotionGate().measure(there_and_back, "code") == 0.0
    gate = MotionGate(lookback=2, displacement="net", hold_last_state=False)
    windows = [np.array([[0.0, 0, 0], [d, 0, 0]]) for d in (0.2, 0.1, 0.1)]
    for reading, expected in (("paper", False), ("code", True)):
        memory = GateMemory()
        assert [gate.decide(memory, w, reading) for w in windows][-1] is expected


@pytest.mark.parametrize(
    ("option", "value"),
    [("rule", "median"), ("lookback", 0), ("min_delta_pos", -1.0), ("displacement", "euclid")],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(UserError, match=rf"--{option.replace('_', '-')} is {value}"):
        MotionGate(**{option: value})
