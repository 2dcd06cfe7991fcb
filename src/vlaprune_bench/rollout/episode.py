"""The episode loop: look, call the policy, execute its actions, until success or budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlaprune_bench.rollout.clock import Clock, Timing
from vlaprune_bench.types import ActionChunk, CallMeasures, CallTiming, EpisodeSpec, Observation

Watcher = Callable[[Observation, "Progress"], None]
"""Is shown every observation that has images, and the episode so far."""


class Environment(Protocol):
    """The part of `sim.libero.LiberoTask` an episode needs."""

    instruction: str

    def reset(self, trial: int) -> Observation: ...

    def step(self, action: np.ndarray, look: bool) -> tuple[Observation, bool]: ...


class Actor(Protocol):
    """The part of a policy an episode needs; see `policies.base.Policy`."""

    def start(self, instruction: str, seed: int) -> Any: ...

    def act(self, memory: Any, observation: Observation, eef_poses: np.ndarray) -> ActionChunk: ...


@dataclass
class Progress:
    """One episode as far as it has come; what is here survives an exception."""

    steps: int = 0
    success: bool = False
    measures: list[CallMeasures] = field(default_factory=list)
    call_steps: list[int] = field(default_factory=list)
    """Control steps executed before each call."""
    displacements: list[float] = field(default_factory=list)
    """Path of the end effector from each call to the next, held steps left out, metres."""
    actions: list[np.ndarray] = field(default_factory=list)
    """(7,) float64 each: what the simulator was given."""
    held: int = 0
    """Of the steps, those that held the pose."""
    positions: list[np.ndarray] = field(default_factory=list)
    """(3,) of the end effector at the begin and after every step, metres."""
    timings: list[CallTiming] = field(default_factory=list)
    """Of each call."""

    @property
    def actions_hash(self) -> str:
        """SHA-256 of all actions, 16 hex digits."""
        return hashlib.sha256(b"".join(action.tobytes() for action in self.actions)).hexdigest()[
            :16
        ]


def run_episode(
    task: Environment,
    policy: Actor,
    spec: EpisodeSpec,
    *,
    episode_seed: int,
    execute_steps: int,
    progress: Progress,
    after_reset: Callable[[], None] = lambda: None,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    watch: Watcher | None = None,
    watch_every_step: bool = False,
) -> None:
    """Run one episode, writing what happens into `progress` as it happens.

    Args:
        task: the simulated task.
        policy: the policy under test.
        spec: which episode this is.
        episode_seed: seed of this episode's policy calls.
        execute_steps: actions of a chunk executed before the policy is called again.
        progress: fresh; filled in place.
        after_reset: called once the scene stands.
        timing: how calls take simulated time; by default the world waits for them.
        watch: is shown the observations; nothing is rendered for it unless `watch_every_step`.
        watch_every_step: render and show every control step, not only those the policy sees.
    """
    observation = task.reset(spec.trial)
    after_reset()
    memory = policy.start(task.instruction, episode_seed)
    clock = Clock(timing, spec, execute_steps)
    progress.timings = clock.calls
    poses = [_pose(observation)]
    progress.positions.append(observation.eef_pos.copy())
    while progress.steps < spec.max_steps and not progress.success:
        if clock.calling:
            chunk = policy.act(memory, observation, np.array(poses))
            progress.measures.append(chunk.measures)
            progress.call_steps.append(progress.steps)
            progress.displacements.append(0.0)
            if watch and not watch_every_step:
                watch(observation, progress)
            poses = poses[-1:]
            clock.answered(chunk.actions, chunk.measures.pruned)
        action, held = clock.step()
        progress.actions.append(action)
        last = progress.steps + 1 == spec.max_steps
        look = watch_every_step or clock.calling or last
        observation, progress.success = task.step(action, look)
        progress.steps += 1
        progress.held += held
        progress.positions.append(observation.eef_pos.copy())
        if not held:
            poses.append(_pose(observation))
            moved = np.linalg.norm(progress.positions[-1] - progress.positions[-2])
            progress.displacements[-1] += float(moved)
        if watch and watch_every_step:
            watch(observation, progress)


def _pose(observation: Observation) -> np.ndarray:
    return np.concatenate([observation.eef_pos, observation.eef_quat])
