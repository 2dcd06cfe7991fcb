"""The matrix every variant passes, and what each one of them does."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.problem import categories
from vlaprune_bench.sim.stage import Stage
from vlaprune_bench.sim.stepping import short_hash
from vlaprune_bench.sim.tasks import TaskKey, get_task
from vlaprune_bench.sim.variants import Draw, Variant, View, identity, parse, variants, word
from vlaprune_bench.types import CAMERAS, UserError

SETS = {
    "camera": [
        "camera,kind=orbit",
        "camera,kind=distance,camera=wrist",
        "camera:2,kind=yaw,camera=both",
        "camera:1,kind=pitch",
    ],
    "wrist": ["camera,kind=orbit,camera=wrist"],
    "start-pose": ["start-pose:5"],
    "light": ["light,kind=direction", "light,kind=intensity", "light,kind=colour"],
    "texture": ["texture:5,kind=table", "texture:1,kind=floor", "texture,kind=walls"],
    "jitter": ["layout:5,kind=jitter"],
    "distractors": ["layout,kind=distractors"],
    "shuffle": ["layout,kind=shuffle"],
    "noise": [f"noise:2,kind={kind}" for kind in ("glass", "zoom", "fog", "motion-blur", "jpeg")],
    "dropped": ["noise:4,kind=dropped", "noise,kind=gaussian,camera=wrist", "blackout:4"],
    "words": ["words:3,kind=shuffled", "words:1,kind=blank"],
    "other-words": ["words,kind=other"],
    "everything": ["camera", "start-pose", "light", "noise", "layout", "words:3"],
}
"""What runs through the matrix together: every kind of every variant is in one of these."""
QUICK = {"everything", "texture", "dropped", "other-words"}
"""What runs by default: every variant is in one of these."""
TASKS = dict.fromkeys(("distractors", "jitter", "shuffle"), ("libero_object", 2))
"""Elsewhere than in libero_spatial 1, whose suite has the same objects in every task."""
SHUFFLE = parse("layout,kind=shuffle")


@pytest.fixture(scope="session")
def lite() -> AssetSet:
    return resolve_assets("lite", needed="lite")


@dataclass
class Seen:
    """What an episode's begin and three steps show."""

    words: str
    scene: str
    frames: str
    state: np.ndarray
    images: np.ndarray


def see(task: LiberoTask, trial: int) -> Seen:
    task.reset(trial)
    first = task.instruction, task.scene_hash, task.frames_hash
    for k in range(3):
        seen, _ = task.step(np.array([0.3, -0.2, -0.4, 0, 0.1, 0, -1.0]), look=k == 2)
    data = task.inner.sim.data._data
    state = np.concatenate([data.qpos, data.qvel, data.qacc_warmstart])
    return Seen(*first, state, seen.images)


def assert_same(one: Seen, other: Seen) -> None:
    assert (one.words, one.scene, one.frames) == (other.words, other.scene, other.frames)
    np.testing.assert_array_equal(one.state, other.state)
    np.testing.assert_array_equal(one.images, other.images)


def compiled(environment: Any) -> str:
    """Hash of the whole model, byte by byte; what a reset places in it put back first."""
    import mujoco

    model = environment.env.env.sim.model._model
    for name, value in environment._compiled.items():
        getattr(model, name)[:] = value
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return short_hash(buffer)


