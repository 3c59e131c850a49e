"""Epsilon against the table of the design, and against independent computations."""

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from accounting import (
    SampledGaussian,
    Sampler,
    UnsupportedMechanism,
    default_delta,
    delta_for_epsilon,
    epsilon,
)
from accounting.mechanism import DominatingPair
from accounting.renyi import (
    ORDERS,
    _divergence,
    epsilon_from_rdp,
    sampled_gaussian_rdp,
)


def one_round(population, cohort, z, u=1, sampler="poisson-virtual-clients", **more):
    return SampledGaussian(
        sampler=Sampler(sampler),
        population=population,
        users_per_round=cohort,
        noise_multiplier=z,
        users_per_virtual_client=u,
        **more,
    )


TABLE = [
    # population, cohort, rounds, z, delta, over users, over virtual clients, u = 1
    (6800, 256, 200, 0.62, None, "64.2", "11.7", "9.67"),
    (6800, 256, 200, 2.48, None, "2.04", "1.49", "0.75"),
    (10**6, 2048, 200, 1.5, None, "1.15", "0.161", "0.097"),
    (10**6, 20000, 1000, 2.0, 1e-8, "5.45", "3.51", "1.86"),
    (10**5, 1000, 1000, 2.0, 1e-6, "2.13", "1.38", "0.72"),
]


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_the_design(row):
    population, cohort, rounds, z, delta, *expected = row
    delta = delta or default_delta(population)
    for (sampler, u), wanted in zip(
        [("poisson-users", 8), ("poisson-virtual-clients", 8)]
        + [("poisson-virtual-clients", 1)],
        expected,
        strict=True,
    ):
        mechanism = one_round(population, cohort, z, u, sampler)
        report = epsilon(mechanism, rounds=rounds, delta=delta)
        last_digit = 10.0 ** -len(wanted.split(".")[1])
        assert report.epsilon == pytest.approx(float(wanted), abs=0.8 * last_digit)
        assert report.epsilon_rdp >= report.epsilon_pld


@pytest.mark.parametrize("u", [1, 8])
@pytest.mark.parametrize(
    ("population", "cohort", "z", "rounds"),
    [(6800, 256, 0.62, 200), (10**5, 1000, 2.0, 1000), (1000, 500, 5.0, 50)],
)
def test_pld_agrees_with_dp_accounting_to_three_digits(
    u, population, cohort, z, rounds
):
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    relation = dp_accounting.NeighboringRelation
    accountant = PLDAccountant(
        relation.REPLACE_ONE if u > 1 else relation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=1e-4 if z < 1 else 5e-5,
    )
    event = dp_accounting.PoissonSampledDpEvent(
        cohort / population, dp_accounting.GaussianDpEvent(z)
    )
    accountant.compose(event, rounds)
    wanted = accountant.get_epsilon(1e-6)
    found = epsilon(one_round(population, cohort, z, u), rounds=rounds, delta=1e-6)
    assert found.epsilon == pytest.approx(wanted, rel=5e-4)


def hockey_stick(q, z, antipodal, level):
    """One round's delta at epsilon = level, by numerical integration."""
    far = -1.0 if antipodal else 0.0

    def mixture(x, mean):
        return (1 - q) * stats.norm.pdf(x, 0, z) + q * stats.norm.pdf(x, mean, z)

    x = np.linspace(-1 - 12 * z, 1 + 12 * z, 400_001)
    p, other = mixture(x, 1.0), mixture(x, far)
    forward = integrate.simpson(np.maximum(p - math.exp(level) * other, 0), x=x)
    backward = integrate.simpson(np.maximum(other - math.exp(level) * p, 0), x=x)
    return max(forward, backward)


@pytest.mark.parametrize("antipodal", [False, True])
@pytest.mark.parametrize(("q", "z"), [(0.01, 0.5), (0.3, 1.0), (0.9, 2.0)])
def test_one_round_is_the_hockey_stick_divergence(q, z, antipodal):
    mechanism = one_round(1000, 1000 * q, z, 4 if antipodal else 1)
    for level in (0.01, 0.3, 1.0):
        exact = hockey_stick(q, z, antipodal, level)
        found = delta_for_epsilon(mechanism, rounds=1, epsilon=level)
        assert exact * (1 - 1e-6) - 1e-12 <= found <= exact * 1.01 + 1e-9


