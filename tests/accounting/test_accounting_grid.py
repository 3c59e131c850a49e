"""A grid of settings for every sampler, against values computed elsewhere."""

import math

import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SingleEpochTreeAggregationDpEvent,
    dp_event,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting import (
    Noise,
    SampledGaussian,
    Sampler,
    calibrate_noise_multiplier,
    delta_for_epsilon,
    epsilon,
    epsilon_interval,
    gaussian_mu,
    zcdp,
)
from accounting.matrices import gaussian_epsilon

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
REPLACE = NeighboringRelation.REPLACE_ONE
DELTA = 1e-6


def record(sampler, population, cohort, z, u=1, **more):
    return SampledGaussian(
        sampler=Sampler(sampler),
        population=population,
        users_per_round=cohort,
        noise_multiplier=z,
        users_per_virtual_client=u,
        **more,
    )


def by_pld(event, rounds, relation, width=1e-4):
    accountant = PLDAccountant(relation, value_discretization_interval=width)
    return accountant.compose(event, rounds).get_epsilon(DELTA)


GRID = [
    (1000, 100, 1.0, 10),
    (10_000, 100, 0.8, 300),
    (100_000, 2000, 1.5, 500),
    (1000, 900, 8.0, 100),
]


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize("setting", GRID)
@pytest.mark.parametrize("sampler", ["poisson-virtual-clients", "poisson-users"])
def test_poisson_against_dp_accounting(sampler, setting, u):
    population, cohort, z, rounds = setting
    by_user = sampler == "poisson-users" and u > 1
    relation = REPLACE if u > 1 and not by_user else ADD
    event = GaussianDpEvent(z / 2 if by_user else z)
    event = PoissonSampledDpEvent(cohort / population, event)
    wanted = by_pld(event, rounds, relation)
    found = epsilon(
        record(sampler, population, cohort, z, u), rounds=rounds, delta=DELTA
    )
    assert found.epsilon == pytest.approx(wanted, rel=2e-3, abs=2e-4)
    assert found.epsilon_rdp >= found.epsilon_pld
    if relation is ADD:
        rdp = RdpAccountant(neighboring_relation=ADD).compose(event, rounds)
        assert found.epsilon_rdp == pytest.approx(rdp.get_epsilon(DELTA), rel=0.02)


@pytest.mark.parametrize("setting", GRID)
def test_poisson_against_opacus(setting):
    from opacus.accountants import PRVAccountant

    population, cohort, z, rounds = setting
    accountant = PRVAccountant()
    accountant.history = [(z, cohort / population, rounds)]
    wanted = accountant.get_epsilon(DELTA, eps_error=0.01)
    own = record("poisson-virtual-clients", population, cohort, z)
    found = epsilon(own, rounds=rounds, delta=DELTA).epsilon
    assert found <= wanted + 1e-3  # theirs is an upper bound with an error of 0.01
    assert found == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize("setting", GRID[:2])
def test_fixed_size_against_dp_accounting(setting, u):
    population, cohort, z, rounds = setting
    event = SampledWithoutReplacementDpEvent(population, cohort, GaussianDpEvent(z / 2))
    rdp = RdpAccountant(neighboring_relation=REPLACE).compose(event, rounds)
    own = record("fixed-size", population, cohort, z, u)
    found = epsilon(own, rounds=rounds, delta=DELTA).epsilon
    assert found == pytest.approx(rdp.get_epsilon(DELTA), rel=0.05)


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize("share", [1.0, 1.3])
def test_truncated_poisson_against_dp_accounting(share, u):
    population, cohort, z, rounds = 1000, 100, 2.0, 50
    most = int(share * cohort)
    event = dp_event.TruncatedSubsampledGaussianDpEvent(
        dataset_size=population // u,
        sampling_probability=cohort / population,
        truncated_batch_size=most // u,
        noise_multiplier=z,
    )
    wanted = by_pld(event, rounds, REPLACE if u > 1 else ADD, 1e-3)
    own = record(
        "truncated-poisson", population, cohort, z, u, truncated_users_per_round=most
    )
    found = epsilon(own, rounds=rounds, delta=DELTA).epsilon
    assert found == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize(
    ("sampler", "cohort", "releases"),
    [("full-participation", 1000, 40), ("shuffled", 100, 4), ("cyclic", 100, 4)],
)
def test_without_amplification_epsilon_has_a_closed_form(sampler, cohort, releases, u):
    z, rounds = 6.0, 40
    mu = (2 if u > 1 else 1) * math.sqrt(releases) / z
    own = record(sampler, 1000, cohort, z, u)
    assert gaussian_mu(own, rounds=rounds) == pytest.approx(mu)
    assert zcdp(own, rounds=rounds) == pytest.approx(mu**2 / 2)
    wanted = gaussian_epsilon(mu, DELTA)
    found = epsilon(own, rounds=rounds, delta=DELTA)
    assert wanted * (1 - 1e-6) <= found.epsilon <= wanted * 1.002
    # Balle and Wang (2018), Theorem 8, written out.
    delta = stats.norm.cdf(mu / 2 - wanted / mu) - math.exp(wanted) * stats.norm.cdf(
        -mu / 2 - wanted / mu
    )
    assert delta == pytest.approx(DELTA, rel=1e-5)


