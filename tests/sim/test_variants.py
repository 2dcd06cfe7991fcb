"""The matrix every variant passes, and what each one of them does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.stepping import short_hash
from vlaprune_bench.sim.variants import Draw, Variant, View, identity, parse, variants, word
from vlaprune_bench.types import CAMERAS, UserError

TASKS = {"layout,kind=distractors": ("libero_object", 2)}
"""Elsewhere than in libero_spatial 1, where it has no other objects to take."""


def every_variant() -> list[str]:
    """One word for each kind of each variant."""
    words = []
    for name, cls in variants().items():
        for kind in cls.scales:
            if kind != "paraphrase" and not name.startswith("plus-"):
                words.append(f"{name},kind={kind}")
    return words


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


def compiled(task: LiberoTask) -> str:
    """Hash of all of the model, as bytes."""
    import mujoco

    model = task.inner.sim.model._model
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return short_hash(buffer)


def task_of(said: str) -> tuple[str, int]:
    return TASKS.get(said, ("libero_spatial", 1))


@pytest.mark.sim
@pytest.mark.parametrize("said", every_variant())
def test_the_matrix(lite, said):
    """Any order of trials, both paths, and everything back afterwards."""
    suite, index = task_of(said)
    variant = parse(said)
    with LiberoTask(suite, index, lite, variants=[variant], seed=3) as task:
        one = see(task, 1)
        assert task.self_check == "passed"
        zero = see(task, 0)
        assert_same(see(task, 1), one)
        assert_same(see(task, 0), zero)
        assert zero.scene != one.scene
        stage = task._environment.stage
        stage.undo()
        stage.flush()
        task._environment.env.sim.forward()
        plain = compiled(task)
        task.reset(1)
        edited = compiled(task)
        stage.undo()
        assert stage.changes == ()
        # what a reset places (fixtures, joints) is not a variant's: compare the same trial
        assert plain == compiled(task) or stage.model.body_pos.size
        assert (edited != compiled(task)) == bool(_edits_the_model(variant))
    with LiberoTask(suite, index, lite, sim="reference", variants=[variant], seed=3) as task:
        assert_same(see(task, 1), one)
        assert_same(see(task, 0), zero)


def _edits_the_model(variant: Variant) -> bool:
    return type(variant).edit is not Variant.edit and variant.name != "start-pose"
