"""The episode loop: look, call the policy, execute the chunk open loop, until success or budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlaprune_bench.types import ActionChunk, CallMeasures, EpisodeSpec, Observation

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
    """Path of the end effector while each call's actions were executed, metres."""
    actions: list[np.ndarray] = field(default_factory=list)
    """(7,) float64 each: what the simulator was given."""

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
        watch: is shown the observations; nothing is rendered for it unless `watch_every_step`.
        watch_every_step: render and show every control step, not only those the policy sees.
    """
    observation = task.reset(spec.trial)
    after_reset()
    memory = policy.start(task.instruction, episode_seed)
    poses = [_pose(observation)]
    while progress.steps < spec.max_steps and not progress.success:
        chunk = policy.act(memory, observation, np.array(poses))
        progress.measures.append(chunk.measures)
        progress.call_steps.append(progress.steps)
        progress.displacements.append(0.0)
        if watch and not watch_every_step:
            watch(observation, progress)
        poses = poses[-1:]
        actions = chunk.actions[: min(execute_steps, spec.max_steps - progress.steps)]
        for index, action in enumerate(actions):
            look = watch_every_step or index == len(actions) - 1
            progress.actions.append(action)
            observation, progress.success = task.step(action, look)
            progress.steps += 1
            poses.append(_pose(observation))
            moved = np.linalg.norm(poses[-1][:3] - poses[-2][:3])
            progress.displacements[-1] += float(moved)
            if watch and watch_every_step:
                watch(observation, progress)
            if progress.success:
                break


def _pose(observation: Observation) -> np.ndarray:
    return np.concatenate([observation.eef_pos, observation.eef_quat])