def test_the_antipodal_pair_dominates_every_other_direction():
    """delta of (1-q) N(0) + q N(d) against (1-q) N(0) + q N(d'), |d|, |d'| <= 1."""
    q, z = 0.2, 1.0
    axis = np.linspace(-7, 7, 561)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    cell = (axis[1] - axis[0]) ** 2

    def mixture(d):
        def normal(a, b):
            return np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * z * z))

        return ((1 - q) * normal(0, 0) + q * normal(*d)) / (2 * math.pi * z * z)

    p = mixture((1.0, 0.0))
    others = [
        mixture((r * math.cos(a), r * math.sin(a)))
        for r in (0.0, 0.5, 1.0)
        for a in np.linspace(0, math.pi, 7)
    ]
    worst = mixture((-1.0, 0.0))
    for level in (0.0, 0.1, 0.3, 0.6):
        t = math.exp(level)
        bound = np.maximum(p - t * worst, 0).sum() * cell
        for other in others:
            assert np.maximum(p - t * other, 0).sum() * cell <= bound + 1e-9
            assert np.maximum(other - t * p, 0).sum() * cell <= bound + 1e-9
    # The control: against the pair of a single user, the direction matters.
    single = np.maximum(p - 1.1 * mixture((0, 0)), 0).sum() * cell
    assert np.maximum(p - 1.1 * worst, 0).sum() * cell > 1.2 * single


@pytest.mark.parametrize("pair", list(DominatingPair))
@pytest.mark.parametrize(
    ("q", "z"), [(1e-5, 0.7), (0.02, 1.0), (0.5, 3.0), (0.99, 0.8)]
)
def test_renyi_divergences_by_adaptive_quadrature(q, z, pair):
    far = -1.0 if pair is DominatingPair.REPLACE_ONE else 0.0
    rdp = sampled_gaussian_rdp(q, z, pair)
    for index in (30, 54, 70):
        alpha = ORDERS[index]

        def log_mixture(x, mean):
            near = math.log1p(-q) - x * x / (2 * z * z)
            return np.logaddexp(near, math.log(q) - (x - mean) ** 2 / (2 * z * z))

        def integrand(x, top, low, alpha=alpha):
            base, scale = log_mixture(x, low), 1 / (z * math.sqrt(2 * math.pi))
            loss = log_mixture(x, top) - base
            if alpha * loss > 30:
                return scale * math.exp(base + alpha * loss)
            curved = math.expm1(alpha * loss) - alpha * math.expm1(loss)
            return scale * math.exp(base) * curved

        reach = 2 * alpha + 14 * z
        points = np.arange(-reach, reach, z)[1:]
        exact = max(
            math.log1p(
                integrate.quad(
                    integrand, -reach, reach, args=args, points=points, limit=2000
                )[0]
            )
            / (alpha - 1)
            for args in ((1.0, far), (far, 1.0))
        )
        assert rdp[index] == pytest.approx(exact, rel=2e-5)
        assert rdp[index] >= exact * (1 - 1e-8)


def test_renyi_divergences_of_whole_orders_match_the_closed_form():
    from dp_accounting.rdp import rdp_privacy_accountant as reference

    orders = [2, 5, 16, 64]
    for q, z in [(0.01, 1.0), (0.2, 2.0), (1e-3, 0.6)]:
        wanted = reference._compute_rdp_poisson_subsampled_gaussian(q, z, orders)
        found = np.array([_divergence(float(a), q, z, False) for a in orders])
        assert np.all(found >= wanted * (1 - 1e-9))
        assert found == pytest.approx(wanted, rel=1e-6)


def test_conversion_matches_dp_accounting():
    from dp_accounting.rdp import rdp_privacy_accountant as reference

    rdp = sampled_gaussian_rdp(0.01, 1.0, DominatingPair.REPLACE_ONE) * 1000
    wanted, _ = reference.compute_epsilon(ORDERS, rdp, 1e-6)
    assert epsilon_from_rdp(rdp, 1e-6) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("population", "cohort", "z", "rounds"),
    [(10**4, 200, 0.8, 300), (1000, 50, 3, 2000)],
)
def test_opacus_prv_agrees(population, cohort, z, rounds):
    prv = pytest.importorskip("opacus.accountants").PRVAccountant()
    prv.history = [(z, cohort / population, rounds)]
    wanted = prv.get_epsilon(1e-5, eps_error=0.01)
    found = epsilon(one_round(population, cohort, z), rounds=rounds, delta=1e-5)
    # PRV's answer carries its own error of eps_error.
    assert found.epsilon == pytest.approx(wanted, abs=0.02)


def test_unsampled_gaussian_is_exact():
    """Balle and Wang (2018), arXiv:1805.06530: the Gaussian's delta in closed form."""
    for u, distance in ((1, 1.0), (4, 2.0)):
        mechanism = one_round(100, 100, 8.0, u, "full-participation")
        mu = distance * math.sqrt(50) / 8.0
        report = epsilon(mechanism, rounds=50, delta=1e-5)
        e = report.epsilon
        exact = stats.norm.cdf(mu / 2 - e / mu) - math.exp(e) * stats.norm.cdf(
            -mu / 2 - e / mu
        )
        assert exact <= 1e-5
        assert exact == pytest.approx(1e-5, rel=0.02)


