"""What a user may choose of a flow-matching policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from vlaprune_bench.policies.flow.model import Kept
from vlaprune_bench.types import UserError


@dataclass(frozen=True)
class FlowOptions:
    """What a user may choose of a policy; none of it is a pruning method's."""

    empty_cameras: Literal["drop", "keep"] = "drop"
    """Masked tokens of cameras the checkpoint declares empty: left out of the sequence, or kept in
    it as the reference does. Nobody sees them: the actions are the same."""
    float32: Kept = "lerobot"
    """What stays in float32 where the model is in half precision: as LeRobot 0.6.1, as openpi, or
    none."""
    state_in_prompt: Literal["8", "32", "none"] = "8"
    """Numbers of the state in pi0.5's prompt: LIBERO's eight, padded to 32 (LeRobot up to 0.4.4),
    or none (openpi)."""
    attention_step: int = 0
    """Denoising step whose attention counts as that of the actions, from 0."""

    @classmethod
    def read(cls, pairs: Sequence[str]) -> FlowOptions:
        """Options given as "key=value".

        Raises:
            UserError: no such option, or a value that is none of its.
        """
        known, hints = {f.name: f for f in fields(cls)}, get_type_hints(cls)
        given: dict[str, Any] = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key not in known:
                raise UserError(f"--policy-options has {pair}; there are: {', '.join(known)}.")
            if hints[key] is int:
                if not value.isdecimal():
                    raise UserError(f"--policy-options has {pair}; {key} must be a whole number.")
                given[key] = int(value)
            elif value not in get_args(hints[key]):
                choices = " or ".join(get_args(hints[key]))
                raise UserError(f"--policy-options has {pair}; {key} must be {choices}.")
            else:
                given[key] = value
        return cls(**given)