@pytest.mark.parametrize("u", [1, 4])
@pytest.mark.parametrize("rounds", [7, 64, 100])
def test_a_tree_over_one_epoch_against_dp_accounting(rounds, u):
    z = 8.0
    own = record(
        *("cyclic", 10_000, 10_000 // 128, z, u),
        noise=Noise.TREE,
        rounds_per_period=rounds,
    )
    event = SingleEpochTreeAggregationDpEvent(z / (2 if u > 1 else 1), rounds)
    relation = NeighboringRelation.REPLACE_SPECIAL
    rdp = RdpAccountant(neighboring_relation=relation).compose(event)
    found = epsilon(own, rounds=rounds, delta=DELTA)
    assert found.epsilon <= rdp.get_epsilon(DELTA)
    assert found.epsilon_rdp == pytest.approx(rdp.get_epsilon(DELTA), rel=0.01)


@pytest.mark.parametrize("u", [1, 4])
def test_trees_restart_as_independent_releases(u):
    own = record(*("cyclic", 1000, 100, 8.0, u), noise=Noise.TREE, rounds_per_period=10)
    # Ten rounds have four levels of nodes, and everybody once.
    mu = (2 if u > 1 else 1) * math.sqrt(4) / 8.0
    assert gaussian_mu(own, rounds=30) == pytest.approx(mu * math.sqrt(3))
    assert gaussian_mu(own, rounds=31) == pytest.approx(mu * math.sqrt(4))


@pytest.mark.parametrize("u", [1, 4])
def test_independent_noise_is_a_strategy_of_one_band(u):
    rounds, z = 40, 5.0
    plain = record("cyclic", 1000, 100, z, u)
    banded = record(
        *("cyclic", 1000, 100, z, u),
        noise=Noise.BANDED,
        bands=(1.0,),
        rounds_per_period=rounds,
    )
    assert gaussian_mu(banded, rounds=rounds) == pytest.approx(
        gaussian_mu(plain, rounds=rounds)
    )


def monte_carlo_allocation(rounds, z, level, trials=400_000):
    """One period's delta at epsilon = level by simulation, remove direction."""
    import numpy as np

    draw = np.random.default_rng(5)
    loss = np.empty(trials)
    for start in range(0, trials, 50_000):
        x = draw.standard_normal((50_000, rounds)) * z
        x[:, 0] += 1.0  # P, by symmetry in the first round
        terms = (2 * x - 1) / (2 * z * z)
        loss[start : start + 50_000] = np.log(np.exp(terms).mean(axis=1))
    return float(np.maximum(0, 1 - np.exp(level - loss)).mean())


@pytest.mark.statistical
@pytest.mark.parametrize("sampler", ["random-allocation", "balls-in-bins"])
@pytest.mark.parametrize(("rounds", "z"), [(4, 0.8), (20, 0.6)])
def test_allocation_against_simulation(sampler, rounds, z):
    own = record(sampler, 20 * rounds, 20, z, rounds_per_period=rounds)
    for level in (0.5, 1.5):
        simulated = monte_carlo_allocation(rounds, z, level)
        proved = delta_for_epsilon(own, rounds=rounds, epsilon=level)
        assert simulated <= proved <= 12 * simulated  # Renyi bounds are not tight


EVERY = [
    record("poisson-virtual-clients", 10_000, 200, 1.0),
    record("poisson-virtual-clients", 10_000, 200, 1.0, 8),
    record("poisson-users", 10_000, 200, 1.0, 8),
    record("fixed-size", 10_000, 200, 1.0, 8),
    record("full-participation", 1000, 1000, 1.0, 8),
    record("shuffled", 10_000, 200, 1.0, 8),
    record("cyclic", 10_000, 200, 1.0),
    record("truncated-poisson", 10_000, 200, 1.0, truncated_users_per_round=220),
    record("random-allocation", 10_000, 200, 1.0, rounds_per_period=100),
    record("balls-in-bins", 10_000, 200, 1.0, rounds_per_period=50),
    record("cyclic", 10_000, 200, 1.0, noise=Noise.TREE, rounds_per_period=64),
    record(
        *("cyclic", 10_000, 200, 1.0, 8),
        noise=Noise.BANDED,
        bands=(1.0, 0.5),
        rounds_per_period=200,
    ),
    record(
        *("poisson-virtual-clients", 10_000, 200, 1.0, 8),
        noise=Noise.BANDED,
        bands=(0.9, 0.4, 0.1),
    ),
]
NAMES = [f"{m.sampler} u={m.users_per_virtual_client} {m.noise}" for m in EVERY]


@pytest.mark.parametrize("own", EVERY, ids=NAMES)
@pytest.mark.parametrize("target", [0.05, 3.0])
def test_calibrate_then_account_stays_within_the_target(own, target):
    found = calibrate_noise_multiplier(
        own, rounds=200, target_epsilon=target, delta=DELTA
    )
    spent = epsilon(found, rounds=200, delta=DELTA).epsilon
    assert 0.99 * target <= spent <= target
    assert SampledGaussian.from_json(found.to_json()) == found


@given(
    st.sampled_from(EVERY),
    st.floats(0.7, 4.0),
    st.floats(1.05, 2.0),
    st.sampled_from([1, 40, 300]),
)
@settings(max_examples=10, deadline=None)
def test_more_noise_or_fewer_rounds_never_cost_more(own, z, factor, rounds):
    def cost(noise, count):
        mechanism = own.with_noise_multiplier(noise)
        return epsilon(mechanism, rounds=count, delta=1e-5, accountant="rdp").epsilon

    here = cost(z, rounds)
    slack = 1 + 1e-3  # each grid is an upper bound, to a thousandth
    assert cost(z * factor, rounds) <= here * slack + 1e-9
    assert cost(z, rounds + 50) >= here / slack - 1e-9


@pytest.mark.parametrize("u", [1, 8])
def test_a_larger_share_of_users_never_costs_less(u):
    costs = [
        epsilon(
            record("poisson-virtual-clients", 10_000, m, 1.0, u), rounds=50, delta=DELTA
        ).epsilon
        for m in (10, 50, 200, 1000, 5000, 10_000)
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize("own", [EVERY[1], EVERY[10], EVERY[12]], ids=str)
def test_lower_and_upper_bounds_enclose_a_small_gap(own):
    bounds = epsilon_interval(own.with_noise_multiplier(8.0), rounds=200, delta=DELTA)
    assert 0 <= bounds.gap <= 0.03 * bounds.upper


@given(
    st.floats(0.01, 0.99),
    st.floats(0.4, 3.0),
    st.floats(0.0, 3.0),
    st.tuples(st.floats(0, 1), st.floats(-1, 1)),
    st.tuples(st.floats(0, 1), st.floats(-1, 1)),
)
@settings(max_examples=60, deadline=None)
def test_no_pair_of_vectors_in_the_ball_beats_the_antipodal_pair(q, z, level, d, e):
    """The theorem in `accounting.mechanism`, at random points of the plane."""
    import numpy as np

    reach = 1 + 7 * z
    axis = np.linspace(-reach, reach, 241)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    cell = (axis[1] - axis[0]) ** 2

    def mixture(radius, turn):
        a, b = radius * math.cos(math.pi * turn), radius * math.sin(math.pi * turn)
        far = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * z * z))
        near = np.exp(-(x**2 + y**2) / (2 * z * z))
        return ((1 - q) * near + q * far) / (2 * math.pi * z * z)

    def hockey_stick(one, two):
        return float(np.maximum(one - math.exp(level) * two, 0).sum() * cell)

    bound = hockey_stick(mixture(1, 0), mixture(1, 1))
    one, two = mixture(*d), mixture(*e)
    assert hockey_stick(one, two) <= bound + 2e-4
    assert hockey_stick(two, one) <= bound + 2e-4
