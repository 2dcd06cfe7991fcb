"""The fast path against LIBERO's own environment, bit for bit.

By default one task with lite and one with the published assets; marked heavy: 300 random actions on
seven tasks and a whole episode of 520 steps, with the published ones. The reference here is
robosuite's loop after a real hard reset; only cameras are looked at where the policy would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.environment import SeededEnvironment
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.suites import load_init_states
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.types import OPENVLA_PROTOCOL

pytestmark = pytest.mark.sim

CHUNK = 8


def actions(steps: int, seed: int) -> np.ndarray:
    """Random actions that also push the arm down into the objects, half of them without turning."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, 7))
    actions[:, 2] -= 0.3
    actions[rng.random(steps) < 0.5, 3:6] = 0
    return actions


@contextlib.contextmanager
def reference(suite: str, index: int, assets: AssetSet, trial: int) -> Iterator[Any]:
    """LIBERO's environment after `trial` + 1 hard resets, settled; frames on demand."""
    info = get_task(suite, index)
    environment = SeededEnvironment(info, assets, OPENVLA_PROTOCOL, lazy=True)
    for k in range(trial + 1):
        environment.hard_reset(visible=k == trial)
    environment.env.set_init_state(load_init_states(info.init_states_file)[trial])
    for _ in range(10):
        environment.env.step([0, 0, 0, 0, 0, 0, -1])
    try:
        yield environment
    finally:
        environment.close()


def record(environment: SeededEnvironment, proprio: np.ndarray, success: bool) -> dict[str, Any]:
    data = environment.env.sim.data
    fields = ("qpos", "qvel", "ctrl", "qacc_warmstart", "time")
    return {
        **{name: np.array(getattr(data, name)) for name in fields},
        "proprio": proprio,
        "success": bool(success),
    }


def by_reference(environment: SeededEnvironment, actions: np.ndarray, look_every: int) -> list:
    steps = []
    for k, action in enumerate(actions):
        with environment.look((k + 1) % look_every == 0) as frames:
            observables, _, success, _ = environment.env.step(action.tolist())
        names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
        proprio = np.concatenate([observables[name] for name in names])
        steps.append(record(environment, proprio, success))
        steps[-1]["frames"] = np.stack(frames)[:, ::-1, ::-1] if frames else None
    return steps


def by_us(task: LiberoTask, actions: np.ndarray, look_every: int) -> list:
    steps = []
    for k, action in enumerate(actions):
        seen, success = task.step(action, look=(k + 1) % look_every == 0)
        proprio = np.concatenate([seen.eef_pos, seen.eef_quat, seen.gripper_qpos])
        assert task._environment is not None
        steps.append(record(task._environment, proprio, success))
        steps[-1]["frames"] = seen.images
    return steps


def assert_equal(suite: str, index: int, assets: AssetSet, trial: int, steps: int, look: int):
    played = actions(steps, seed=100 * index + trial)
    with reference(suite, index, assets, trial) as environment:
        wanted = by_reference(environment, played, look)
    with LiberoTask(TaskKey(suite, index, assets)) as task:
        task.reset(trial)
        got = by_us(task, played, look)
        assert (task.sim, task.self_check) == ("fast", "passed")
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value, err_msg=f"{name}, step {k}")
    return got


def test_equal_on_a_lite_task(lite_assets):
    steps = assert_equal("libero_spatial", 1, lite_assets, trial=1, steps=40, look=10)
    assert np.ptp([step["qpos"][:7] for step in steps], axis=0).max() > 0.1  # it does move


SEVEN = [
    ("libero_spatial", 5), ("libero_object", 3), ("libero_goal", 0), ("libero_goal", 7),
    ("libero_10", 2), ("libero_10", 9), ("libero_90", 13),
]  # fmt: skip
"""Drawers, a stove's knob and burner, a microwave's door, baskets and bottles."""


