"""Intervals and tests for success rates. Rates and differences are fractions of 1.

Episodes are Bernoulli trials. A method and `none` run the same episodes (same scene, same init
state, same seed), so they are compared in pairs: `losses` are episodes only `none` solved, `gains`
those only the method solved; the rest says nothing about which is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""
REPLICATES = 4000
"""Bootstrap replicates: the ends of an interval are then good to about a tenth of its width."""


@dataclass(frozen=True)
class Rate:
    """A number with its 95 % interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (95 % by default).

    Source: Wilson, JASA 22 (1927).

    Returns:
        Lower and upper bound, fractions of 1; (nan, nan) without trials.
    """
    if trials == 0:
        return math.nan, math.nan
    p = successes / trials
    scale = 1 / (1 + z**2 / trials)
    centre = scale * (p + z**2 / (2 * trials))
    half = scale * z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def rate(successes: float, trials: float) -> Rate:
    """A success rate with Wilson's interval."""
    return Rate(successes / trials if trials else math.nan, *wilson(successes, trials))


def combine(rates: Sequence[Rate], weights: Sequence[float]) -> Rate:
    """A weighted sum of independent rates, with an interval made from theirs.

    Weights (1, -1) give a difference (then this is Newcombe's hybrid score interval), 1/k each an
    average. Source: method of variance estimates recovery, Zou and Donner, Stat. Med. 27 (2008).
    """
    value = sum(w * r.value for w, r in zip(weights, rates, strict=True))
    down = up = 0.0
    for w, r in zip(weights, rates, strict=True):
        below, above = w * (r.value - r.low), w * (r.high - r.value)
        down += (below if w > 0 else above) ** 2
        up += (above if w > 0 else below) ** 2
    return Rate(value, value - math.sqrt(down), value + math.sqrt(up))


def average(suites: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> Rate:
    """The mean of the suites' success rates, with a bootstrap interval over tasks and trials.

    Each replicate draws tasks with replacement within each suite, then trials with replacement
    within each drawn task (for success or failure that is a binomial draw). So the interval answers
    for tasks like these, not only for more trials of these. Where tasks hardly differ it would be
    too short (of length 0 when all trials agree): it is never shorter than the one `combine` makes
    of the suites' Wilson intervals.

    Args:
        suites: (successes, trials) of the tasks of each suite, integer arrays of shape (tasks,).
        seed: of the bootstrap.
    """
    if not suites or any(trials.sum() == 0 for _, trials in suites):
        return Rate(math.nan)
    rng = np.random.default_rng(seed)
    replicates = np.zeros(REPLICATES)
    for successes, trials in suites:
        seen = trials > 0
        successes_T, trials_T = successes[seen], trials[seen]
        drawn_RT = rng.integers(len(trials_T), size=(REPLICATES, len(trials_T)))
        trials_RT = trials_T[drawn_RT]
        wins_RT = rng.binomial(trials_RT, (successes_T / trials_T)[drawn_RT])
        replicates += wins_RT.sum(axis=1) / trials_RT.sum(axis=1) / len(suites)
    low, high = np.quantile(replicates, (0.025, 0.975))
    floor = combine(
        [rate(int(s.sum()), int(n.sum())) for s, n in suites], [1 / len(suites)] * len(suites)
    )
    return Rate(floor.value, min(float(low), floor.low), max(float(high), floor.high))


def mcnemar(losses: int, gains: int) -> float:
    """Two-sided p-value of the exact McNemar test: discordant pairs fall either way alike."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(losses, gains), losses + gains, 0.5)))


def paired_score(losses: int, gains: int, pairs: int, difference: float) -> float:
    """Tango's score statistic for a hypothetical difference of paired rates.

    Standard normal where `difference` is true; its square at 0 is McNemar's chi-square.
    Source: Tango, Stat. Med. 17 (1998).
    """
    a = 2 * pairs
    b = -gains - losses + (2 * pairs - gains + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = pairs * (2 * q + difference * (1 - difference))
    above = gains - losses - pairs * difference
    return above / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, above)


def paired_difference(losses: int, gains: int, pairs: int, z: float = Z95) -> Rate:
    """Success rate of the method less that of `none` on the same episodes (Tango's interval)."""
    from scipy.optimize import brentq

    if pairs == 0:
        return Rate(math.nan)
    edge = 1 - 1e-9

    def bound(target: float) -> float:
        def gap(difference: float) -> float:
            return max(min(paired_score(losses, gains, pairs, difference), 1e6), -1e6) - target

        if gap(-edge) <= 0:
            return -1.0
        return 1.0 if gap(edge) >= 0 else float(brentq(gap, -edge, edge, xtol=1e-9))

    return Rate((gains - losses) / pairs, bound(z), bound(-z))


def mean_difference(gaps: np.ndarray) -> Rate:
    """The mean of paired differences, in their unit, with Student's 95 % interval.

    Args:
        gaps: (pairs,); one alone has no interval.
    """
    if not len(gaps):
        return Rate(math.nan)
    from scipy.stats import t as student

    mean = float(np.mean(gaps))
    if len(gaps) == 1:
        return Rate(mean)
    half = student.ppf(0.975, len(gaps) - 1) * float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps))
    return Rate(mean, mean - half, mean + half)


