"""The test's error rates, simulated with policies of known rates; and its power."""

import numpy as np
import pytest

from vlaprune_bench.certify.bets import BETS, CERTAIN, first_at, tells, upper_bound, wealth

RUNS, ALPHA = 2000, 0.05
MOST = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / RUNS)
"""False certificates in so many runs, three standard errors above alpha."""


def draw(rng, theta, solves, n, runs=RUNS):
    """R and C of scenes; `theta` and `solves` are numbers, or arrays over the tasks."""
    task = rng.integers(np.size(solves), size=(runs, n))
    theta, solves = (np.broadcast_to(v, np.size(solves)) for v in (theta, solves))
    reference = rng.random((runs, n)) < solves[task]
    lucky = rng.random((runs, n)) < 0.4  # what the reference fails, the candidate may solve
    return reference, np.where(reference, rng.random((runs, n)) >= theta[task], lucky)


def certified(reference, candidate, looked, budget, fraction=1.0, estimand="conditional", **how):
    x = tells(reference, candidate, looked, budget, fraction, estimand)
    path = wealth(x, budget, **how)
    return path >= 1 / ALPHA


SOLVES = np.linspace(0.5, 1.0, 10)
LOSES = np.linspace(0, 2, 10)
LOSES = 0.05 * LOSES * SOLVES.sum() / (SOLVES * LOSES).sum()
"""By task: a mean of 0.05 over what the reference solves."""


@pytest.mark.parametrize("fraction", [1.0, 0.3])
@pytest.mark.parametrize(
    ("theta", "solves"),
    [(0.05, 0.95), (LOSES, SOLVES), (np.eye(10)[0] * 0.5, 1.0)],
    ids=["alike", "tasks differ", "one task lost"],
)
def test_at_the_border_fresh_scenes_certify_falsely_at_most_alpha(fraction, theta, solves):
    rng = np.random.default_rng(1)
    solves = np.broadcast_to(solves, 10) if np.ndim(theta) else solves
    reference, candidate = draw(rng, theta, solves, 600)
    looked = rng.random(reference.shape) < fraction
    rate = certified(reference, candidate, looked, 0.05, fraction).any(axis=1).mean()
    assert 0 < rate <= MOST


@pytest.mark.parametrize("of_hard", [0.2267, 0.0], ids=["failures together", "failures apart"])
def test_so_they_do_where_both_depend_on_the_scene(of_hard):
    """A hidden difficulty moves R and C of a scene; theta over scenes is 0.1 all the same."""
    rng = np.random.default_rng(2)
    hard = rng.random((RUNS, 600)) < 0.3
    reference = rng.random(hard.shape) < np.where(hard, 0.5, 1.0)
    of_easy = (0.1 * 0.85 - 0.15 * of_hard) / 0.7
    candidate = rng.random(hard.shape) >= np.where(hard, of_hard, of_easy)
    candidate &= reference | (rng.random(hard.shape) < 0.2)
    assert (reference & ~candidate).sum() / reference.sum() == pytest.approx(0.1, abs=0.002)
    looked = rng.random(hard.shape) < 0.5
    assert certified(reference, candidate, looked, 0.1, 0.5).any(axis=1).mean() <= MOST


@pytest.mark.parametrize(("size", "solved", "lost"), [(500, 480, 24), (100, 60, 12), (40, 40, 8)])
def test_at_the_border_fixed_scenes_certify_falsely_at_most_alpha(size, solved, lost):
    """A population that loses the budget exactly, in random order, to its very end."""
    rng = np.random.default_rng(3)
    reference = np.arange(size) < solved
    candidate = np.arange(size) >= lost
    order = rng.permuted(np.tile(np.arange(size), (RUNS, 1)), axis=1)
    seen = np.ones((RUNS, size), bool)
    found = certified(reference[order], candidate[order], seen, lost / solved, size=size)
    assert found.any(axis=1).mean() <= MOST


