"""Options that nothing reads because of what other options say."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.pruning.gate import MotionGate


def without_unread(pruner: Pruner) -> Pruner:
    """The method with options nobody reads at their defaults: what it does is the same."""
    changes: dict[str, Any] = {}
    for f in fields(pruner):
        value = getattr(pruner, f.name)
        if isinstance(value, Pruner):
            changes[f.name] = without_unread(value)
        elif isinstance(value, MotionGate):
            changes[f.name] = _plain_gate(value, getattr(pruner, "reading", "paper"))
    return replace(pruner, **changes)


def _plain_gate(gate: MotionGate, reading: str) -> MotionGate:
    """As `MotionGate.measure` and `MotionGate._rule` read their options."""
    unread = set()
    displacement = gate.displacement
    if displacement == "reading":
        displacement = "arc_sum" if reading == "paper" else "net"
    if displacement == "net":
        unread.add("min_delta_pos")
    if gate.lever_arm == 0:
        unread.add("min_delta_rot")
    if gate.rule == "avg":
        unread.add("lookback")
        if gate.hysteresis_up == gate.hysteresis_down == 0:
            unread.add("hold_last_state")  # one threshold: nothing is between
    defaults = {f.name: f.default for f in fields(gate) if f.default is not MISSING}
    changes: dict[str, Any] = {name: defaults[name] for name in unread}
    return replace(gate, displacement=displacement, **changes)