@pytest.mark.sim
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.heavy) for name in SETS],
)
def test_the_matrix(lite, name, monkeypatch):
    """Any order of trials, both paths, and everything back afterwards."""
    suite, index = TASKS.get(name, ("libero_spatial", 1))
    chosen = tuple(parse(said) for said in SETS[name])
    before = []
    opened = Stage.open

    def watched(stage: Stage, inner: Any, draw: Draw) -> None:
        if not before:
            before.append(compiled(task._environment))
        opened(stage, inner, draw)

    monkeypatch.setattr(Stage, "open", watched)
    with LiberoTask(TaskKey(suite, index, lite, variants=chosen, seed=3)) as task:
        one = see(task, 1)
        assert task.self_check == "passed"
        zero = see(task, 0)
        assert_same(see(task, 1), one)
        assert zero.scene != one.scene
        stage = task._environment.stage
        edits = any(type(v).edit is not Variant.edit and v.name != "start-pose" for v in chosen)
        assert bool(stage.changes) == edits
        stage.undo()
        assert compiled(task._environment) == before[0]
    with LiberoTask(TaskKey(suite, index, lite, sim="reference", variants=chosen, seed=3)) as task:
        assert_same(see(task, 1), one)
        assert_same(see(task, 0), zero)


def test_the_matrix_has_every_kind():
    inside = {(v.name, v.kind) for said in SETS.values() for v in map(parse, said)}
    there = {(n, k) for n, cls in variants().items() for k in cls.scales}
    assert there - inside == {("words", "paraphrase")}
    assert {parse(said).name for name in QUICK for said in SETS[name]} == set(variants())


