"""ADP's motion gate: prune while the hand moves fast, look closely while it moves slowly."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from vlaprune_bench.pruning.options import check_options, option


@dataclass
class GateMemory:
    """One episode's gate: displacements seen and decisions made."""

    displacements: list[float] = field(default_factory=list)
    mean: float = 0.0
    """Running mean of the `avg` rule, m = (m + d) / 2."""
    state: bool = False
    """The last decision, after the limit on consecutive pruned windows."""
    streak: int = 0
    """Pruned windows in a row."""
    poses: list[np.ndarray] = field(default_factory=list)
    """Poses since the last decision, the one it was made at included."""


@dataclass(frozen=True)
class MotionGate:
    """Decides before each window (an executed action chunk of 8) whether it runs pruned.

    Rules of ADP (arXiv 2509.22093) over the displacement d of the window just executed:
    `avg` prunes where d >= m after m = (m + d) / 2, the first m being d; `adjacent` compares d
    with the `lookback` windows before it: at least their maximum: prune; below their minimum (the
    paper: or equal): full; between: hold the last decision, or prune.

    The reference reads `lever_arm`, `min_delta_rot`, the hystereses and `tolerance` from its files
    and never uses them; here each has a meaning, and with its default none.
    """

    rule: Literal["adjacent", "avg"] = "adjacent"
    """How displacement decides: against recent windows (adjacent) or a running mean (avg)."""
    window_steps: int = option(8, at_least=1)
    """Control steps of a window at least; calls within one share its decision, so that a policy
    called every step (OpenVLA) is gated on the same stretch of motion as one called every 8."""
    lookback: int = option(2, at_least=1)
    """Earlier windows the adjacent rule compares with (the paper's tau; the reference's
    adjacent_extrema_window less one)."""
    hold_last_state: bool = True
    """Between the two thresholds: keep the last decision; if not, prune."""
    displacement: Literal["reading", "arc_sum", "net"] = "reading"
    """Path length (arc_sum, the paper) or end minus start (net, the reference code); by default
    what the reading of paper or code says."""
    min_delta_pos: float = option(0.0, at_least=0)
    """Steps of a path shorter than this count as no motion, metres (arc_sum only)."""
    lever_arm: float = option(0.0, at_least=0)
    """Adds rotation to displacement, d = |dp| + lever_arm * |dtheta|, metres (L_eff)."""
    min_delta_rot: float = option(0.0, at_least=0)
    """Smaller rotations count as none, radians: of a step (arc_sum) or of the window (net)."""
    hysteresis_up: float = option(0.0, at_least=0)
    """Relative margin above the upper threshold that d must reach before it prunes."""
    hysteresis_down: float = option(0.0, at_least=0)
    """Relative margin below the lower threshold that d must reach before all tokens stay."""
    tolerance: float = option(0.0, at_least=0)
    """Displacements closer to a threshold than this count as equal to it, metres (tol_equal)."""
    max_consecutive_pruned: int = option(3, at_least=0)
    """After this many pruned windows in a row, one full; 0: no limit."""
    initial_state: bool = False
    """Decision until enough windows were seen: pruned, or full."""

    def __post_init__(self) -> None:
        check_options(self)

    def canonical(self, reading: str) -> MotionGate:
        """This gate with options at their defaults that `measure` and `_rule` do not read because
        of what others say: it decides the same."""
        unread = {"min_delta_pos"} if self._displacement(reading) == "net" else set()
        if self.lever_arm == 0:
            unread.add("min_delta_rot")
        if self.rule == "avg":
            unread.add("lookback")
        one_window = self.rule == "avg" or self.lookback == 1
        if one_window and self.hysteresis_up == self.hysteresis_down == 0:
            unread.add("hold_last_state")  # one threshold: nothing is between
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        changes: dict[str, Any] = {name: defaults[name] for name in unread}
        return replace(self, displacement=self._displacement(reading), **changes)

    def _displacement(self, reading: str) -> Literal["arc_sum", "net"]:
        if self.displacement == "reading":
            return "arc_sum" if reading == "paper" else "net"
        return self.displacement

    def measure(self, poses: np.ndarray, reading: str) -> float:
        """Displacement of one window.

        Args:
            poses: (steps + 1, 7) end-effector poses, first and last included: metres, then
                quaternion xyzw.
            reading: paper or code.

        Returns:
            Metres.
        """
        kind = self._displacement(reading)
        if kind == "net":
            poses = poses[[0, -1]]
        distances = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
        if kind == "arc_sum":
            distances = distances[distances >= self.min_delta_pos]
        angles = turns(poses[:, 3:])
        angles = angles[angles >= self.min_delta_rot]
        return float(distances.sum() + self.lever_arm * angles.sum())

    def decide(self, memory: GateMemory, poses: np.ndarray, reading: str) -> bool:
        """Whether the call about to be made runs pruned; asked once per call, in order.

        Args:
            memory: this episode's gate, updated in place.
            poses: (steps + 1, 7) poses observed since the previous call, its own included; a
                single row at the first call.
            reading: paper or code.
        """
        if memory.poses and len(memory.poses) + len(poses) - 2 < self.window_steps:
            memory.poses += list(poses[1:])
            return memory.state
        if memory.poses:
            seen = np.array([*memory.poses, *poses[1:]])
            memory.displacements.append(self.measure(seen, reading))
            prune = self._rule(memory, reading)
        else:
            prune = self.initial_state
        if prune and self.max_consecutive_pruned and memory.streak >= self.max_consecutive_pruned:
            prune = False
        memory.poses = [poses[-1]]
        memory.streak = memory.streak + 1 if prune else 0
        memory.state = prune
        return prune

    def _rule(self, memory: GateMemory, reading: str) -> bool:
        *earlier, d = memory.displacements
        if self.rule == "avg":
            memory.mean = (memory.mean + d) / 2 if earlier else d
            low = high = memory.mean
            equal_is_low = False
        else:
            if len(earlier) < self.lookback:
                return self.initial_state
            low, high = min(earlier[-self.lookback :]), max(earlier[-self.lookback :])
            equal_is_low = reading == "paper"
        high, low = high * (1 + self.hysteresis_up), low * (1 - self.hysteresis_down)
        if d >= high - self.tolerance:
            return True
        if d < low - self.tolerance or (equal_is_low and d <= low + self.tolerance):
            return False
        return memory.state if self.hold_last_state else True


def turns(quats: np.ndarray) -> np.ndarray:
    """Angles between successive orientations, (n - 1,) radians in [0, pi]; q and -q are one."""
    dots = np.abs((quats[1:] * quats[:-1]).sum(axis=1))
    norms = np.linalg.norm(quats[1:], axis=1) * np.linalg.norm(quats[:-1], axis=1)
    return 2 * np.arccos(np.clip(dots / norms, 0.0, 1.0))