def test_a_shuffled_epoch_costs_one_participation():
    shuffled = one_round(1000, 100, 4.0, sampler="shuffled")
    full = one_round(1000, 1000, 4.0, sampler="full-participation")
    assert shuffled.period == 10
    ten_epochs = epsilon(shuffled, rounds=100, delta=1e-5).epsilon
    assert ten_epochs == epsilon(full, rounds=10, delta=1e-5).epsilon
    # An epoch begun is paid in full.
    begun = epsilon(shuffled, rounds=101, delta=1e-5).epsilon
    assert begun == epsilon(full, rounds=11, delta=1e-5).epsilon


def test_fixed_size_uses_twice_the_clip_norm_and_renyi_only():
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    mechanism = one_round(10**5, 1000, 2.0, 8, "fixed-size")
    report = epsilon(mechanism, rounds=1000, delta=1e-6)
    assert report.epsilon_pld is None
    assert report.accountant == "rdp"
    assert "rdp answers for pld" in report.note
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    accountant = RdpAccountant(neighboring_relation=relation)
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        10**5,
        1000,
        dp_accounting.GaussianDpEvent(1.0),  # noise 2 C over 2 C
    )
    accountant.compose(event, 1000)
    assert report.epsilon == pytest.approx(accountant.get_epsilon(1e-6), rel=0.01)


def test_without_noise_epsilon_is_infinite_and_json_stays_valid():
    report = epsilon(one_round(1000, 10, 0.0), rounds=5, delta=1e-5)
    assert math.isinf(report.epsilon)
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["epsilon"] is None
    assert record["epsilon_text"] == "infinite"
    assert epsilon(one_round(1000, 10, 0.0), rounds=0, delta=1e-5).epsilon == 0


def test_the_keys_others_rely_on():
    record = epsilon(one_round(1000, 10, 1.0, 5), rounds=5, delta=1e-5).to_dict()
    assert set(record) == {
        *("epsilon", "epsilon_rdp", "epsilon_pld", "delta", "accountant", "sampler"),
        *("sampling_probability", "rounds", "noise_multiplier", "noise"),
        *("users_per_virtual_client", "sampling_unit", "dominating_pair", "adjacency"),
    }
    assert record["sampling_unit"] == "virtual_client"
    assert record["dominating_pair"] == "replace_one"
    assert record["adjacency"] == "add-or-remove-one"


def test_tiny_delta_is_left_to_renyi_divergences_aloud():
    report = epsilon(one_round(1000, 10, 1.0), rounds=5, delta=1e-20)
    assert report.accountant == "rdp"
    assert report.epsilon_pld is None
    assert "delta" in report.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 0}, "population=0"),
        ({"users_per_round": 2000}, "users_per_round=2000 .* 1000 or less"),
        ({"users_per_round": math.nan}, "users_per_round=nan"),
        ({"users_per_virtual_client": 11}, "users-per-virtual-client 10 or less"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan"),
        ({"users_per_virtual_client": 0}, "users_per_virtual_client=0"),
        ({"sampler": Sampler.FULL_PARTICIPATION}, "users_per_round=10 must equal"),
        ({"sampler": Sampler.TRUNCATED_POISSON}, "truncated_users_per_round=None"),
        ({"sampler": Sampler.RANDOM_ALLOCATION}, "rounds_per_period=None"),
    ],
)
def test_errors_name_the_value(change, message):
    good = {
        "sampler": Sampler.POISSON_USERS,
        "population": 1000,
        "users_per_round": 10,
        "noise_multiplier": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        SampledGaussian(**{**good, **change})


def test_unproved_combinations_are_refused():
    with pytest.raises(UnsupportedMechanism, match="users_per_virtual_client=1"):
        one_round(100, 10, 1.0, 2, "balls-in-bins", rounds_per_period=10)
    with pytest.raises(UnsupportedMechanism, match="example"):
        one_round(100, 10, 1.0, 2, unit="example")


def test_mechanisms_survive_json():
    for mechanism in (
        one_round(1000, 10, 1.5, 5),
        one_round(1000, 20, 1.5, sampler="random-allocation", rounds_per_period=100),
        one_round(
            1000, 20, 1, sampler="truncated-poisson", truncated_users_per_round=40
        ),
    ):
        record = json.loads(json.dumps(mechanism.to_json()))
        assert SampledGaussian.from_json(record) == mechanism
    with pytest.raises(ValueError, match="schema"):
        SampledGaussian.from_json({**one_round(9, 1, 1.0).to_json(), "schema": 99})