def change_of_difference(before: np.ndarray, after: np.ndarray, same: bool, z: float = Z95) -> Rate:
    """How much a paired difference changes from one condition to another.

    Each difference has Tango's interval; theirs make that of the change, less wide where the two
    differences vary together. Source: method of variance estimates recovery for dependent
    estimates, Zou, Psychological Methods 12 (2007).

    Args:
        before: (pairs,) int: 1 where the method alone succeeded, -1 where `none` alone did, else 0.
        after: the same in the other condition.
        same: pair i is the same scene in both; else the pairs of the two are independent.
        z: of the interval, 95 % by default.
    """
    one, two = (
        paired_difference(int((gaps < 0).sum()), int((gaps > 0).sum()), len(gaps), z)
        for gaps in (before, after)
    )
    both_vary = same and len(before) > 1 and np.ptp(before) > 0 and np.ptp(after) > 0
    r = float(np.corrcoef(before, after)[0, 1]) if both_vary else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a + b * b - 2 * r * a * b, 0.0))

    value = two.value - one.value
    low = value - reach(two.value - two.low, one.high - one.value)
    return Rate(value, low, value + reach(two.high - two.value, one.value - one.low))


def change_p(before: np.ndarray, after: np.ndarray, same: bool) -> float:
    """Two-sided p-value against no change: the level at which the interval of
    `change_of_difference` (arguments as there) just reaches 0; nan without pairs."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    value = change_of_difference(before, after, same).value
    if math.isnan(value) or value == 0:
        return 1.0 if value == 0 else math.nan

    def margin(z: float) -> float:
        interval = change_of_difference(before, after, same, z)
        return interval.low if value > 0 else -interval.high

    far = 8.0  # beyond, p is below 1e-14
    z = far if margin(far) > 0 else float(brentq(margin, 1e-6, far, xtol=1e-6))
    return 2 * float(ndtr(-z))


def non_inferiority(losses: int, gains: int, pairs: int, margin: float) -> float:
    """One-sided p-value against "worse than `none` by `margin` or more" (Tango's score test)."""
    from scipy.special import ndtr

    return float(ndtr(-paired_score(losses, gains, pairs, -margin))) if pairs else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being many (Holm, Scand. J. Stat. 6, 1979), in the order given."""
    corrected = [math.nan] * len(p_values)
    order = sorted(
        (k for k, p in enumerate(p_values) if not math.isnan(p)), key=lambda k: p_values[k]
    )
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[k]))
        corrected[k] = largest
    return corrected


def anytime_p(losses: int, gains: int) -> float:
    """A p-value that stays valid when one looks after every episode and stops at will.

    1 / e with the e-value of a uniform bet on the share of gains among discordant pairs,
    2^(losses + gains) B(gains + 1, losses + 1): a martingale where neither side is better, so by
    Ville's inequality it ever falls to a with probability a at most. Larger than `mcnemar`'s, which
    is valid for one look. The order of episodes must not depend on their outcomes.
    """
    from scipy.special import betaln

    log_e = (losses + gains) * math.log(2) + float(betaln(gains + 1, losses + 1))
    return min(1.0, math.exp(-log_e))


def trials_to_see(difference: float, base: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Trials in each of two unpaired arms to see a success rate fall from `base` by `difference`.

    Normal approximation, two-sided level `alpha`. Source: Fleiss, Statistical Methods for Rates
    and Proportions, without continuity correction.

    Returns:
        Trials, rounded up; nan where the lower rate would be negative.
    """
    from scipy.special import ndtri

    lower = base - difference
    if not 0 <= lower <= 1 or math.isnan(base):
        return math.nan
    mean = (base + lower) / 2
    spread = ndtri(1 - alpha / 2) * math.sqrt(2 * mean * (1 - mean))
    spread += ndtri(power) * math.sqrt(base * (1 - base) + lower * (1 - lower))
    return float(math.ceil((spread / difference) ** 2))


def pairs_to_see(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Episodes to run with both methods to see a paired difference by McNemar's test.

    Source: Connor, Biometrics 43 (1987).

    Args:
        difference: of the success rates.
        discordant: share of episodes that only one of the two solves; taken to be at least
            `difference`, which it must be.
        power: chance to see the difference where it is there.
        alpha: two-sided level.
    """
    from scipy.special import ndtri

    share = max(discordant, difference)
    spread = ndtri(1 - alpha / 2) * math.sqrt(share)
    spread += ndtri(power) * math.sqrt(share - difference**2)
    return float(math.ceil((spread / difference) ** 2))
