"""What a certificate costs in episodes, simulated, against a fixed number of scenes.

    python scripts/certify_costs.py            # the table of docs/certify.md

Reference success 0.95, budget 0.05, alpha 0.05; theta is what is truly lost of what works. Fixed n:
the least number of scenes at which the upper end of a one-sided Clopper-Pearson interval lies below
the budget with a chance of 0.9. Its two forms: of P(C = 0 | R = 1), which needs the reference on
every scene; and of P(R = 1, C = 0), which needs it where the candidate failed alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import bdtr

from vlaprune_bench.certify.bets import BETS, tells, wealth

SUCCESS, BUDGET, ALPHA, POWER, MOST = 0.95, 0.05, 0.05, 0.9, 1000
Wealth = Callable[[np.ndarray], np.ndarray]
"""Wealth by scene, of what scenes tell."""


def _allowed(n: int, budget: float) -> int:
    """The most failures of n at which failing with chance `budget` is refuted; -1: none."""
    k = -1
    while bdtr(k + 1, n, budget) <= ALPHA:
        k += 1
    return k


def bet(theta: float, fraction: float, how: Wealth, runs: int) -> tuple[float, float, float]:
    """Share certified within `MOST` scenes; mean scenes and mean episodes of the reference."""
    rng = np.random.default_rng(0)
    reference = rng.random((runs, MOST)) < SUCCESS
    lucky = rng.random((runs, MOST)) < 0.5
    candidate = np.where(reference, rng.random((runs, MOST)) >= theta, lucky)
    looked = rng.random((runs, MOST)) < fraction
    path = how(tells(reference, candidate, looked, BUDGET, fraction))
    hit = path >= 1 / ALPHA
    scenes = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, MOST)
    ran = np.cumsum(~candidate | looked, axis=1)
    return (
        float(hit.any(axis=1).mean()),
        float(scenes.mean()),
        float(np.take_along_axis(ran, scenes[:, None] - 1, axis=1).mean()),
    )


def mixture(x: np.ndarray) -> np.ndarray:
    """The test's own bets."""
    return wealth(x, BUDGET)


def bold(x: np.ndarray) -> np.ndarray:
    """One fixed bet, the boldest but one."""
    return wealth(x, BUDGET, bets=BETS[-2:-1], weights=np.ones(1))


def greedy(x: np.ndarray) -> np.ndarray:
    """One bet at a time: the one that is best for the share lost so far."""
    lost, kept = np.maximum(x, 0) / (1 - BUDGET), np.maximum(-x, 0) / BUDGET
    before_lost, before_kept = (np.cumsum(part, axis=1) - part for part in (lost, kept))
    theta = (before_lost + BUDGET / 4) / (before_lost + before_kept + 1)
    share = np.clip(1 - theta / BUDGET, 0, BETS[-1])
    return np.exp(np.cumsum(np.log(1 - share / (1 - BUDGET) * x), axis=1))


def main(runs: int = 400) -> None:
    print("| theta | test | certified | scenes | candidate + reference episodes |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, theta in (("0", 0.0), ("b / 3", BUDGET / 3), ("b / 2", BUDGET / 2)):
        n = fixed_n(theta, BUDGET) / SUCCESS
        print(f"| {name} | fixed n, reference always | 90 % | {n:.0f} | {n:.0f} + {n:.0f} |")
        joint = fixed_n(theta * SUCCESS, BUDGET * SUCCESS)
        failed = joint * (1 - SUCCESS) * 0.5 + joint * SUCCESS * theta
        print(
            f"| {name} | fixed n, reference where needed (joint, of b x 0.95) | 90 % | {joint:.0f} "
            f"| {joint:.0f} + {failed:.0f} |"
        )
        for said, fraction, how in (
            ("mixture, q = 1", 1.0, mixture),
            ("mixture, q = 0.3", 0.3, mixture),
            ("one bold bet, q = 1", 1.0, bold),
            ("one bold bet, q = 0.3", 0.3, bold),
            ("one greedy bet, q = 1", 1.0, greedy),
            ("one greedy bet, q = 0.3", 0.3, greedy),
        ):
            share, scenes, ran = bet(theta, fraction, how, runs)
            print(f"| {name} | {said} | {share:.0%} | {scenes:.0f} | {scenes:.0f} + {ran:.0f} |")


def fixed_n(theta: float, budget: float) -> int:
    """Trials of which a share `theta` fails, until Clopper-Pearson's limit is below the budget with
    chance `POWER`."""
    n = 1
    while (k := _allowed(n, budget)) < 0 or (theta > 0 and bdtr(k, n, theta) < POWER):
        n += 1
    return n


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
