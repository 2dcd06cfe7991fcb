"""Simulated time: what the robot does while a policy call runs, control step by control step.

Exact and the same on any machine: how long a call takes is drawn from given latencies, never
measured. Times are whole microseconds, so that what is carried over adds up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlaprune_bench.measure.latencies import NOTHING, Quantiles
from vlaprune_bench.types import (
    ACTION_OPEN,
    CONTROL_STEP_MS,
    CallTiming,
    ClockKind,
    EpisodeSpec,
    Tick,
    uniform,
)


@dataclass(frozen=True)
class Timing:
    """How an episode's calls take time."""

    clock: ClockKind = "stop"
    tick: Tick = "carry"
    pruned: Quantiles = NOTHING
    unpruned: Quantiles = NOTHING
    """Latencies of calls that pruned, and that did not."""

    def latency_ms(self, spec: EpisodeSpec, call: int, pruned: bool | None) -> float:
        """Of a call: one quantile for all methods, so that pairs stay pairs."""
        share = uniform("latency", spec.seed, spec.suite, spec.task, spec.trial, call)
        return (self.pruned if pruned else self.unpruned).at(share)

    def most_steps(self) -> int:
        """Control steps the longest call may take."""
        longest = round(1000 * max(*self.pruned.ms, *self.unpruned.ms))
        return (longest + STEP_US - 1) // STEP_US  # what was carried over is less than a step


STEP_US = round(1000 * CONTROL_STEP_MS)


@dataclass
class _Pending:
    """A call that runs."""

    actions: np.ndarray
    left: int
    """Control steps until its chunk is there."""
    enters: int
    """Index of the chunk's first action to be executed."""
    call: int


class Clock:
    """Which action each control step of one episode executes, and when the policy is called.

    stop: the world waits for the policy. hold: the robot holds its pose while a call runs, then
    executes the chunk from its beginning. async: it goes on with what is left of the current chunk
    and enters the new one at the index of the steps that passed since its observation; the next
    call starts when `execute_steps` steps of a chunk, counted from its observation, are done. The
    first call of an episode holds under both; so does whoever has no action left.

    Attributes:
        calls: What became of each call's latency and chunk.
    """

    def __init__(self, timing: Timing, spec: EpisodeSpec, execute_steps: int) -> None:
        self._timing, self._spec, self._execute_steps = timing, spec, execute_steps
        self._chunk = np.empty((0, 7))
        self._index = 0
        self._owner = self._stale = 0  # the call that gave the chunk, and what it skipped
        self._pending: _Pending | None = None
        self._carried_us = 0
        self._gripper = ACTION_OPEN
        self.calls: list[CallTiming] = []

    @property
    def calling(self) -> bool:
        """Whether a call starts now, before the next control step."""
        done = self._index >= min(self._execute_steps, len(self._chunk))
        return self._pending is None and done

    def answered(self, actions: np.ndarray, pruned: bool | None) -> None:
        """A call that started now gave these actions, (chunk, 7); they are there later."""
        call = len(self.calls)
        latency = self._timing.latency_ms(self._spec, call, pruned)
        steps = self._steps(latency)
        moving = self._timing.clock == "async" and call > 0
        if not moving:
            self._chunk = self._chunk[: self._index]
        enters = steps if moving else 0
        drawn = None if self._timing.clock == "stop" else latency
        self.calls.append(
            CallTiming(drawn_latency_ms=drawn, latency_steps=steps, stale_actions=0, used="unused")
        )
        self._pending = _Pending(actions, steps, enters, call)
        self._arrive()

    def _steps(self, latency_ms: float) -> int:
        """Whole control steps a call takes."""
        us = round(1000 * latency_ms)
        if self._timing.tick == "ceil":
            return -(-us // STEP_US)
        steps, self._carried_us = divmod(self._carried_us + us, STEP_US)
        return steps

    def _arrive(self) -> None:
        """Take up the chunk of a call whose time is over; one that is too late is thrown away."""
        pending = self._pending
        if pending is None or pending.left:
            return
        self._pending = None
        if pending.enters >= len(pending.actions):
            self._tell(pending.call, used="discarded")
        else:
            self._chunk, self._owner = pending.actions, pending.call
            self._index = self._stale = pending.enters

    def _tell(self, call: int, **what: Any) -> None:
        self.calls[call] = replace(self.calls[call], **what)

    def step(self) -> tuple[np.ndarray, bool]:
        """The action, (7,), of the control step that comes now, and whether it only holds."""
        held = self._index >= len(self._chunk)
        if held:
            action = np.array([0.0] * 6 + [self._gripper])
        else:
            action = self._chunk[self._index]
            self._index += 1
            self._gripper = float(action[6])
            self._tell(self._owner, used="used", stale_actions=self._stale)
        if self._pending is not None:
            self._pending.left -= 1
            self._arrive()
        return action, held
