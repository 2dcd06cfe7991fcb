"""The test of a certificate: betting against "this setting loses too much", scene by scene.

R is whether the reference solves a scene, C whether the candidate does. Conditional: theta is
P(C = 0 | R = 1), the share of what works that is lost; joint: P(R = 1, C = 0). To be refuted is
theta >= b, the budget. What a scene tells is one number x, of mean 0 or more where that holds:

    conditional   x = (1 - b) R (1 - C) - (b / q) Z R C     Z is 1 with chance q, seeded
    joint         x = R (1 - C) - b

Where Z is 0, a scene the candidate solved tells 0 whatever R is: the reference need not run. A bet
of lambda multiplies a wealth of 1 by 1 - lambda (x - m), m being the least mean x can have where
theta >= b: 0 for scenes drawn without end; without replacement from N, minus the sum so far over
the scenes left. So wealth has mean 1 at most however long one goes on, and ever reaches 1 / alpha
with chance alpha at most (Ville, 1939). Source: Waudby-Smith and Ramdas, JRSS B 86 (2024), bets on
bounded means with and without replacement.

One lambda is right for one theta: the best (Kelly's) is (1 - theta / b) / (1 - b) where q is 1. So
wealth is spread over `BETS` of them, each a share of the largest that keeps wealth positive, and a
mean of wealths is a wealth.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Estimand = Literal["conditional", "joint"]
ESTIMANDS: tuple[Estimand, ...] = get_args(Estimand)
MEANING = {
    "conditional": "P(C = 0 | R = 1): of the scenes the reference solves, the share lost",
    "joint": "P(R = 1, C = 0): the share of all scenes that is lost, weaker than P(C = 0 | R = 1)",
}
"""What theta is."""
N_BETS = 40
BETS = (np.arange(N_BETS) + 0.5) / N_BETS
"""Shares of the largest bet; with q = 1 the k-th is best where theta is (1 - BETS[k]) b."""
WEIGHTS = BETS / BETS.sum()
"""Wealth each begins with: more on bold bets, which win soonest where next to nothing is lost."""
CERTAIN = 1e300
"""Wealth where what is left of a population cannot bring theta up to the budget any more."""
GRID = np.arange(1, 200) / 200
"""Budgets among which `upper_bound` looks."""


def tells(
    reference: np.ndarray,
    candidate: np.ndarray,
    looked: np.ndarray,
    budget: float | np.ndarray,
    fraction: float = 1.0,
    estimand: Estimand = "conditional",
) -> np.ndarray:
    """What scenes tell: x of each.

    Args:
        reference: (..., n) bool, R; anything where it did not run.
        candidate: (..., n) bool, C.
        looked: (..., n) bool, Z.
        budget: b, between 0 and 1; or budgets, (..., 1).
        fraction: q, above 0 and at most 1.
        estimand: which theta.
    """
    lost = reference & ~candidate
    if estimand == "joint":
        return lost - budget
    kept = looked & reference & candidate
    return (1 - budget) * lost - budget / fraction * kept


def wealth(
    x: np.ndarray,
    budget: float | np.ndarray,
    size: int | None = None,
    bets: np.ndarray = BETS,
    weights: np.ndarray = WEIGHTS,
) -> np.ndarray:
    """Wealth after each scene.

    Args:
        x: (..., n) of `tells`, in the order drawn.
        budget: b; or budgets, (..., 1).
        size: scenes of the population that they are drawn from without replacement; None: without
            end.
        bets: (k,) shares of the largest bet, above 0 and below 1, chosen before any data.
        weights: (k,) what each begins with; sums to 1.

    Returns:
        (..., n) float64; from where the population itself decides on, `CERTAIN`.
    """
    least = _least_means(x, size)
    top = (1 - budget) - least  # what x - m can be at most
    certain = np.logical_or.accumulate(top < -1e-9, axis=-1)
    room = np.maximum(top, 1e-9)
    total = np.zeros(x.shape)
    for bet, weight in zip(bets, weights, strict=True):
        factors = np.maximum(1 - bet / room * (x - least), 1 - bet)
        total += weight * np.exp(np.minimum(np.cumsum(np.log(factors), axis=-1), 600.0))
    return np.where(certain, CERTAIN, total)


def _least_means(x: np.ndarray, size: int | None) -> np.ndarray:
    """m of each scene: it is known before the scene is."""
    if size is None:
        return np.zeros(x.shape)
    before = np.cumsum(x, axis=-1) - x
    return -before / (size - np.arange(x.shape[-1]))


def first_at(path: np.ndarray, confidence: float) -> int | None:
    """Scenes after which a path of wealth (n,) certifies; None: it does not."""
    there = np.flatnonzero(path >= 1 / (1 - confidence) - 1e-9)
    return int(there[0]) + 1 if len(there) else None


def upper_bound(
    reference: np.ndarray,
    candidate: np.ndarray,
    looked: np.ndarray,
    confidence: float,
    fraction: float = 1.0,
    estimand: Estimand = "conditional",
    size: int | None = None,
) -> float:
    """An upper confidence limit of theta that holds at any time: every budget below it was not
    certified by these scenes, up to the grid of 0.005. Arguments as of `tells`, (n,) each.

    Returns:
        The limit; 1 where nothing is known.
    """
    budgets = GRID[:, None]
    paths = wealth(tells(reference, candidate, looked, budgets, fraction, estimand), budgets, size)
    failed = [k for k, path in enumerate(paths) if first_at(path, confidence) is None]
    return float(GRID[failed[-1]] + GRID[0]) if failed else float(GRID[0])
