"""What is said between the process that holds the policy and those that simulate.

One episode is an exchange: an `Order` goes to a simulator, which tells of it (`Opened`,
`SceneReady`), asks for actions (`ActionRequest`, answered with an `ActionChunk`, or None where the
call failed) and closes with `Ended`. All of it can be pickled and holds no method, model or
simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlaprune_bench.measure.motion import Motion
from vlaprune_bench.rollout.clock import Timing
from vlaprune_bench.types import CallTiming, EpisodeSpec, Observation, SimPath

if TYPE_CHECKING:
    from vlaprune_bench.sim.tasks import TaskKey


@dataclass(frozen=True)
class Film:
    """How an episode's video is made."""

    path: Path
    label: str
    """Begins each caption."""
    gated: bool
    """The method has a gate."""
    every_step: bool
    """A frame for each control step, not only for those the policy sees."""
    frame_steps: int
    """Control steps from frame to frame."""
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of visual tokens of each camera."""


@dataclass(frozen=True)
class Order:
    """An episode to play, with all a simulator must know of it."""

    spec: EpisodeSpec
    task: TaskKey
    execute_steps: int
    film: Film | None = None
    compare: int | None = None
    """A trial of the task whose scene is to be told, if the task is opened for this order."""
    timing: Timing = Timing()
    """How calls take simulated time."""


@dataclass(frozen=True)
class Ready:
    """A simulator's process stands and takes orders."""


@dataclass(frozen=True)
class Refused:
    """A simulator cannot go on for a reason the user can put right: the sentence of a UserError."""

    sentence: str


@dataclass(frozen=True)
class Opened:
    """The task of the order is found; its model may still have to be built."""

    name: str
    instruction: str


@dataclass(frozen=True)
class SceneReady:
    """The episode's scene stands and has settled."""

    init_state_hash: str | None
    scene_hash: str | None
    frames_hash: str | None
    compared: tuple[int, str] | None
    """The trial `Order.compare` and its scene; None: not asked, or the task was open already."""
    sim: SimPath
    self_check: str | None
    reset_s: float
    """Wall time of the reset (and of opening the task, where it was not open), seconds."""
    compile_s: float = 0.0
    """What compiling took besides, once a machine, seconds: on no episode's clock."""


@dataclass(frozen=True)
class ActionRequest:
    """Actions are wanted; the simulator waits."""

    observation: Observation
    eef_poses: np.ndarray
    """As `Policy.act` wants them."""
    steps: int
    """Control steps executed so far."""
    moved: float
    """Path of the end effector since the call before, metres."""


@dataclass(frozen=True)
class Ended:
    """The episode is over."""

    success: bool
    steps: int
    moved: float
    """As in `ActionRequest`."""
    actions_hash: str
    """Of all actions given to the simulator, in order."""
    error: str | None
    """What went wrong in the simulator (or None); it may be in any state then."""
    motion: Motion | None = None
    """What the arm did; None: its process died."""
    held: int | None = None
    """Of the steps, those that held the pose; None likewise."""
    timings: tuple[CallTiming, ...] = ()
    """Of each call that was answered."""


Message = Ready | Refused | Opened | SceneReady | ActionRequest | Ended


class WorkerDied(Exception):
    """A worker is gone; the message says how it ended."""
