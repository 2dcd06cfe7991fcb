"""What the protocol says about the simulator, detail by detail; the policy's side is in
tests/policies (JPEG, resize, crop, axis-angle, gripper) and tests/rollout (chunks, budgets)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import OPENVLA_PROTOCOL, PROTOCOLS, SUITES

pytestmark = pytest.mark.sim

SMALL = dataclasses.replace(OPENVLA_PROTOCOL, camera_size=64)


def test_frames_are_rotated_by_180_degrees(lite_assets):
    """Both cameras; turned, not flipped: MuJoCo's rows come from the bottom up."""
    upright = dataclasses.replace(SMALL, settle_steps=0)
    raw = dataclasses.replace(upright, rotate_180=False)
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, upright)) as task:
        one = task.reset(0).images
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, raw)) as task:
        other = task.reset(0).images
        frames = task._simulation._cameras.frames()
    assert one.shape == (2, 64, 64, 3)
    assert one.std() > 10
    np.testing.assert_array_equal(other, frames)
    np.testing.assert_array_equal(one, np.rot90(other, 2, axes=(1, 2)))
    assert (one != other[:, ::-1]).any()


def test_settle_steps_hold_still_with_an_open_gripper_and_do_not_count(lite_assets):
    """Ten steps of the settle action after a reset, no more and no fewer."""
    unsettled = dataclasses.replace(SMALL, settle_steps=0)
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, SMALL)) as task:
        wanted = task.reset(3)
        assert task.steps == 0
        assert task._environment.env.sim.data.time == pytest.approx(10 / 20)  # 20 Hz
    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, unsettled)) as task:
        first = task.reset(3)
        for k in range(10):
            assert task.steps == k
            got, _ = task.step(np.array([0, 0, 0, 0, 0, 0, -1.0]), look=k == 9)
    np.testing.assert_array_equal(got.images, wanted.images)
    np.testing.assert_array_equal(got.eef_pos, wanted.eef_pos)
    np.testing.assert_array_equal(got.gripper_qpos, wanted.gripper_qpos)
    assert (first.images != wanted.images).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("suite", SUITES)
def test_budgets_are_the_profiles_unless_another_is_asked_for(lite_assets, suite, protocol):
    budget = PROTOCOLS[protocol].budgets[suite]
    assert LiberoTask(TaskKey(suite, 0, lite_assets, PROTOCOLS[protocol])).budget == budget
    assert EvalConfig.of(suite=suite, protocol=protocol).what.budget == budget
    assert EvalConfig.of(suite=suite, protocol=protocol, max_steps=7).what.budget == 7


def test_the_quaternion_keeps_its_sign(lite_assets):
    """The gripper points down, so w is near 0 and passes it: no antipodal flip makes it positive,
    and the axis-angle of a negative w is longer than half a turn."""
    from vlaprune_bench.policies.normalize import axis_angle

    with LiberoTask(TaskKey("libero_spatial", 0, lite_assets, SMALL)) as task:
        for roll, sign in ((1.0, -1), (-1.0, 1)):
            task.reset(0)
            for _ in range(12):
                seen, _ = task.step(np.array([0, 0, 0, roll, 0, 0, -1.0]), look=False)
            assert np.sign(seen.eef_quat[3]) == sign
            assert np.linalg.norm(seen.eef_quat) == pytest.approx(1)
            assert (np.linalg.norm(axis_angle(seen.eef_quat)) > np.pi) == (sign < 0)
