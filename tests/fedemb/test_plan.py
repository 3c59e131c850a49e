"""The plan: noise, divisor and accounted mechanism come from the same numbers."""

import pytest
from core_toys import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import epsilon
from fedemb.clipping import AdaptiveClipping
from fedemb.cohort import FixedSize, PoissonUsers, PoissonVirtualClients
from fedemb.errors import UserError
from fedemb.plan import PrivacyPlan


def big(z=1.0, u=1, cohort=256, rounds=200, kind=PoissonVirtualClients):
    sampler = kind(population=6800, users_per_round=cohort, users_per_virtual_client=u)
    return PrivacyPlan(
        sampler=sampler,
        rounds=rounds,
        clip_norm=1.0,
        noise_multiplier=z,
        delta=6800**-1.1,
    )


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 10))
def test_the_mechanism_has_the_numbers_of_the_plan(u, groups, z):
    own = plan(200, u * groups, u, noise_multiplier=z)
    assert own.expected_clients == groups
    assert own.mechanism == own.sampler.mechanism(z)
    assert own.mechanism.sampling_probability == u * groups / 200
    assert own.value_noise_multiplier == z


def test_adaptive_clipping_leaves_the_accounted_noise_and_raises_the_added_one():
    adaptive = AdaptiveClipping(count_stddev=1.0)
    own = plan(adaptive_clipping=adaptive)
    assert own.mechanism == plan().mechanism
    assert own.value_noise_multiplier == pytest.approx(0.75**-0.5)
    with pytest.raises(ValueError, match="below twice the count's"):
        plan(adaptive_clipping=adaptive, noise_multiplier=2.0)


# z, users per virtual client, epsilon: the design's table and the spec's section 9.
KNOWN = [
    (0.62, 1, 9.67),
    (2.48, 1, 0.75),
    (1.24, 1, 2.04),
    (0.62, 8, 11.7),
    (2.48, 8, 1.49),
]


@pytest.mark.parametrize(("z", "u", "value"), KNOWN)
def test_epsilon_of_the_published_example_run(z, u, value):
    assert big(z, u).spent().epsilon == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    ("z", "u", "value"), [(0.62, 8, 64.2), (1.24, 8, 9.67), (2.48, 8, 2.04)]
)
def test_sampling_users_instead_costs_twice_the_sensitivity(z, u, value):
    found = big(z, u, kind=PoissonUsers).spent().epsilon
    assert found == pytest.approx(value, rel=0.01)


# Section 10, cohort 256 k, noise 0.62 k, 200 rounds: N, k, epsilon at factors 1 and 2.
EXTRAPOLATED = [
    (34_000, 1, 3.36, 26.7),
    (34_000, 10, 0.63, 1.41),
    (340_000, 1, 1.12, 13.0),
    (340_000, 10, 0.063, 0.138),
    (1_020_000, 1, 0.54, 10.8),
    (1_020_000, 10, 0.021, 0.046),
]


@pytest.mark.parametrize(("population", "k", "alone", "grouped"), EXTRAPOLATED)
def test_epsilon_of_extrapolated_cohorts(population, k, alone, grouped):
    for kind, u, value in (
        (PoissonVirtualClients, 1, alone),
        (PoissonUsers, 8, grouped),
    ):
        own = PrivacyPlan(
            sampler=kind(
                population=population,
                users_per_round=256 * k,
                users_per_virtual_client=u,
            ),
            rounds=200,
            clip_norm=1.0,
            noise_multiplier=0.62 * k,
            delta=population**-1.1,
        )
        half_a_digit = 0.5 * 10.0 ** -len(str(value).split(".")[1])
        found = own.spent().epsilon
        assert found == pytest.approx(value, rel=0.01, abs=half_a_digit)


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("u", [1, 8])
def test_a_calibrated_plan_spends_at_most_its_target_and_hardly_less(target, u):
    found = big(u=u).calibrate(target).spent().epsilon
    assert 0.99 * target <= found <= target


@settings(max_examples=12)
@given(
    st.floats(0.5, 4.0),
    st.integers(10, 300),
    st.integers(64, 512),
    st.sampled_from([1, 8]),
)
def test_epsilon_rises_with_rounds_and_cohort_and_falls_with_noise(
    z, rounds, cohort, u
):
    def spent(*args):
        mechanism = big(args[0], u, args[1]).mechanism
        return epsilon(
            mechanism, rounds=args[2], delta=1e-5, accountant="rdp"
        ).epsilon_rdp

    here = spent(z, cohort, rounds)
    assert spent(z * 1.2, cohort, rounds) < here
    assert spent(z, cohort * 1.2, rounds) > here
    assert spent(z, cohort, rounds + 20) > here


def test_users_in_company_cost_more_than_alone():
    assert big(1.0, 8).spent().epsilon > big(1.0, 1).spent().epsilon


def test_no_noise_is_no_privacy_and_no_round_costs_nothing():
    assert big(0.0).spent().epsilon == float("inf")
    assert big().spent(rounds=0).epsilon == 0


def test_a_fixed_size_protects_a_replaced_user_and_costs_more():
    own = big(4.0, 8, kind=FixedSize)
    assert own.mechanism.adjacency.value == "replace-one"
    replaced = own.spent(accountant="rdp").epsilon
    assert replaced > big(4.0, 8).spent(accountant="rdp").epsilon


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("clip_norm", 0.0),
        ("clip_norm", float("nan")),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("inf")),
        ("delta", 0.0),
        ("delta", 1.0),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        plan(**{name: value})


def test_noise_beyond_the_lattice_is_refused():
    with pytest.raises(ValueError, match="could overflow"):
        plan(noise_multiplier=1e12)
