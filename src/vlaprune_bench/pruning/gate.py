"""ADP's motion gate: prune while the hand moves fast, look closely while it moves slowly."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from vlaprune_bench.types import UserError


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


@dataclass(frozen=True)
class MotionGate:
    """Decides before each window (one executed action chunk) whether it runs pruned.

    Rules of ADP (arXiv 2509.22093) over the displacement d of the window just executed:
    `avg` prunes where d >= m after m = (m + d) / 2, the first m being d; `adjacent` compares d
    with the `lookback` windows before it: at least their maximum: prune; below their minimum (the
    paper: or equal): full; between: hold the last decision, or prune.
    """

    rule: Literal["adjacent", "avg"] = "adjacent"
    """How displacement decides: against recent windows (adjacent) or a running mean (avg)."""
    lookback: int = 2
    """Earlier windows the adjacent rule compares with (the paper's tau; the reference's
    adjacent_extrema_window less one)."""
    hold_last_state: bool = True
    """Between the extremes of the adjacent rule: keep the last decision; if not, prune."""
    displacement: Literal["reading", "arc_sum", "net"] = "reading"
    """Path length (arc_sum, the paper) or end minus start (net, the reference code); by default
    what the reading of paper or code says."""
    min_delta_pos: float = 0.0
    """Steps of a path shorter than this count as no motion, metres (arc_sum only)."""
    max_consecutive_pruned: int = 3
    """After this many pruned windows in a row, one full; 0: no limit."""
    initial_state: bool = False
    """Decision until enough windows were seen: pruned, or full."""

    def __post_init__(self) -> None:
        if self.rule not in ("adjacent", "avg"):
            raise UserError(f"--rule is {self.rule}; it must be adjacent or avg.")
        if self.displacement not in ("reading", "arc_sum", "net"):
            raise UserError(
                f"--displacement is {self.displacement}; it must be reading, arc_sum or net."
            )
        for key, value, least in (
            ("lookback", self.lookback, 1),
            ("min-delta-pos", self.min_delta_pos, 0),
            ("max-consecutive-pruned", self.max_consecutive_pruned, 0),
        ):
            if value < least:
                raise UserError(f"--{key} is {value}; it must be at least {least}.")

    def measure(self, positions: np.ndarray, reading: str) -> float:
        """Displacement of one window.

        Args:
            positions: (steps + 1, 3) end-effector positions in metres, first and last included.
            reading: paper or code.

        Returns:
            Metres.
        """
        kind = self.displacement
        if kind == "reading":
            kind = "arc_sum" if reading == "paper" else "net"
        if kind == "net":
            return float(np.linalg.norm(positions[-1] - positions[0]))
        steps = np.array([np.linalg.norm(b - a) for a, b in pairwise(positions)])
        return float(steps[steps >= self.min_delta_pos].sum())

    def decide(self, memory: GateMemory, positions: np.ndarray, reading: str) -> bool:
        """Whether the window about to start runs pruned; call once per window, in order.

        Args:
            memory: this episode's gate, updated in place.
            positions: (steps + 1, 3) positions over the window just executed, metres; a single
                row before the first window.
            reading: paper or code.
        """
        if len(positions) > 1:
            memory.displacements.append(self.measure(positions, reading))
            prune = self._rule(memory, reading)
        else:
            prune = self.initial_state
        if prune and self.max_consecutive_pruned and memory.streak >= self.max_consecutive_pruned:
            prune = False
        memory.streak = memory.streak + 1 if prune else 0
        memory.state = prune
        return prune

    def _rule(self, memory: GateMemory, reading: str) -> bool:
        d = memory.displacements[-1]
        if self.rule == "avg":
            memory.mean = (memory.mean + d) / 2 if len(memory.displacements) > 1 else d
            return d >= memory.mean
        if len(memory.displacements) <= self.lookback:
            return self.initial_state
        earlier = memory.displacements[-1 - self.lookback : -1]
        if d >= max(earlier):
            return True
        if d < min(earlier) or (reading == "paper" and d == min(earlier)):
            return False
        return memory.state if self.hold_last_state else True
