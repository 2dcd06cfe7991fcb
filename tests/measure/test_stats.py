"""Statistics against scipy, printed examples and known truth."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from vlaprune_bench.measure.stats import (
    Rate,
    anytime_p,
    average,
    combine,
    holm,
    mcnemar,
    non_inferiority,
    paired_difference,
    paired_score,
    pairs_to_see,
    rate,
    trials_to_see,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (417, 500)])
def test_wilson_equals_scipy(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high))


def test_wilson_covers_as_often_as_it_says():
    trials, truth = 50, 0.9
    bounds = [wilson(k, trials) for k in range(trials + 1)]
    inside = [low <= truth <= high for low, high in bounds]
    coverage = binom.pmf(np.arange(trials + 1), trials, truth) @ inside
    assert 0.93 < coverage < 0.98


def test_without_trials_nothing_is_known():
    assert all(math.isnan(x) for x in wilson(0, 0))
    assert math.isnan(rate(0, 0).value)
    assert math.isnan(paired_difference(0, 0, 0).value)
    assert math.isnan(average([]).value)
    assert math.isnan(average([(np.array([0]), np.array([0]))]).value)


def test_difference_of_two_rates_is_newcombes_example():
    # 56/70 against 48/80: Newcombe, Stat. Med. 17 (1998) 873, method 10
    found = combine([rate(56, 70), rate(48, 80)], [1, -1])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (1, 4), (12, 3), (5, 5), (0, 20)])
def test_mcnemar_is_twice_the_smaller_tail(losses, gains):
    tail = binom.cdf(min(losses, gains), losses + gains, 0.5)
    assert mcnemar(losses, gains) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(("losses", "gains", "pairs"), [(3, 9, 40), (0, 4, 50), (12, 2, 50)])
def test_tango_uses_the_likeliest_rates_given_the_difference(losses, gains, pairs):
    for difference in (-0.2, -0.03, 0.04, 0.3):

        def misfit(q, d=difference):
            p = q + d  # rates of losses q and gains p; the rest of the pairs is concordant
            parts = [(losses, q), (gains, p), (pairs - losses - gains, 1 - p - q)]
            return -sum(n * math.log(max(x, 1e-300)) for n, x in parts if n)

        span = (max(0, -difference), (1 - difference) / 2)
        q = minimize_scalar(misfit, bounds=span, method="bounded", options={"xatol": 1e-12}).x
        variance = 2 * q + difference - difference**2
        expected = (gains - losses - pairs * difference) / math.sqrt(pairs * variance)
        assert paired_score(losses, gains, pairs, difference) == pytest.approx(expected, rel=1e-4)


def test_tango_at_no_difference_is_mcnemars_chi_square():
    assert paired_score(12, 3, 100, 0.0) ** 2 == pytest.approx((12 - 3) ** 2 / (12 + 3))


def test_paired_interval_and_margin_agree():
    found = paired_difference(12, 3, 100)
    assert found.value == pytest.approx(-0.09)
    for bound, z in ((found.low, 1.96), (found.high, -1.96)):
        assert paired_score(12, 3, 100, bound) == pytest.approx(z, abs=1e-3)
    assert non_inferiority(12, 3, 100, -found.low) == pytest.approx(0.025, abs=1e-4)
    assert non_inferiority(0, 0, 100, 0.05) < 0.025 < non_inferiority(0, 0, 40, 0.05)
    assert (paired_difference(0, 9, 9).high, paired_difference(9, 0, 9).low) == (1.0, -1.0)


def test_paired_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    pairs, loss, gain = 200, 0.06, 0.03
    counts = rng.multinomial(pairs, [loss, gain, 1 - loss - gain], size=1000)
    found = {(b, c): paired_difference(b, c, pairs) for b, c, _ in set(map(tuple, counts))}
    inside = [found[b, c].low <= gain - loss <= found[b, c].high for b, c, _ in counts]
    assert 0.93 < np.mean(inside) < 0.98


def test_non_inferiority_is_seldom_wrong():
    rng = np.random.default_rng(1)
    pairs, margin, gain = 500, 0.05, 0.02
    counts = rng.multinomial(pairs, [gain + margin, gain, 1 - 2 * gain - margin], size=2000)
    wrong = [non_inferiority(b, c, pairs, margin) < 0.025 for b, c, _ in counts]
    assert 0.01 < np.mean(wrong) < 0.04


def test_holm_multiplies_by_what_is_left_and_leaves_gaps():
    p = [0.01, 0.04, 0.03, math.nan, 0.2, 0.001]
    found = holm(p)
    assert math.isnan(found[3])
    assert [x for x in found if not math.isnan(x)] == pytest.approx([0.04, 0.09, 0.09, 0.2, 0.005])


def test_average_covers_the_mean_of_the_tasks_it_was_drawn_from():
    rng = np.random.default_rng(2)
    covered, n = [], 150
    for k in range(n):
        suites = []
        for mean in (0.9, 0.6):
            p = rng.beta(8 * mean, 8 * (1 - mean), size=10)
            suites.append((rng.binomial(50, p), np.full(10, 50)))
        found = average(suites, seed=k)
        covered.append(found.low <= 0.75 <= found.high)
    assert 0.90 < np.mean(covered) < 0.99


def test_average_is_seeded_and_no_shorter_than_wilsons():
    all_won = [(np.full(10, 2), np.full(10, 2))]
    found = average(all_won)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(20, 20)[0])
    mixed = [(np.array([5, 50, 20]), np.full(3, 50)), (np.array([40, 45, 9]), np.full(3, 50))]
    assert average(mixed, seed=3) == average(mixed, seed=3) != average(mixed, seed=4)
    assert average(mixed).value == pytest.approx((75 / 150 + 94 / 150) / 2)


def test_average_of_unequal_suites_weighs_suites_not_episodes():
    found = average([(np.array([10]), np.array([10])), (np.array([0]), np.array([1000]))])
    assert found.value == 0.5


def test_anytime_p_is_seldom_small_by_chance_however_often_one_looks():
    rng = np.random.default_rng(3)
    gains = np.cumsum(rng.random((1000, 100)) < 0.5, axis=1)
    table = {(n, g): anytime_p(n - g, g) for n in range(1, 101) for g in range(n + 1)}
    lowest = [min(table[n + 1, g] for n, g in enumerate(row)) for row in gains]
    assert np.mean(np.array(lowest) <= 0.05) <= 0.05
    assert anytime_p(0, 0) == 1.0
    assert mcnemar(3, 20) < anytime_p(3, 20) < 0.05


def test_numbers_of_trials_give_the_power_they_promise():
    rng = np.random.default_rng(4)
    pairs = int(pairs_to_see(0.05, 0.10))
    counts = rng.multinomial(pairs, [0.075, 0.025, 0.9], size=4000)
    chi2 = (counts[:, 0] - counts[:, 1]) ** 2 / np.maximum(counts[:, 0] + counts[:, 1], 1)
    assert np.mean(chi2 > 1.96**2) == pytest.approx(0.8, abs=0.03)
    trials = int(trials_to_see(0.05, 0.95))
    one, two = (rng.binomial(trials, p, 4000) / trials for p in (0.95, 0.90))
    pooled = (one + two) / 2
    z = (one - two) / np.sqrt(2 * pooled * (1 - pooled) / trials)
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.03)
    assert math.isnan(trials_to_see(0.05, 0.02))
    assert pairs_to_see(0.01, 0.0) == pairs_to_see(0.01, 0.01)  # nothing discordant was seen yet


def test_rates_compare_by_value():
    assert Rate(0.5, 0.4, 0.6) == Rate(0.5, 0.4, 0.6)
