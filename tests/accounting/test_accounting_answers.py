"""Curves, intervals, trade-offs, other calibrations, plans, selection, statement."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from accounting import (
    PrivacyStatement,
    RunCount,
    SampledGaussian,
    UnsupportedMechanism,
    calibrate_population,
    calibrate_rounds,
    calibrate_users_per_round,
    compare_users_per_virtual_client,
    epsilon,
    epsilon_curve,
    epsilon_interval,
    extrapolate,
    gaussian_mu,
    scale_for_epsilon,
    trade_off,
    zcdp,
)
from accounting.renyi import ORDERS, epsilon_from_rdp, gaussian_rdp
from accounting.selection import selection_rdp


def one_round(population, cohort, z, u=1, sampler="poisson-virtual-clients", **more):
    return SampledGaussian(
        sampler=sampler,
        population=population,
        users_per_round=cohort,
        noise_multiplier=z,
        users_per_virtual_client=u,
        **more,
    )


def everybody(z, u=1):
    return one_round(100, 100, z, u, "full-participation")


@pytest.mark.parametrize("u", [1, 4])
def test_the_interval_holds_the_truth(u):
    mechanism = one_round(6800, 256, 1.0, u)
    bounds = epsilon_interval(mechanism, rounds=200, delta=1e-5)
    assert bounds.lower <= bounds.upper
    assert bounds.gap < 0.03 * bounds.upper
    assert bounds.upper == epsilon(mechanism, rounds=200, delta=1e-5).epsilon


def test_a_curve_is_the_single_values():
    for mechanism in (
        one_round(6800, 256, 1.0, 4),
        one_round(100, 10, 5, 2, "fixed-size"),
    ):
        for delta, value in epsilon_curve(mechanism, rounds=50, deltas=(1e-3, 1e-7)):
            single = epsilon(mechanism, rounds=50, delta=delta).epsilon
            assert value == pytest.approx(single, rel=1e-9)


def test_gaussian_privacy_only_where_exact():
    assert gaussian_mu(everybody(10.0), rounds=25) == pytest.approx(0.5)
    assert gaussian_mu(everybody(10.0, u=4), rounds=25) == pytest.approx(1.0)
    assert zcdp(everybody(10.0), rounds=50) == pytest.approx(0.25)
    assert math.isinf(gaussian_mu(everybody(0.0), rounds=1))
    with pytest.raises(UnsupportedMechanism, match="sampling_probability=0.1"):
        gaussian_mu(one_round(100, 10, 1.0), rounds=5)


def test_the_trade_off_of_the_gaussian():
    rates = (0.001, 0.05, 0.3)
    for rate, missed in trade_off(everybody(1.0), rounds=1, false_positive_rates=rates):
        exact = stats.norm.cdf(stats.norm.ppf(1 - rate) - 1.0)
        assert missed <= exact + 1e-9
        assert missed == pytest.approx(exact, abs=0.004)


def test_rounds_cohorts_and_populations_are_calibrated_to_the_last_one():
    mechanism, delta, target = one_round(10**5, 800, 1.0, 8), 1e-6, 1.5

    def cost(m, rounds):
        return epsilon(m, rounds=rounds, delta=delta).epsilon

    rounds = calibrate_rounds(mechanism, target_epsilon=target, delta=delta)
    assert cost(mechanism, rounds) <= target < cost(mechanism, rounds + 1)
    wide = calibrate_users_per_round(
        mechanism, rounds=100, target_epsilon=target, delta=delta
    )
    assert cost(wide, 100) <= target
    one_more = one_round(10**5, wide.users_per_round + 8, 1.0, 8)
    assert cost(one_more, 100) > target
    small = calibrate_population(
        mechanism, rounds=rounds, target_epsilon=target, delta=delta
    )
    assert cost(small, rounds) <= target
    assert small.population == pytest.approx(10**5, rel=0.03)


def test_the_published_extrapolation():
    """Cohort and noise times k; epsilon as if virtual clients were single users."""
    today = one_round(6800, 256, 0.62, 8)
    rows = extrapolate(
        today, rounds=200, populations=[34_000, 340_000, 1_020_000], scales=[1, 10]
    )
    wanted = [3.36, 0.63, 1.12, 0.063, 0.54, 0.021]
    found = [row.epsilon_if_u_were_ignored for row in rows]
    assert found == pytest.approx(wanted, abs=0.006)
    assert len({round(row.noise_on_mean, 12) for row in rows}) == 1
    assert all(row.epsilon >= row.epsilon_if_u_were_ignored for row in rows)
    json.dumps([row.to_dict() for row in rows], allow_nan=False)


def test_the_least_scale_reaches_the_target():
    today = one_round(6800, 256, 0.62, 8)
    row = scale_for_epsilon(
        today, rounds=200, population=10**5, target_epsilon=1.0, delta=1e-6
    )
    assert row.reaches_target
    assert 0.95 < row.epsilon <= 1.0
    with pytest.raises(ValueError, match="drawing all of them"):
        scale_for_epsilon(today, rounds=200, population=6800, target_epsilon=0.01)


def test_more_users_per_client_cost_terms_of_the_mean():
    rows = compare_users_per_virtual_client(
        one_round(10**6, 2048, 1.5), rounds=200, choices=(1, 8)
    )
    assert rows[1].noise_on_mean == pytest.approx(8 * rows[0].noise_on_mean)
    assert rows[0].epsilon < rows[1].epsilon


@pytest.mark.parametrize(("count", "shape"), [("geometric", 1), ("logarithmic", 0)])
def test_selection_matches_dp_accounting(count, shape):
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS[ORDERS < 500])
    event = dp_event.RepeatAndSelectDpEvent(dp_event.GaussianDpEvent(5.0), 10, shape)
    accountant.compose(event)
    wanted = accountant.get_epsilon(1e-6)
    rdp = selection_rdp(gaussian_rdp(5.0), mean_runs=10, run_count=RunCount(count))
    assert epsilon_from_rdp(rdp, 1e-6) == pytest.approx(wanted, rel=1e-3)


def test_poisson_selection_matches_dp_accounting():
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS[ORDERS < 500])
    event = dp_event.RepeatAndSelectDpEvent(dp_event.GaussianDpEvent(5.0), 10, math.inf)
    accountant.compose(event)
    rdp = selection_rdp(gaussian_rdp(5.0), mean_runs=10, run_count=RunCount.POISSON)
    wanted = accountant.get_epsilon(1e-6)
    assert epsilon_from_rdp(rdp, 1e-6) == pytest.approx(wanted, rel=1e-2)


def statement(**change):
    mechanism = one_round(6800, 256, 2.48, 8)
    report = epsilon(mechanism, rounds=200, delta=6e-5)
    return PrivacyStatement(
        **{
            "claimed": report,
            "clip_norm": 0.1,
            "curve": epsilon_curve(mechanism, rounds=200, deltas=(1e-5,)),
            "target_epsilon": 1.5,
            "software": {"fedemb": "0.1.0"},
            **change,
        }
    )


def test_a_statement_says_what_a_reviewer_asks():
    text = statement().to_text()
    for fact in (
        "user's whole data",
        "add-or-remove-one",
        "poisson-virtual-clients",
        "6,800",
        "0.0376471",
        "rounds T",
        "users per virtual client u",
        "2.48",
        "(1-q) N(0, z^2) + q N(+1, z^2) against (1-q) N(0, z^2) + q N(-1, z^2)",
        "up to 2 C apart",
        "Renyi",
        "fedemb 0.1.0",
    ):
        assert fact in text
    assert max(len(line) for line in text.splitlines()) < 160
    record = json.loads(statement().dumps())
    assert record["setting"].startswith("central")
    assert record["schema"] == "fedemb-privacy-statement-1"
    assert record["epsilon"] == pytest.approx(1.49, abs=0.01)
    assert record["epsilon_at_delta"][0]["delta"] == 1e-5
    assert SampledGaussian.from_json(record["mechanism"]) == one_round(
        6800, 256, 2.48, 8
    )


def test_a_statement_hides_no_weakness():
    silent = epsilon(one_round(100, 10, 0.0), rounds=5, delta=1e-3)
    assert "NO DIFFERENTIAL PRIVACY" in statement(claimed=silent, curve=()).to_text()
    assert not statement(claimed=silent, curve=()).to_json()["private"]
    really = epsilon(one_round(680, 64, 0.62, 8), rounds=200, delta=1e-3)
    text = statement(really_run=really).to_text()
    assert "EXTRAPOLATED" in text
    assert f"{really.epsilon:.4g}" in text
    assert statement(really_run=really).to_json()["extrapolated"]
    assert "SEEDED RUN" in statement(seeded=True).to_text()
    assert (
        "NOT accounted: learning rate" in statement(tuned=("learning rate",)).to_text()
    )
    assert "Not private: losses" in statement(not_private=("losses",)).to_text()
    with pytest.raises(ValueError, match="clip_norm=0"):
        statement(clip_norm=0.0)


def test_orders_are_dense_enough():
    """Halving the spacing would gain less than half a percent."""
    z = 3.0
    best = min(
        a / (2 * z * z) + math.log1p(-1 / a) - math.log(1e-6 * a) / (a - 1)
        for a in np.linspace(1.01, 100, 100_000)
    )
    assert epsilon_from_rdp(gaussian_rdp(z), 1e-6) <= best * 1.005


@pytest.mark.parametrize("u", [1, 8])
@pytest.mark.parametrize(
    ("sampler", "more", "facts"),
    [
        (
            "cyclic",
            {"noise": "tree", "rounds_per_period": 64},
            ["tree aggregation", "sensitivity 5.47723 C over 64 rounds", "at least 26"],
        ),
        (
            "poisson-virtual-clients",
            {"noise": "banded", "bands": (0.8, 0.6)},
            ["banded matrix", "sensitivity 1 C over 2 rounds", "0.0752941"],
        ),
    ],
)
def test_a_statement_explains_correlated_noise(sampler, more, facts, u):
    own = SampledGaussian(
        sampler=sampler,
        population=6800,
        users_per_round=256,
        noise_multiplier=9.0,
        users_per_virtual_client=u,
        **more,
    )
    report = epsilon(own, rounds=128, delta=1e-5)
    statement = PrivacyStatement(claimed=report, clip_norm=0.1)
    text = statement.to_text()
    for fact in facts:
        assert fact in text
    assert max(len(line) for line in text.splitlines()) < 160
    assert statement.to_json()["noise"] == more["noise"]
