"""Robot units to the model's and back."""

import numpy as np
import pytest

from vlaprune_bench.policies.normalize import Bounds, axis_angle, robot_state, to_gripper_command
from vlaprune_bench.types import Observation, UserError


@pytest.fixture
def bounds():
    return Bounds(np.array([-1.0, 0.0]), np.array([3.0, 1.0]), np.array([True, False]))


def test_normalize_clips_and_leaves_unmasked_alone(bounds):
    np.testing.assert_allclose(bounds.normalize(np.array([1.0, 0.25])), [0.0, 0.25], atol=1e-8)
    np.testing.assert_allclose(bounds.normalize(np.array([9.0, -7.0])), [1.0, -1.0])


def test_unnormalize_is_not_clipped(bounds):
    np.testing.assert_allclose(bounds.unnormalize(np.array([2.0, 0.7])), [5.0, 0.7], atol=1e-7)


def test_a_range_of_zero_needs_the_epsilon(bounds):
    still = np.zeros(1), np.zeros(1), np.array([True])
    assert Bounds(*still).unnormalize(np.ones(1)) == 1e-8
    assert Bounds(*still, epsilon=0.0).unnormalize(np.ones(1)) == 0.0


def test_missing_percentiles_are_named():
    with pytest.raises(UserError, match=r"libero_goal\.proprio has no q99"):
        Bounds.read({"proprio": {"q01": [0.0]}}, "libero_goal", "proprio")


def test_axis_angle_keeps_the_sign_of_the_quaternion():
    half = np.sqrt(0.5)
    quat = np.array([half, 0.0, 0.0, half])
    np.testing.assert_allclose(axis_angle(quat), [np.pi / 2, 0.0, 0.0])
    # the antipode is the same rotation the long way round: three quarters of a turn, other axis
    np.testing.assert_allclose(axis_angle(-quat), [-1.5 * np.pi, 0.0, 0.0])
    np.testing.assert_array_equal(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))


def test_robot_state_order():
    observation = Observation(
        eef_pos=np.array([1.0, 2.0, 3.0]),
        eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
        gripper_qpos=np.array([0.04, -0.04]),
    )
    np.testing.assert_allclose(robot_state(observation), [1, 2, 3, np.pi, 0, 0, 0.04, -0.04])


def test_gripper_is_binary_and_inverted():
    actions = np.zeros((3, 7))
    actions[:, -1] = [0.0, 0.4, 0.9]
    np.testing.assert_array_equal(to_gripper_command(actions)[:, -1], [1.0, 1.0, -1.0])
    np.testing.assert_array_equal(actions[:, -1], [0.0, 0.4, 0.9])
