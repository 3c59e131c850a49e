"""Calibration: never on the unsafe side, close to the target, quick, bounded memory."""

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import (
    SampledGaussian,
    Sampler,
    calibrate_noise_multiplier,
    default_delta,
    epsilon,
)


def mechanism(population, cohort, u=1, sampler=Sampler.POISSON_VIRTUAL_CLIENTS):
    return SampledGaussian(
        sampler=sampler,
        population=population,
        users_per_round=cohort,
        noise_multiplier=1.0,
        users_per_virtual_client=u,
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    log_population=st.floats(3, 7),
    share=st.floats(-3, -0.1),
    u=st.sampled_from([1, 2, 8]),
    rounds=st.integers(1, 3000),
    log_target=st.floats(-2, 1.5),
    accountant=st.sampled_from(["pld", "rdp"]),
    sampler=st.sampled_from([Sampler.POISSON_VIRTUAL_CLIENTS, Sampler.POISSON_USERS]),
)
def test_calibrated_then_accounted_stays_within_one_percent(
    log_population, share, u, rounds, log_target, accountant, sampler
):
    population = round(10**log_population)
    cohort = max(u, round(population * 10**share))
    delta, target = default_delta(population), 10**log_target
    found = calibrate_noise_multiplier(
        mechanism(population, cohort, u, sampler),
        rounds=rounds,
        target_epsilon=target,
        delta=delta,
        accountant=accountant,
    )
    spent = epsilon(found, rounds=rounds, delta=delta, accountant=accountant).epsilon
    assert spent <= target
    assert spent >= 0.99 * target or found.noise_multiplier <= 0.011


def test_the_published_planning_example():
    delta = 1e6**-1.1
    for u, sampler, wanted in [
        (8, Sampler.POISSON_USERS, 1.292),
        (8, Sampler.POISSON_VIRTUAL_CLIENTS, 0.647),
        (1, Sampler.POISSON_VIRTUAL_CLIENTS, 0.646),
    ]:
        found = calibrate_noise_multiplier(
            mechanism(10**6, 2048, u, sampler),
            rounds=100,
            target_epsilon=2.0,
            delta=delta,
        )
        assert found.noise_multiplier == pytest.approx(wanted, abs=1.5e-3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    z=st.floats(0.5, 20),
    rounds=st.integers(1, 500),
    share=st.floats(0.001, 0.5),
    u=st.sampled_from([1, 5]),
    accountant=st.sampled_from(["pld", "rdp"]),
)
def test_epsilon_is_monotone(z, rounds, share, u, accountant):
    def cost(z, rounds, share):
        one_round = mechanism(10**5, max(u, share * 10**5), u).with_noise_multiplier(z)
        report = epsilon(one_round, rounds=rounds, delta=1e-6, accountant=accountant)
        return report.epsilon

    here = cost(z, rounds, share)
    slack = 1.001  # the width of the grid changes with the mechanism
    assert cost(z * 1.1, rounds, share) <= here * slack
    assert cost(z, rounds + rounds // 10 + 1, share) * slack >= here
    assert cost(z, rounds, min(1.0, share * 1.1)) * slack >= here


@pytest.mark.parametrize(
    ("accountant", "rounds", "limit"),
    [
        ("rdp", 1000, 2.0),
        ("rdp", 10_000, 2.0),
        ("pld", 1000, 5.0),
        ("pld", 10_000, 5.0),
    ],
)
def test_calibration_is_quick(accountant, rounds, limit):
    # One second for "rdp" on an idle core; the factor covers a busy machine.
    start = time.process_time()
    calibrate_noise_multiplier(
        mechanism(10**6, 4096, 4),
        rounds=rounds,
        target_epsilon=2.0,
        delta=default_delta(10**6),
        accountant=accountant,
    )
    assert time.process_time() - start < limit


@pytest.mark.parametrize("target", [0.01, 1.0, 50.0])
def test_memory_is_bounded_from_tiny_to_huge_epsilon(target):
    tracemalloc.start()
    found = calibrate_noise_multiplier(
        mechanism(10**5, 1000, 4), rounds=10_000, target_epsilon=target, delta=1e-6
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6
    assert epsilon(found, rounds=10_000, delta=1e-6).epsilon <= target


def test_fixed_size_is_calibrated_by_renyi_divergences():
    found = calibrate_noise_multiplier(
        mechanism(10**5, 1000, 4, Sampler.FIXED_SIZE),
        rounds=100,
        target_epsilon=2.0,
        delta=1e-6,
    )
    report = epsilon(found, rounds=100, delta=1e-6)
    assert report.accountant == "rdp"
    assert 1.98 <= report.epsilon <= 2.0


def test_unreachable_targets_say_so():
    with pytest.raises(ValueError, match="target_epsilon=1e-09"):
        calibrate_noise_multiplier(
            mechanism(10, 10), rounds=10**6, target_epsilon=1e-9, delta=1e-9
        )