@pytest.mark.slow
def test_equal_on_a_published_task(real_assets):
    """libero_goal 7 turns on the stove, which shows a site while it is on."""
    assert_equal("libero_goal", 7, real_assets, trial=0, steps=40, look=20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lite", "real"])
def test_libero_90(kind, request):
    """A microwave, with both asset sets: the fast path holds, and the protocol's budget."""
    assets = request.getfixturevalue(f"{kind}_assets")
    with LiberoTask(TaskKey("libero_90", 37, assets)) as task:
        assert task.budget == 400
        assert task.reset(49).images.std() > 10
        assert (task.sim, task.self_check) == ("fast", "passed")
        assert "microwave_1" in task._environment.env.env.fixtures_dict


@pytest.mark.heavy
@pytest.mark.parametrize(("suite", "index"), SEVEN)
def test_300_random_actions(real_assets, suite, index):
    assert_equal(suite, index, real_assets, trial=0, steps=300, look=50)


@pytest.mark.heavy
def test_an_episode_of_520_steps(real_assets):
    assert_equal("libero_10", 6, real_assets, trial=1, steps=520, look=130)


def opened_drawer(environment: SeededEnvironment) -> None:
    """Open the middle drawer by hand."""
    environment.env.sim.data.set_joint_qpos("wooden_cabinet_1_middle_level", -0.15)


@pytest.mark.slow
def test_success_at_the_same_step(real_assets):
    """libero_goal 0, `open the middle drawer`: the drawer is opened after three steps."""
    outcomes = []
    stay = np.array([0, 0, 0, 0, 0, 0, -1.0])
    with reference("libero_goal", 0, real_assets, 0) as environment:
        for k in range(6):
            if k == 3:
                opened_drawer(environment)
            outcomes.append(bool(environment.env.step(stay.tolist())[2]))
    with LiberoTask(TaskKey("libero_goal", 0, real_assets)) as task:
        task.reset(0)
        for k in range(6):
            if k == 3:
                opened_drawer(task._environment)
            assert task.step(stay, look=False)[1] == outcomes[k]
    assert outcomes == [False] * 3 + [True] * 3


def test_contacts_are_looked_up_as_libero_does(lite_assets):
    from vlaprune_bench.sim.fast import ContactCheck

    with LiberoTask(TaskKey("libero_spatial", 3, lite_assets)) as task:  # the bowl stands on a box
        task.reset(0)
        inner = task._environment.env.env
        assert isinstance(inner.check_contact, ContactCheck)
        things = [*inner.objects_dict.values(), *inner.fixtures_dict.values()]
        plain = type(inner).check_contact
        found = [
            [check(a, b) for a in things for b in things]
            for check in (inner.check_contact, lambda a, b: plain(inner, a, b))
        ]
        assert found[0] == found[1]
        assert any(found[0])


def test_another_arithmetic_is_noticed_and_the_reference_taken(lite_assets, monkeypatch):
    """The last bit of one gain."""
    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from vlaprune_bench.sim import controller

    make_arm = controller.make_arm

    def other_arm(inner):
        arm = make_arm(inner)
        arm.kp[0] = np.nextafter(arm.kp[0], 0)
        return arm

    monkeypatch.setattr(controller, "make_arm", other_arm)
    with LiberoTask(TaskKey("libero_spatial", 1, lite_assets)) as task:
        task.reset(0)
        assert task.sim == "reference"
        assert task.self_check.startswith("simulator state differs by ")
        assert task.self_check.endswith(" after control step 1")
        first = task.scene_hash
        task.step(np.zeros(7), look=False)
        task.reset(0)
        assert task.scene_hash == first


def test_another_pixel_is_noticed_and_the_reference_taken(lite_assets, monkeypatch):
    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from vlaprune_bench.sim.cameras import Cameras

    frames = Cameras.frames

    def other_frames(self):
        agentview, wrist = frames(self)
        wrist[5, 7] ^= 1
        return [agentview, wrist]

    monkeypatch.setattr(Cameras, "frames", other_frames)
    with LiberoTask(TaskKey("libero_spatial", 1, lite_assets)) as task:
        task.fingerprint(0)
        assert task.sim == "reference"
        assert task.self_check == "frames differ in 1 pixels after control step 4"


def test_a_renderer_that_mixes_samples_otherwise_draws_everything(lite_assets, monkeypatch):
    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from vlaprune_bench.sim.backdrop import Backdrop

    monkeypatch.setattr(Backdrop, "put_behind", lambda self: None)
    with LiberoTask(TaskKey("libero_spatial", 1, lite_assets)) as task:
        task.fingerprint(0)
        assert (task.sim, task.self_check) == ("fast", "passed")
        assert not task._simulation._cameras._still


def test_restoring_does_not_depend_on_what_was_done_before(lite_assets):
    with LiberoTask(TaskKey("libero_spatial", 1, lite_assets)) as task:
        first = task.reset(1)
        again = [by_us(task, actions(5, 0), 5)]
        task.reset(0)
        by_us(task, actions(7, 1), 8)
        second = task.reset(1)
        again.append(by_us(task, actions(5, 0), 5))
    np.testing.assert_array_equal(first.images, second.images)
    for one, other in zip(*again, strict=True):
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)