def test_fixed_scenes_with_tasks_that_differ_and_failures_that_come_together():
    """Ten tasks of fifty; all losses are in two tasks, which the reference fails half of."""
    rng = np.random.default_rng(4)
    task, trial = np.divmod(np.arange(500), 50)
    reference = (task > 1) | (trial < 25)
    candidate = ~((task < 2) & (trial < 9)) & (reference | (trial % 2 == 0))
    budget = (reference & ~candidate).sum() / reference.sum()
    order = rng.permuted(np.tile(np.arange(500), (RUNS, 1)), axis=1)
    found = certified(reference[order], candidate[order], order >= 0, budget, size=500)
    assert found.any(axis=1).mean() <= MOST


def test_the_joint_estimand_keeps_its_level_and_needs_the_reference_only_after_failures():
    rng = np.random.default_rng(5)
    reference, candidate = draw(rng, 0.1, 0.5, 600)
    unknown = np.where(candidate, False, reference)
    seen = np.ones_like(reference)
    x = tells(reference, candidate, seen, 0.05, estimand="joint")
    assert (x == tells(unknown, candidate, ~seen, 0.05, estimand="joint")).all()
    assert (wealth(x, 0.05) >= 1 / ALPHA).any(axis=1).mean() <= MOST


def test_what_is_not_looked_at_changes_nothing():
    """Where the candidate solved and Z is 0, R is not known and not needed."""
    rng = np.random.default_rng(6)
    reference, candidate = draw(rng, 0.05, 0.9, 100)
    looked = rng.random(reference.shape) < 0.3
    other = np.where(candidate & ~looked, ~reference, reference)
    one, two = (tells(r, candidate, looked, 0.05, 0.3) for r in (reference, other))
    assert (one == two).all()


def test_what_scenes_tell_has_mean_zero_at_the_border_and_wealth_mean_one_at_most():
    rng = np.random.default_rng(7)
    reference, candidate = draw(rng, 0.2, 0.8, 50, runs=40_000)
    looked = rng.random(reference.shape) < 0.5
    x = tells(reference, candidate, looked, 0.2, 0.5)
    assert abs(x.mean()) < 4 * x.std() / np.sqrt(x.size)
    last = wealth(x, 0.2, bets=np.array([0.1]), weights=np.array([1.0]))[:, -1]
    assert last.mean() == pytest.approx(1, abs=4 * last.std() / np.sqrt(len(last)))


def test_a_mixture_keeps_power_where_one_bold_bet_loses_it():
    """At theta = b / 2 with the reference's success 0.95, b 0.05: docs/certify.md has the table."""
    rng = np.random.default_rng(8)
    reference, candidate = draw(rng, 0.025, 0.95, 1000, runs=300)
    looked = np.ones_like(reference)
    mixture = certified(reference, candidate, looked, 0.05)
    bold = {"bets": BETS[-2:-1], "weights": np.ones(1)}
    alone = certified(reference, candidate, looked, 0.05, **bold)
    assert mixture.any(axis=1).mean() > 0.9 > 0.5 > alone.any(axis=1).mean()


def test_a_population_that_cannot_lose_enough_any_more_is_certain():
    """60 of 60 scenes seen but 4: even if all four were lost, 4 of 60 are under a tenth."""
    seen = np.ones(60, bool)
    path = wealth(tells(seen, seen, seen, 0.1), 0.1, size=60)
    assert path[55] == CERTAIN
    assert path[10] < 1 / ALPHA
    assert first_at(path, 1 - ALPHA) < 56
    lost = np.arange(60) >= 6  # a tenth exactly: never, whatever the order
    assert first_at(wealth(tells(seen, lost, seen, 0.1), 0.1, size=60), 0.95) is None
    late = wealth(tells(seen, lost[::-1], seen, 0.1), 0.1, size=60)
    assert late.max() < 1 / 1e-7  # one order in 5e7 has them all at its end


def test_the_limit_holds_theta_and_closes_in():
    rng = np.random.default_rng(9)
    limits = []
    for n in (50, 400):
        found = []
        for _ in range(30):
            reference, candidate = draw(rng, 0.1, 0.9, n, runs=1)
            found.append(upper_bound(reference[0], candidate[0], reference[0] | True, 0.95))
        assert np.mean(np.array(found) < 0.1) <= 0.15
        limits.append(np.mean(found))
    assert limits[1] < limits[0] < 0.4
    nothing = np.zeros(0, bool)
    assert upper_bound(nothing, nothing, nothing, 0.95) == 1
