"""Audit statistics: sound on correct mechanisms, and they catch broken ones."""

import math

import numpy as np
import pytest
from scipy import stats

from accounting.audit import (
    clopper_pearson,
    epsilon_lower_bound,
    observed_cosine_epsilon,
    one_run_audit,
    one_run_epsilon,
    one_run_p_value,
)
from accounting.matrices import gaussian_epsilon


def test_clopper_pearson_against_scipy():
    for successes, trials in [(0, 20), (3, 20), (20, 20), (500, 1000)]:
        wanted = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
        assert clopper_pearson(successes, trials) == pytest.approx(tuple(wanted))


def reference_p_value(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke et al. (2023), term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    tail = stats.binom.sf(v - 1, r, q)
    worst = max(
        (stats.binom.cdf(v - 1, r, q) - stats.binom.cdf(v - 1 - i, r, q)) / i
        for i in range(1, v + 1)
    )
    return min(1.0, tail + 2 * m * delta * worst)


@pytest.mark.parametrize(
    "case", [(100, 50, 40, 1.0, 1e-5), (1000, 1000, 700, 0.5, 1e-4)]
)
def test_one_run_p_value_term_by_term(case):
    m, r, v, epsilon, delta = case
    found = one_run_p_value(
        canaries=m, guesses=r, correct=v, epsilon=epsilon, delta=delta
    )
    assert found == pytest.approx(reference_p_value(*case), rel=1e-9)


def test_the_published_perfect_attack():
    """All of 100 guesses right at delta = 0: p^100 = 0.05 gives p / (1 - p)."""
    p = 0.05 ** (1 / 100)
    bound = one_run_epsilon(canaries=100, guesses=100, correct=100, delta=0.0)
    assert bound == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


def canaries(sigma, seed, count=2000):
    """Each canary has its own coordinate, released with noise of scale sigma."""
    random = np.random.default_rng(seed)
    included = random.random(count) < 0.5
    return included + sigma * random.normal(size=count), included


@pytest.mark.statistical
def test_one_run_accepts_the_right_noise_and_catches_half_of_it():
    claim = gaussian_epsilon(1 / 1.0, 1e-5)  # what sigma = 1 promises a canary
    right = [
        one_run_audit(*canaries(1.0, seed), guesses=400, delta=1e-5).epsilon
        for seed in range(10)
    ]
    assert max(right) <= claim
    assert max(right) > 0.3  # the attack is not blind
    broken = [
        one_run_audit(*canaries(0.2, seed), guesses=1000, delta=1e-5).epsilon
        for seed in range(3)
    ]
    assert min(broken) > claim


@pytest.mark.statistical
def test_many_runs_accept_the_right_noise_and_catch_half_of_it():
    random = np.random.default_rng(1)
    claim = gaussian_epsilon(1.0, 1e-5)
    noise = random.normal(size=(2, 4000))
    assert epsilon_lower_bound(1 + noise[0], noise[1], delta=1e-5) <= claim
    caught = epsilon_lower_bound(1 + 0.2 * noise[0], 0.2 * noise[1], delta=1e-5)
    assert caught > claim
    assert epsilon_lower_bound(noise[0], noise[1], delta=1e-5) < 0.2


@pytest.mark.statistical
def test_observed_cosines_recover_a_gaussian():
    random, d = np.random.default_rng(2), 10_000
    for mu in (0.0, 0.5, 2.0):
        cosines = random.normal(mu / math.sqrt(d), 1 / math.sqrt(d), 4000)
        wanted = gaussian_epsilon(mu, 1e-5)
        found = observed_cosine_epsilon(cosines, d, delta=1e-5)
        assert found == pytest.approx(wanted, rel=0.15, abs=0.4)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"guesses=11"):
        one_run_epsilon(canaries=10, guesses=11, correct=0, delta=0.0)
    with pytest.raises(ValueError, match=r"correct=9"):
        one_run_epsilon(canaries=10, guesses=8, correct=9, delta=0.0)
    with pytest.raises(ValueError, match="member_scores has 1"):
        epsilon_lower_bound([1.0], [0.0] * 9, delta=0.0)
    with pytest.raises(ValueError, match="successes=3"):
        clopper_pearson(3, 2)