def test_the_sampling_substep_holds_for_longer_than_any_episode():
    """robosuite's clock of an observable, ticked as a reset and then control steps tick it."""
    from vlaprune_bench.sim.package import import_libero

    import_libero()
    from robosuite.utils.observables import Observable, sensor

    from vlaprune_bench.sim.fast import SAMPLE_SUBSTEP, SUBSTEPS

    sampled = []

    @sensor(modality="test")
    def now(_cache):
        sampled.append(True)
        return np.zeros(1)

    clock = Observable(name="clock", sensor=now, sampling_rate=20)
    clock.reset()
    for _ in range(2):
        clock.update(timestep=0.002, obs_cache={}, force=True)
    for _ in range(600):
        counts = []
        for _ in range(SUBSTEPS):
            sampled.clear()
            clock.update(timestep=0.002, obs_cache={})
            counts.append(len(sampled))
        assert counts == [int(k == SAMPLE_SUBSTEP - 1) for k in range(SUBSTEPS)]


def test_what_a_camera_cannot_see_is_not_drawn(lite_assets):
    """Frames are equal with everything drawn; and much is not drawn."""
    with LiberoTask(TaskKey("libero_spatial", 4, lite_assets)) as task:
        task.reset(0)
        cameras = task._simulation._cameras
        for action in actions(3, seed=4):
            task.step(action, look=False)
            left_out = [len(cameras._culling.unseen(camera)) for camera in cameras._ids]
            some = cameras.frames()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cameras._culling, "unseen", lambda _: [])
                everything = cameras.frames()
            np.testing.assert_array_equal(some, everything)
            assert left_out[0] > 5
            assert left_out[1] > 20


def carried(task: LiberoTask, steps: int) -> Iterator[None]:
    """Steps in which the hand moves and, on the way, an object is carried by hand."""
    inner = task.inner
    thing = next(iter(inner.objects_dict.values())).joints[-1]
    for k in range(steps):
        task.step(np.array([0.4, 0.3 * (-1) ** k, -0.5, 0, 0.2, 0, 1.0]), look=False)
        if k in (3, 4, 5):
            pose = inner.sim.data.get_joint_qpos(thing).copy()
            pose[:3] += (0.03, -0.02, 0.05)
            inner.sim.data.set_joint_qpos(thing, pose)
        yield


def assert_still_frames_are_whole_frames(suite: str, index: int, assets: AssetSet) -> None:
    with LiberoTask(TaskKey(suite, index, assets)) as task:
        for trial in (0, 1):
            task.reset(trial)
            cameras = task._simulation._cameras
            (still,) = cameras._still.values()
            for _ in carried(task, 9):
                some = cameras.frames()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(cameras, "_still", {})
                    everything = cameras.frames()
                np.testing.assert_array_equal(some, everything)
            assert len(still._kept) > 0
            assert (~still._moving & cameras._culling.shown).sum() > 5
            # the object that was carried is drawn anew from then on
            model, inner = cameras._model, task.inner
            body = inner.obj_body_id[next(iter(inner.objects_dict))]
            assert still._moving[model.body_rootid[model.geom_bodyid] == body].all()