@pytest.mark.sim
def test_a_process_of_its_own_sees_the_same(lite):
    """As another worker, or a run that goes on tomorrow."""
    code = f"""
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.sim.variants import parse
chosen = tuple(parse(said) for said in {SETS["everything"]!r})
key = TaskKey("libero_spatial", 1, resolve_assets("lite", "lite"), variants=chosen, seed=3)
with LiberoTask(key) as t:
    t.reset(1)
    print(t.instruction, t.scene_hash, t.frames_hash, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    chosen = tuple(parse(said) for said in SETS["everything"])
    with LiberoTask(TaskKey("libero_spatial", 1, lite, variants=chosen, seed=3)) as task:
        task.reset(1)
        here = f"{task.instruction}|{task.scene_hash}|{task.frames_hash}"
    assert done.stdout.splitlines()[-1] == here


@pytest.mark.sim
def test_what_variants_do_in_the_scene(lite):
    """Cameras, arm, objects and lamps stand where the scales say."""
    suite, index = "libero_object", 2
    with LiberoTask(TaskKey(suite, index, lite)) as task:
        task.reset(0)
        model = task.inner.sim.model._model
        camera, pivot = model.camera("agentview").id, np.array(task.inner.workspace_offset)
        pos, lamps = model.cam_pos[camera].copy(), model.light_pos.copy()
        plain, arm = task.init_state.copy(), task.inner.robots[0]._ref_joint_pos_indexes
        nq = model.nq
    chosen = tuple(parse(said) for said in ("camera:5", "start-pose:2", "light:4,kind=direction"))
    with LiberoTask(
        TaskKey(suite, index, lite, variants=(*chosen, parse("layout:3,kind=jitter")))
    ) as task:
        task.reset(0)
        model = task.inner.sim.model._model
        one, other = pos - pivot, model.cam_pos[camera] - pivot
        assert abs(np.arccos(one[:2] @ other[:2] / (one[:2] @ one[:2])) - np.deg2rad(45)) < 1e-9
        assert abs(one[2] - other[2]) < 1e-12
        assert (
            abs(np.linalg.norm(model.light_pos[0] - pivot) - np.linalg.norm(lamps[0] - pivot))
            < 1e-9
        )
        assert np.linalg.norm(model.light_pos[0] - lamps[0]) > 1
        moved = task.init_state - plain
        assert abs(np.linalg.norm(moved[1:][arm]) - 0.2) < 1e-9
        free = range(9, nq, 7)  # every object has a free joint behind the robot's nine
        shifts = np.array([moved[1 + k : 1 + k + 2] for k in free])
        assert (np.abs(shifts) > 1e-3).any(axis=1).sum() >= 3
        assert np.abs(shifts).max() < 0.05 + 0.04 + 0.02  # half a region, 4 cm, where it had been
        assert not moved[1 + nq :].any()


def places(key: TaskKey, trials: range) -> list[dict[str, np.ndarray]]:
    """(2,) where each object begins, by trial."""
    found = []
    with LiberoTask(key) as task:
        for trial in trials:
            task.reset(trial)
            model, objects = task.inner.sim.model._model, task.inner.objects_dict
            starts = {n: 1 + int(model.joint(o.joints[-1]).qposadr[0]) for n, o in objects.items()}
            found.append({name: task.init_state[k : k + 2] for name, k in starts.items()})
    return found


@pytest.mark.sim
def test_shuffled_objects_stand_in_each_others_places(lite):
    """The basket stays; the thing to grasp, for which one place does in all tasks, moves."""
    key, trials, grasped = TaskKey("libero_object", 0, lite), range(6), set()
    shuffled = places(replace(key, variants=(SHUFFLE,)), trials)
    for before, after in zip(places(key, trials), shuffled, strict=True):
        assert np.array_equal(before.pop("basket_1"), after.pop("basket_1"))
        # what is moved by a difference may differ in the last bits
        np.testing.assert_allclose(*(sorted(map(tuple, p.values())) for p in (before, after)))
        grasped.add(tuple(np.round(after["alphabet_soup_1"], 1)))
    assert len(grasped) > 2


def test_shuffling_is_refused_where_the_words_say_where_things_stand():
    with pytest.raises(UserError, match="kind=shuffle; libero_spatial may say"):
        SHUFFLE.check(get_task("libero_spatial", 0))


@pytest.mark.sim
def test_distractors_land_apart_and_stay(lite):
    with LiberoTask(
        TaskKey("libero_object", 2, lite, variants=(parse("layout:5,kind=distractors"),))
    ) as task:
        task.reset(1)
        inner = task.inner
        extra = [name for name in inner.objects_dict if name.endswith("_extra")]
        assert len(extra) == 5
        data, model = inner.sim.data._data, inner.sim.model._model
        for name in extra:
            joint = data.joint(inner.get_object(name).joints[-1])
            start = task.init_state[1:][int(model.joint(joint.id).qposadr[0]) :][3:7]
            assert abs(start @ joint.qpos[3:7]) > np.cos(np.deg2rad(15) / 2), name  # not fallen
            assert -0.1 < joint.qpos[2] - inner.workspace_offset[2] < 0.25
            assert np.abs(joint.qvel).max() < 0.5
            others = [o for n, o in inner.objects_dict.items() if n != name]
            assert not any(inner.check_contact(inner.get_object(name), o) for o in others)


def test_distractors_are_of_kinds_the_task_has_not():
    for suite in ("libero_spatial", "libero_goal", "libero_10", "libero_90"):
        task = get_task(suite, 0)
        extras = parse("layout:5,kind=distractors").extras(task)
        assert len(set(extras.values())) == 5
        assert not set(extras.values()) & set(categories(task.bddl_file).values())
        assert extras.items() >= parse("layout:2,kind=distractors").extras(task).items()


@pytest.mark.sim
def test_a_surface_that_is_not_there_is_said(lite):
    with (
        LiberoTask(
            TaskKey("libero_object", 2, lite, variants=(parse("texture,kind=table"),))
        ) as task,
        pytest.raises(UserError, match="kind=table; libero_object task 2 shows none"),
    ):
        task.reset(0)


@pytest.mark.sim
def test_fresh_scenes_have_no_last_trial(lite):
    """Beyond the fixed init states a trial starts where its reset placed things."""
    with LiberoTask(TaskKey("libero_object", 2, lite, scenes="fresh")) as task:
        task.reset(61)
        state, scene = task.init_state.copy(), task.scene_hash
        task.reset(3)
        assert task.scene_hash != scene
        task.reset(61)
        np.testing.assert_array_equal(task.init_state, state)
        assert task.scene_hash == scene
    with LiberoTask(TaskKey("libero_object", 2, lite, scenes="fresh", sim="reference")) as task:
        task.reset(61)
        assert task.scene_hash == scene
    with (
        LiberoTask(TaskKey("libero_object", 2, lite)) as task,
        pytest.raises(UserError, match="scenes fresh"),
    ):
        task.reset(50)


# ---- words, severities and identity: no simulator needed


def test_words_of_a_variant_are_read_back():
    for cls in variants().values():
        for kind, scale in cls.scales.items():
            for severity in (1, 5) if scale else (0,) if kind != "paraphrase" else ():
                made = cls(kind=kind, severity=severity)
                assert parse(word(made)) == made, word(made)
    assert word(parse("camera:2")) == "camera:2"
    assert word(parse("words,kind=other")) == "words,kind=other"
    assert word(parse("noise, kind = fog")) == "noise:3,kind=fog"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("camra", "did you mean camera"),
        ("camera:0", "severity must be 1 to 5"),
        ("camera:6", "severity=6; choose 1 to 5"),
        ("camera:high", "severity must be of type int"),
        ("camera,kind=roll", "kind=roll; choose orbit or distance"),
        ("camera,camera=left", "camera=left; choose agentview or wrist or both"),
        ("camera,angle=3", "camera has the options kind, severity, camera"),
        ("camera,kind=yaw,kind=yaw", "names kind twice"),
        ("words:2,kind=other", "severity=2; kind=other has none"),
        ("words,kind=paraphrase", "needs file"),
        ("words,file=a.yaml", "takes no file"),
    ],
)
def test_bad_words_are_one_sentence(said, why):
    with pytest.raises(UserError) as caught:
        parse(said)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_page_says_what_the_variants_say():
    root = Path(__file__).parents[2]
    page = runpy.run_path(str(root / "scripts" / "make_variants_docs.py"))["page"]
    assert (root / "docs" / "variants.md").read_text() == page()


def test_every_scale_grows_with_severity_and_has_a_unit():
    for cls in variants().values():
        for scale in filter(None, cls.scales.values()):
            steps = np.sign(np.diff(scale.levels))
            assert (steps == steps[0]).all()
            assert scale.unit


def test_the_identity_says_what_a_severity_means():
    said = identity([parse("camera:2")])
    assert '"amount": 10' in said
    assert '"unit": "degrees around the scene"' in said
    assert identity([parse("camera:3")]) != said
    assert identity([parse("camera:2,camera=wrist")]) != said


def test_a_draw_depends_on_everything_it_should_and_nothing_else():
    keys = [
        Draw(seed, suite, task, trial).rng(variant, step).integers(2**63)
        for seed in (0, 1)
        for suite in ("a", "b")
        for task in (0, 1)
        for trial in (0, 1)
        for variant in ("v", "w")
        for step in (None, 0, 1)
    ]
    assert len(set(keys)) == len(keys)
    assert Draw(0, "a", 0, 0).rng("v", 1).integers(2**63) == keys[2]


SENTENCE = "pick up the black bowl next to the plate"


def draw(trial: int = 0) -> Draw:
    return Draw(0, "libero_spatial", 0, trial)


def test_words_lose_or_change_the_share_they_say():
    words = SENTENCE.split()
    for severity in (1, 2, 3, 4, 5):
        share = round(severity / 5 * len(words))
        blanked = parse(f"words:{severity},kind=blank").words(draw(), SENTENCE).split()
        assert len(blanked) == len(words) - share
        mixed = parse(f"words:{severity},kind=shuffled").words(draw(), SENTENCE).split()
        assert sorted(mixed) == sorted(words)
        # "the" stands three times, and may take its own place
        assert sum(a != b for a, b in zip(mixed, words, strict=True)) >= share - 3
    assert parse("words").words(draw(), SENTENCE) == ""


def test_another_task_s_words_are_never_the_task_s_own():
    other = parse("words,kind=other")
    said = {other.words(draw(trial), SENTENCE) for trial in range(40)}
    assert SENTENCE not in said
    assert len(said) > 4


def test_paraphrases_come_from_a_file_and_its_content_is_identity(tmp_path):
    task = get_task("libero_spatial", 0)
    file = tmp_path / "said.yaml"
    file.write_text(f"{task.name}: [take the bowl, grab it]\n")
    variant = parse(f"words,kind=paraphrase,file={file}")
    variant.check(task)
    assert {variant.words(draw(k), SENTENCE) for k in range(20)} == {"take the bowl", "grab it"}
    with pytest.raises(UserError, match="has no paraphrases of"):
        variant.check(get_task("libero_spatial", 1))
    said = variant.identity()
    file.write_text(f"{task.name}: [take it]\n")
    assert variant.identity() != said
    other = tmp_path / "bad.yaml"
    other.write_text("a: b\n")
    with pytest.raises(UserError, match="must hold lists of sentences"):
        parse(f"words,kind=paraphrase,file={other}").check(task)


# ---- frames


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rows, columns = np.indices((64, 64))
    checks = ((rows // 8 + columns // 8) % 2 * 200).astype(np.uint8)
    return np.stack([checks, rows.astype(np.uint8) * 3, checks.T // 2], axis=-1)


def show(
    said: str, image: np.ndarray, step: int = 3, trial: int = 0, camera: int = 0
) -> np.ndarray:
    return parse(said).frame(View(CAMERAS[camera], step, draw(trial), {}), image)


@pytest.mark.parametrize("kind", ["gaussian", "motion-blur", "fog", "zoom", "glass", "jpeg"])
def test_noise_grows_with_severity_and_is_a_function_of_trial_camera_and_step(image, kind):
    off = []
    for severity in (1, 2, 3, 4, 5):
        said = f"noise:{severity},kind={kind}"
        shown = show(said, image)
        assert (shown.shape, shown.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(shown, show(said, image))
        off.append(float(np.abs(shown.astype(int) - image).mean()))
    assert all(b > a for a, b in pairwise(off)), off
    if kind not in ("zoom", "jpeg"):
        said = f"noise:3,kind={kind}"
        assert (show(said, image) != show(said, image, step=4)).any()
        assert (show(said, image) != show(said, image, trial=1)).any()
        assert (show(said, image) != show(said, image, camera=1)).any()
    np.testing.assert_array_equal(show(f"noise:3,kind={kind},camera=wrist", image), image)


def test_gaussian_noise_has_the_deviation_it_says():
    grey = np.full((256, 256, 3), 128, np.uint8)
    assert abs(show("noise:3,kind=gaussian", grey).astype(float).std() - 32) < 0.5


def test_a_camera_goes_black_at_the_step_it_says(image):
    np.testing.assert_array_equal(show("blackout:4", image, step=15), image)
    assert not show("blackout:4", image, step=16).any()
    assert not show("blackout", image, step=0).any()
    np.testing.assert_array_equal(show("blackout,camera=wrist", image, step=0), image)


def test_a_lost_frame_is_the_last_that_came_whoever_looks_when():
    """At every step (a video), or only where the policy looks: the same frames."""
    variant, steps = parse("noise:4,kind=dropped"), 60
    film = [np.full((2, 2, 3), k, np.uint8) for k in range(steps)]

    def shown(looks: set[int]) -> dict[int, int]:
        held: dict = {}
        return {
            k: int(variant.frame(View(CAMERAS[0], k, draw(), held), film[k])[0, 0, 0])
            for k in range(steps)
            if k in looks or variant.holds_frame(draw(), k)
        }

    every, some = shown(set(range(steps))), shown(set(range(0, steps, 8)))
    assert all(every[k] == value for k, value in some.items())
    late = [k - value for k, value in every.items()]
    assert late[0] == 0
    assert 0.5 < np.mean([k > 0 for k in late]) < 0.95  # three of four are lost
    assert max(late) > 3
