"""A sweep on a toy policy and a toy simulator: real cells, real parquet, no model, no MuJoCo."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from tests.rollout.test_engine import INFO, ToyLibero
from tests.rows import measures
from vlaprune_bench.rollout.engine import Engine
from vlaprune_bench.rollout.launcher import Local
from vlaprune_bench.sweep.file import load_sweep
from vlaprune_bench.types import ActionChunk

FILE = """
base: {task_ids: [0, 2], trials: 3, max_steps: 16, pruner: static}
grid: {pruner.keep: [0.25, 0.5]}
"""


class CountingPolicy:
    """Its actions depend on the episode's seed and the method alone."""

    info = INFO

    def __init__(self):
        self.pruner = None
        self.started: list[tuple[str, int]] = []

    def start(self, instruction, seed):
        self.started.append((self.pruner.name, seed))
        return SimpleNamespace(random=np.random.default_rng(seed), method=self.pruner)

    def act(self, memory, observation, eef_poses):
        kept = round(512 * (memory.method.keep_ratio or 1))
        return ActionChunk(
            actions=memory.random.uniform(-1, 1, (8, 7)),
            measures=measures(visual_tokens_kept=kept, kept_visual=list(range(kept))),
        )


class ToySimulator(ToyLibero):
    """Never breaks, never succeeds; logs which scene is shown."""

    shown: list[tuple[int, int]] = []  # noqa: RUF012

    def __init__(self, suite, task, assets, protocol, *, sim, scenes):
        super().__init__(suite, task, assets, protocol, sim=sim, scenes=scenes)
        self.success_at = 10**9

    def reset(self, trial):
        self.shown.append((self.task, trial))
        observation = super().reset(trial)
        self.trial = -1  # what breaks in ToyLibero
        return observation


def install(folder, policies=None):
    """Put the toys where a run looks for the model and the simulator.

    Args:
        folder: stands for the checkpoint's.
        policies: is given every policy that is loaded.
    """
    sys.modules["vlaprune_bench.sim.libero"] = SimpleNamespace(LiberoTask=ToySimulator)

    def load(cells, store):
        policy = CountingPolicy()
        if policies is not None:
            policies.append(policy)
        assets = SimpleNamespace(kind="lite", hash="a55e7")
        return [Engine(cell, store, policy, assets, "egl") for cell in cells], folder

    Local.load = lambda self, cells, store: load(cells, store)
    Local.confirmed = lambda self, config, known: True


def write(folder, text=FILE):
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def toy_sweep(folder, text=FILE, **overrides):
    # in this process: what is patched here does not reach others
    fixed = {"output": str(folder / "out"), "workers": 0}
    sweep = load_sweep(write(folder, text), overrides={**fixed, **overrides})
    return replace(sweep, name="toy")
