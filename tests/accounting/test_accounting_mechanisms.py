"""Samplers and noise beyond Poisson: allocation, truncation, trees, bands."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate

from accounting import SampledGaussian, UnsupportedMechanism, epsilon
from accounting.allocation import random_allocation_rdp
from accounting.banded import BandedStrategy, amplified, optimise_banded
from accounting.matrices import (
    Participation,
    banded_sensitivity,
    correlated_mu,
    gaussian_epsilon,
    noise_for_epsilon,
    tree_sensitivity,
)
from accounting.renyi import ORDERS


def one_round(population, cohort, z, u=1, sampler="poisson-virtual-clients", **more):
    return SampledGaussian(
        sampler=sampler,
        population=population,
        users_per_round=cohort,
        noise_multiplier=z,
        users_per_virtual_client=u,
        **more,
    )


def test_random_allocation_of_two_rounds_by_integration():
    z = 1.5

    def moment(power):
        """E_Q[R^power] for R = (exp(l1) + exp(l2)) / 2."""

        def integrand(b, a):
            density = math.exp(-(a * a + b * b) / 2) / (2 * math.pi)
            first = a / z - 1 / (2 * z * z)
            second = b / z - 1 / (2 * z * z)
            return density * ((math.exp(first) + math.exp(second)) / 2) ** power

        return integrate.dblquad(integrand, -14, 14, -14, 14, epsabs=1e-11)[0]

    rdp = random_allocation_rdp(2, z)
    for index in (np.searchsorted(ORDERS, 2.0), np.searchsorted(ORDERS, 3.9)):
        order = ORDERS[index]
        exact = max(
            math.log(moment(order)) / (order - 1),
            math.log(moment(1 - order)) / (order - 1),
        )
        assert exact * (1 - 1e-6) <= rdp[index] <= exact * 1.05


def test_random_allocation_is_about_as_good_as_poisson():
    allocated = one_round(
        10_000, 100, 2.0, sampler="random-allocation", rounds_per_period=100
    )
    poisson = one_round(10_000, 100, 2.0)
    found = epsilon(allocated, rounds=1000, delta=1e-6)
    assert found.accountant == "rdp"
    assert found.epsilon_pld is None
    wanted = epsilon(poisson, rounds=1000, delta=1e-6).epsilon_rdp
    assert found.epsilon == pytest.approx(wanted, rel=0.15)
    plain = epsilon(
        one_round(10_000, 100, 2.0, sampler="shuffled"), rounds=1000, delta=1e-6
    )
    assert found.epsilon < plain.epsilon
    bins = one_round(10_000, 100, 2.0, sampler="balls-in-bins", rounds_per_period=100)
    assert epsilon(bins, rounds=1000, delta=1e-6).epsilon == found.epsilon
    with pytest.raises(ValueError, match="whole number"):
        one_round(10_000, 101, 2.0, sampler="random-allocation", rounds_per_period=100)


def test_several_rounds_of_a_period_cost_as_many_smaller_periods():
    four = one_round(1000, 40, 2.0, sampler="random-allocation", rounds_per_period=100)
    one = one_round(1000, 40, 2.0, sampler="random-allocation", rounds_per_period=25)
    assert (
        epsilon(four, rounds=100, delta=1e-5).epsilon
        == epsilon(one, rounds=100, delta=1e-5).epsilon
    )


@pytest.mark.parametrize("u", [1, 4])
def test_truncation_costs_when_it_bites(u):
    def cost(most):
        mechanism = one_round(
            1000, 100, 2.0, u, "truncated-poisson", truncated_users_per_round=most
        )
        return epsilon(mechanism, rounds=100, delta=1e-5)

    plain = epsilon(one_round(1000, 100, 2.0, u), rounds=100, delta=1e-5).epsilon
    roomy, tight = cost(400), cost(100)
    assert roomy.epsilon == pytest.approx(plain, rel=1e-3)
    assert tight.epsilon > 1.1 * plain
    assert roomy.epsilon_rdp is None
    only_pld = epsilon(roomy.mechanism, rounds=1, delta=1e-5, accountant="rdp")
    assert only_pld.accountant == "pld"


def tree_gram(rounds):
    """Rows: rounds; columns: complete nodes of the binary tree."""
    nodes = [
        range(start, start + 2**level)
        for level in range(rounds.bit_length())
        for start in range(0, rounds - 2**level + 1, 2**level)
    ]
    return np.array([[float(i in node) for node in nodes] for i in range(rounds)])


@pytest.mark.parametrize(
    ("rounds", "most", "separation"), [(8, 1, 1), (7, 1, 1), (12, 3, 4), (10, 2, 3)]
)
def test_tree_sensitivity_bounds_every_pattern(rounds, most, separation):
    nodes = tree_gram(rounds)
    worst = 0.0
    for pattern in itertools.combinations(range(rounds), most):
        if all(b - a >= separation for a, b in itertools.pairwise(pattern)):
            worst = max(worst, float((nodes[list(pattern)].sum(axis=0) ** 2).sum()))
    bound = tree_sensitivity(
        Participation(rounds=rounds, most=most, separation=separation)
    )
    assert worst <= bound**2 + 1e-9
    if most == 1:
        assert worst == pytest.approx(bound**2)


def test_tree_matches_dp_accounting_for_one_epoch():
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    accountant.compose(dp_accounting.SingleEpochTreeAggregationDpEvent(5.0, 100))
    mu = correlated_mu(tree_sensitivity(Participation(rounds=100)), 5.0)
    rdp_epsilon = accountant.get_epsilon(1e-6)
    # The same Gaussian; ours is exact, Renyi divergences lose a little.
    assert gaussian_epsilon(mu, 1e-6) <= rdp_epsilon
    assert gaussian_epsilon(mu, 1e-6) == pytest.approx(rdp_epsilon, rel=0.12)


def test_restarts_separate_epochs():
    epochs = Participation(rounds=64, most=4, separation=16)
    assert tree_sensitivity(epochs, restart_every=16) ** 2 == pytest.approx(4 * 5)
    assert tree_sensitivity(epochs) > tree_sensitivity(epochs, restart_every=16)


def matrix(strategy):
    column, rounds = strategy.column, strategy.rounds
    return sum(column[i] * np.eye(rounds, k=-i) for i in range(rounds))


@pytest.mark.parametrize(
    ("rounds", "bands", "most"), [(32, 8, 4), (40, 40, 1), (24, 1, 24)]
)
def test_optimised_bands_are_what_they_say(rounds, bands, most):
    separation = -(-rounds // most)
    part = Participation(rounds=rounds, most=most, separation=max(separation, bands))
    strategy = optimise_banded(part, bands=bands)
    s = matrix(strategy)
    assert np.count_nonzero(strategy.column) <= bands
    assert np.allclose(np.linalg.inv(s)[:, 0], strategy.noise_coefficients, atol=1e-9)
    rows = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(s)
    rms = math.sqrt((rows**2).sum() / rounds)
    sensitivity = banded_sensitivity(np.array(strategy.bands), part)
    assert strategy.error(part) == pytest.approx(sensitivity * rms)
    # Sensitivity against every admissible pattern that starts at the first rounds.
    for first in range(min(bands, rounds)):
        pattern = range(first, rounds, part.separation)
        moved = s[:, list(pattern)[: part.possible]].sum(axis=1)
        assert np.linalg.norm(moved) <= sensitivity + 1e-9
    assert (
        strategy.error(part)
        <= BandedStrategy(bands=(1.0,), rounds=rounds).error(part) + 1e-9
    )


def test_optimised_bands_beat_the_square_root():
    once = Participation(rounds=200)
    coefficients = np.cumprod([1.0] + [(2 * k - 1) / (2 * k) for k in range(1, 200)])
    root = BandedStrategy(bands=tuple(coefficients), rounds=200)
    best = optimise_banded(once, bands=200)
    assert best.error(once) <= root.error(once)
    tree = tree_sensitivity(once) * 2.0  # a rough lower scale of the tree's error
    assert best.error(once) < 3 * tree


def test_users_that_return_too_soon_are_refused():
    often = Participation(rounds=20, most=5, separation=2)
    with pytest.raises(UnsupportedMechanism, match="bands=4"):
        optimise_banded(often, bands=4)
    with pytest.raises(UnsupportedMechanism, match="separation=2"):
        banded_sensitivity(np.ones(4), often)


def test_amplified_bands_and_refusals():
    found = amplified(one_round(10**5, 100, 1.0, 4), 10)
    assert found.sampling_probability == pytest.approx(0.01)
    with pytest.raises(UnsupportedMechanism, match="bands=10"):
        amplified(one_round(100, 20, 1.0), 10)
    with pytest.raises(UnsupportedMechanism):
        amplified(one_round(10**5, 100, 1.0, sampler="fixed-size"), 10)


def test_noise_for_a_correlated_mechanism():
    for u in (1, 8):
        z = noise_for_epsilon(
            3.0, target_epsilon=2.0, delta=1e-6, users_per_virtual_client=u
        )
        mu = correlated_mu(3.0, z, users_per_virtual_client=u)
        assert 1.999 < gaussian_epsilon(mu, 1e-6) <= 2.0


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize(
    "sampler",
    ["poisson-virtual-clients", "poisson-users", "fixed-size", "full-participation"]
    + ["shuffled", "truncated-poisson"],
)
def test_events_mean_the_same_to_dp_accounting(sampler, u):
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    from accounting.events import dp_event

    cohort = 1000 if sampler == "full-participation" else 100
    more = {"truncated_users_per_round": 100} if sampler == "truncated-poisson" else {}
    mechanism = one_round(1000, cohort, 6.0, u, sampler, **more)
    event, relation = dp_event(mechanism, rounds=20)
    if sampler == "fixed-size":
        accountant = RdpAccountant(neighboring_relation=relation)
    else:
        accountant = PLDAccountant(relation, value_discretization_interval=1e-3)
    wanted = accountant.compose(event).get_epsilon(1e-5)
    found = epsilon(mechanism, rounds=20, delta=1e-5).epsilon
    assert found == pytest.approx(wanted, rel=0.01)
