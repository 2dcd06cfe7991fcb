"""Stand-ins for model, simulator and launcher: real cells, real parquet, no model, no MuJoCo."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tests.rows import measures
from vlaprune_bench.policies.base import PolicyInfo
from vlaprune_bench.rollout.jobs import Schedule
from vlaprune_bench.rollout.launcher import Local
from vlaprune_bench.rollout.pool import Processes
from vlaprune_bench.rollout.setup import Loaded
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.types import ActionChunk, Observation

INFO = PolicyInfo(
    policy="openvla-oft",
    name="toy",
    checkpoint_hash="c0ffee",
    trained=False,
    assets="lite",
    device="cpu",
    dtype="float32",
    attention="sdpa",
    n_layers=4,
    grids=((16, 16), (16, 16)),
    chunk=8,
    unnorm_key="toy",
)
ASSETS = AssetSet("lite", Path("/nowhere"), "a55e7")
LOADED = Loaded(INFO, ASSETS, "egl", Path(__file__).parent / "data")


class FakePolicy:
    """A policy whose actions depend on the episode's seed and the call alone.

    `begun` has method and seed of each episode; `on_call` is given method, memory and call of each.
    """

    info = INFO

    def __init__(self, on_call=lambda method, memory: None, moves=True):
        self.begun = []
        self.log = []
        self.batches = []
        self.on_call = on_call
        self.moves = moves

    def resolve(self, pruner):
        return pruner

    def start(self, instruction, seed, pruner, noise_seed):
        self.begun.append((pruner.name, seed))
        return SimpleNamespace(
            calls=0, random=np.random.default_rng(seed), method=pruner, name=instruction
        )

    def end(self, memory):
        pass

    def act(self, memory, observation, eef_poses, batch_size=1):
        assert observation.images is not None
        self.log.append((memory.name, memory.method.keep_ratio, memory.calls))
        self.on_call(memory.method, memory)
        memory.calls += 1
        kept = round(512 * (memory.method.keep_ratio or 1))
        actions = memory.random.uniform(-1, 1, (8, 7)) + eef_poses[-1, 2] / 100
        cost = measures(
            tokens_per_layer=[512, kept + memory.calls % 2],
            visual_tokens_kept=kept,
            kept_visual=list(range(kept)),
            total_flops=kept + memory.calls % 2,
            latency_total_ms=float(memory.calls),
            batch_size=batch_size,
        )
        return ActionChunk(actions=actions if self.moves else 0 * actions, measures=cost)

    def act_many(self, calls):
        self.batches.append(len(calls))
        answers = []
        for c in calls:
            try:
                answers.append(self.act(c.memory, c.observation, c.eef_poses, len(calls)))
            except RuntimeError as error:
                answers.append(error)
        return answers


class FakePool(Processes):
    """Worker processes with the simulator of `tests.rollout.fake_sim`, which fails on demand.

    `pids` has those that were started; `after_start` is called after each.
    """

    def __init__(self, module="tests.rollout.fake_sim", after_start=lambda process: None):
        super().__init__(module)
        self.pids = []
        self.after_start = after_start

    def start(self):
        process = super().start()
        self.pids.append(process.pid)
        self.after_start(process)
        return process


class FakeLauncher(Local):
    """Runs episodes of a policy at hand; `policies` has one for each time something was loaded.

    Args:
        make_policy: called with no argument at each load.
        pool: where simulators come from.
        order: is given the jobs and returns those to run.
        recycle_after: see `Server`.
        loaded: what it says was loaded.
    """

    def __init__(
        self, make_policy=FakePolicy, pool=None, order=list, recycle_after=None, loaded=LOADED
    ):
        super().__init__(pool or FakePool())
        self.policies = []
        self._make, self._order, self._recycle, self._loaded = (
            make_policy,
            order,
            recycle_after,
            loaded,
        )

    @property
    def policy(self):
        (policy,) = self.policies
        return policy

    def confirmed(self, config, known):
        return True

    def load(self, cells):
        self._policy = self._make()
        self.policies.append(self._policy)
        return self._loaded

    def run(self, jobs, guard, stopping, say):
        if not isinstance(jobs, Schedule):
            jobs = self._order(jobs)
        return super().run(jobs, guard, stopping, say)

    def server(self, config, guard, workers):
        server = super().server(config, guard, workers)
        if self._recycle is not None:
            server.recycle_after = self._recycle
        return server


class FakeTask:
    """A hand that moves by the action; solved at a given step. An `episode.Environment`."""

    instruction = "reach"

    def __init__(self, success_at: int = 10**9):
        self.success_at = success_at
        self.log: list[tuple[float, bool]] = []

    def reset(self, trial):
        self.position = np.zeros(3)
        return self._see(True)

    def step(self, action, look):
        self.log.append((float(action[0]), look))
        self.position = self.position + action[:3]
        return self._see(look), len(self.log) >= self.success_at

    def _see(self, look):
        images = np.zeros((2, 8, 8, 3), np.uint8) if look else None
        quat = np.array([0.0, 0, 0, 1])
        return Observation(self.position.copy(), quat, np.zeros(2), images)


class FakeLibero(FakeTask):
    """Stands in for LiberoTask in this process: notes what is opened and shown.

    What is to be otherwise is set on a subclass, see `fake_libero`.
    """

    opened: list[int]
    shown: list[tuple[int, int]]
    sim, self_check = "fast", "passed"
    scene, frames = "5ce9e", "f4a3e5"
    solved_at = 10**9

    def __init__(self, key):
        super().__init__(self.solved_at)
        self.task, self.name = key.task, f"task_{key.task}"
        self.init_state_hash = self.scene_hash = self.scene
        self.frames_hash = self.frames
        self.opened.append(key.task)

    def fingerprint(self, trial):
        return self.scene

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def reset(self, trial):
        self.shown.append((self.task, trial))
        self.log.clear()
        self.trial = trial
        return super().reset(trial)

    def step(self, action, look):
        self.before_step()
        return super().step(action, look)

    def before_step(self):
        """To be set: what goes wrong."""


def fake_libero(monkeypatch, **attributes):
    """Put a `FakeLibero` with these attributes where a run in this process looks for the simulator.

    Returns:
        The class.
    """
    made = type("Made", (FakeLibero,), {"opened": [], "shown": [], **attributes})
    module = SimpleNamespace(LiberoTask=made)
    monkeypatch.setitem(sys.modules, "vlaprune_bench.sim.libero", module)
    return made
