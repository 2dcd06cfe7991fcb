"""Where the randomness of scenes comes from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """Where the random numbers of one trial come from: never from a method, a worker or an order.

    Two methods, a resumed run and a single episode rendered again see the same noise.
    """

    seed: int
    suite: str
    task: int
    trial: int

    def rng(self, variant: str, step: int | None = None) -> np.random.Generator:
        """A generator of its own for a variant, at a control step or for the whole episode."""
        key = f"{self.seed} {self.suite} {self.task} {self.trial} {variant} {step}"
        return np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
