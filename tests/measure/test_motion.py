"""Quality of execution, worked out by hand."""

import numpy as np
import pytest

from vlaprune_bench.measure.motion import describe_motion


def gripper(*commands):
    return [np.array([0.0] * 6 + [command]) for command in commands]


def test_a_hand_that_starts_and_stops():
    """Half a centimetre a step along x, after one step of rest."""
    x = [0.0, 0.0, 0.005, 0.010]
    found = describe_motion([np.array([value, 0, 0]) for value in x], gripper(-1, 1, 1))
    assert found.path_m == pytest.approx(0.01)
    assert found.peak_speed == pytest.approx(0.1)
    assert found.rms_jerk == pytest.approx(0.005 / 0.05**3)  # -0, +1, -1: third difference -0.005
    assert found.gripper_switches == 1


def test_an_even_motion_has_no_jerk_and_the_gripper_is_open_at_first():
    positions = [np.array([0.01, 0.02, 0.02]) * k for k in range(6)]
    found = describe_motion(positions, gripper(1, 1, -1, -1, 1))
    assert found.rms_jerk == pytest.approx(0, abs=1e-9)
    assert found.path_m == pytest.approx(0.15)
    assert found.gripper_switches == 3


def test_what_is_not_measured():
    found = describe_motion([np.zeros(3)], [])
    assert (found.path_m, found.rms_jerk, found.peak_speed, found.gripper_switches) == (
        0, None, None, 0,
    )  # fmt: skip
