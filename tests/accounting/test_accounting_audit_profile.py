"""Bounds by trade-off curves: near the truth, never above it, and scaled right."""

import math

import numpy as np
import pytest
from scipy import stats

from accounting import SampledGaussian, Sampler, epsilon
from accounting.audit import clopper_pearson
from accounting.audit_profile import (
    AttackCounts,
    choose_rules,
    noise_epsilon,
    profile_epsilon,
)

DELTA = 1e-5


def everybody(z: float, u: int = 1) -> SampledGaussian:
    return SampledGaussian(
        sampler=Sampler.FULL_PARTICIPATION,
        population=100,
        users_per_round=100,
        noise_multiplier=z,
        users_per_virtual_client=u,
    )


def test_rates_are_the_ends_of_clopper_and_pearson():
    counts = AttackCounts(caught=30, members=100, false_alarms=0, outsiders=50)
    low, high = counts.rates(0.95)
    assert low == pytest.approx(clopper_pearson(30, 100)[0])
    assert high == pytest.approx(clopper_pearson(0, 50)[1])
    nothing = AttackCounts(caught=0, members=10, false_alarms=10, outsiders=10)
    assert nothing.rates(0.95) == (0.0, 1.0)
    assert nothing.epsilon(delta=0.0, confidence=0.95) == 0.0


def test_with_endless_runs_the_bound_is_the_claim():
    """Exact rates of the best test of a Gaussian give back its epsilon."""
    z, n = 1.5, 10**9
    caught, false = stats.norm.sf(0.5 - 1 / z), stats.norm.sf(0.5)
    counts = AttackCounts(
        caught=int(n * caught), members=n, false_alarms=int(n * false), outsiders=n
    )
    claim = everybody(1.0)  # refuted or not: z is found whatever is claimed
    found = profile_epsilon(counts, claim, rounds=1, delta=DELTA, confidence=0.99)
    truth = epsilon(everybody(z), rounds=1, delta=DELTA).epsilon
    assert 0.97 * truth < found <= truth


@pytest.mark.statistical
def test_chosen_rules_refute_too_much_noise_and_accept_the_right_one():
    random, z = np.random.default_rng(0), 1.0
    scores = random.normal(scale=z, size=(2, 6000, 1)) + [[[1.0]], [[0.0]]]
    blind = random.normal(size=(2, 6000, 1))  # a score that knows nothing
    members, outsiders = np.concatenate([blind, scores], axis=2)
    for claimed, refuted in ((1.0, False), (2.0, True)):
        claim = everybody(claimed)
        for rule in choose_rules(
            members[:1500],
            outsiders[:1500],
            claim,
            rounds=1,
            delta=DELTA,
            confidence=0.99,
            fresh=3,
        ):
            assert rule.score == 1
        counts = rule.count(members[1500:], outsiders[1500:])
        bound = profile_epsilon(counts, claim, rounds=1, delta=DELTA, confidence=0.99)
        stated = epsilon(claim, rounds=1, delta=DELTA).epsilon
        assert (bound > stated) == refuted
        assert bound > 0.7 * epsilon(everybody(z), rounds=1, delta=DELTA).epsilon


@pytest.mark.statistical
def test_the_scale_of_the_noise_is_bounded_as_often_as_promised():
    random, claim = np.random.default_rng(1), everybody(1.0)
    stated = epsilon(claim, rounds=1, delta=DELTA).epsilon

    def above(scale: float, confidence: float) -> int:
        squares = (random.normal(scale=scale, size=(200, 500)) ** 2).sum(axis=1)
        return sum(
            noise_epsilon(s, 500, claim, rounds=1, delta=DELTA, confidence=confidence)
            > stated
            for s in squares
        )

    assert above(1.0, 0.9) <= stats.binom.isf(1e-3, 200, 0.1)
    assert above(1.0, 0.9) >= 5  # exact, hence not idle either
    assert above(0.9, 0.9) > 190


def test_no_attack_shows_nothing():
    counts = AttackCounts(caught=50, members=100, false_alarms=50, outsiders=100)
    claim = everybody(1.0)
    bound = profile_epsilon(counts, claim, rounds=1, delta=DELTA, confidence=0.95)
    assert bound == 0.0
    assert math.isfinite(counts.epsilon(delta=0.0, confidence=0.95))
    with pytest.raises(ValueError, match="one run or more"):
        choose_rules(
            np.empty((0, 1)),
            np.ones((3, 1)),
            claim,
            rounds=1,
            delta=DELTA,
            confidence=0.9,
        )