@pytest.mark.parametrize(
    ("suite", "index"),
    [("libero_spatial", 4), ("libero_object", 0), ("libero_goal", 6), ("libero_10", 3)],
)
def test_what_rests_is_drawn_once(lite_assets, suite, index):
    """Frames are equal with everything drawn anew, while things begin to move."""
    assert_still_frames_are_whole_frames(suite, index, lite_assets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "index"),
    [("libero_goal", 7), ("libero_90", 37)],
)
def test_what_rests_is_drawn_once_of_published_meshes(real_assets, suite, index):
    """A stove that mirrors the arm, a pane in a wine rack, a microwave."""
    assert_still_frames_are_whole_frames(suite, index, real_assets)


class Eye:
    """A camera at the origin that looks down at a mirror 1 m below, and boxes elsewhere."""

    def __init__(self, boxes, reflecting=1, extra=""):
        import mujoco

        things = "".join(
            f'<geom type="box" size=".1 .1 .1" pos="{x} {y} {z}"/>' for x, y, z in boxes
        )
        mirrors = '<geom type="box" size=".3 .3 .1" pos="0 0 -1.1" material="shine"/>' * reflecting
        model = mujoco.MjModel.from_xml_string(
            f"""<mujoco><asset><material name="shine" reflectance=".5"/></asset><worldbody>
            <camera name="eye" fovy="90"/>{mirrors}{things}{extra}</worldbody></mujoco>"""
        )
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        from vlaprune_bench.sim.culling import Culling

        self.unseen = list(Culling(model, data, np.ones(6, dtype=bool)).unseen(0))


def test_culling_keeps_what_is_seen_in_a_mirror():
    beside, below, above, far_above = (3, 0, -1), (0, 0, -2), (0, 0, 0.5), (1.2, 0, 0.2)
    assert Eye([beside, below, above], reflecting=0).unseen == [0, 2]
    # what is above the mirror and behind the camera shows in it, off to the side it does not
    assert Eye([beside, below, above, far_above]).unseen == [1, 4]
    # with two mirrors nothing is left out
    assert Eye([beside, below, above], reflecting=2).unseen == []


def test_culling_drops_what_a_table_hides():
    things = [(0, 0, -2), (0, 0, -1.4), (0, 0, -0.5)]
    top = '<geom type="box" size="{0} {0} .1" pos="0 0 -1.5" rgba=".5 .5 .5 {1}"/>'
    floor = '<geom type="plane" size="5 5 1" pos="0 0 -3"/>'
    assert Eye(things, 0, top.format(1.5, 1) + floor).unseen == [0, 4]
    assert Eye(things, 0, top.format(1.5, 0.9) + floor).unseen == []  # glass
    assert Eye(things, 0, top.format(1.4, 1) + floor).unseen == []  # the view is 1.4 m wide there
    assert Eye(things, 0, floor).unseen == []


def pane_and_thing(thing: str) -> bool:
    """Whether a thing may be seen through a thin pane 2 m before a camera that looks along -z."""
    import mujoco

    from vlaprune_bench.sim.culling import Culling

    model = mujoco.MjModel.from_xml_string(
        f"""<mujoco><worldbody><camera name="eye" fovy="90"/>
        <geom type="box" size=".5 .5 .01" pos="0 0 -2" euler="40 0 0" rgba="1 1 1 .1"/>
        <geom type="box" size=".1 .1 .1" pos="{thing}"/></worldbody></mujoco>"""
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    culling = Culling(model, data, np.ones(6, dtype=bool))
    pane = np.array([True, False])
    return culling.behind(0, pane, ~pane)


def test_what_is_seen_through_a_pane_is_known():
    assert pane_and_thing("0 0 -3")
    assert not pane_and_thing("0 0 -1")  # before it
    assert not pane_and_thing("2 0 -3")  # beside it
    # as deep as the tilted pane's nearer edge, before its middle
    assert not pane_and_thing("0 0.1 -1.6")
    assert pane_and_thing("0 0.3 -2.1")
