"""pi0.5: the state is text in the prompt, the time conditions the expert's norms.

Source: arXiv 2504.16054; LeRobot's port.
"""

from __future__ import annotations

import numpy as np

from vlaprune_bench.policies.flow.inputs import clean, pi05_prompt
from vlaprune_bench.policies.flow.pi0 import Pi0
from vlaprune_bench.policies.flow.sizes import Sizes, pi_sizes


class Pi05(Pi0):
    """pi0.5."""

    name = "pi05"
    text_length = 200

    def _sizes(self) -> Sizes:
        return pi_sizes(self.files, adaptive=True)

    def _text(self, instruction: str, state: np.ndarray) -> str:
        wanted = self.options.state_in_prompt
        if wanted == "none":
            return f"{clean(instruction)}\n"
        padded = np.zeros(int(wanted), np.float32)
        padded[: len(state)] = state
        return pi05_prompt(instruction, padded)
