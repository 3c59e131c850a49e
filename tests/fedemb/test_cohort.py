"""Samplers: who is drawn, who sits with whom, and what is accounted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accounting import Sampler
from accounting.mechanism import ALLOCATED
from fedemb.cohort import (
    Cohort,
    FixedSize,
    FullParticipation,
    PoissonUsers,
    PoissonVirtualClients,
)
from fedemb.errors import UserError
from fedemb.randomness import RootKey
from fedemb.samplers import make_sampler


@st.composite
def samplers(draw):
    kind = draw(st.sampled_from([PoissonVirtualClients, PoissonUsers, FixedSize]))
    u = draw(st.integers(1, 6))
    groups = draw(st.integers(1, 12))
    population = draw(st.integers(u * groups, u * groups + 60))
    return kind(
        population=population, users_per_round=u * groups, users_per_virtual_client=u
    )


@given(samplers(), st.integers(0, 2**32), st.integers(0, 1000))
def test_the_users_of_a_round_are_distinct_and_sizes_add_up(sampler, seed, t):
    cohort = sampler.draw(RootKey.from_seed(seed), t)
    assert len(set(cohort.users.tolist())) == len(cohort.users) == cohort.sizes.sum()
    assert np.all(np.diff(cohort.ids) > 0)
    assert cohort.users.size == 0 or cohort.users.min() >= 0
    assert cohort.users.size == 0 or cohort.users.max() < sampler.population
    if not isinstance(sampler, PoissonUsers):
        assert cohort.sizes.max(initial=0) <= sampler.users_per_virtual_client


@given(samplers(), st.integers(0, 2**32), st.integers(0, 1000))
def test_seeds_reproduce_and_rounds_differ_by_counter_alone(sampler, seed, t):
    one, two = (sampler.draw(RootKey.from_seed(seed), t) for _ in range(2))
    assert one.ids.tolist() == two.ids.tolist()
    assert one.users.tolist() == two.users.tolist()


@given(samplers(), st.integers(0, 2**16), st.data())
def test_an_absent_user_changes_one_virtual_client_and_moves_nobody(
    sampler, seed, data
):
    """Seats above the number of users are empty; one user less empties one seat."""
    cohort = sampler.draw(RootKey.from_seed(seed), 0)
    users = data.draw(st.integers(1, sampler.population))
    with_her = {c.id: c.users.tolist() for c in cohort.present(users)}
    without = {c.id: c.users.tolist() for c in cohort.present(users - 1)}
    changed = [
        i for i in with_her | without if with_her.get(i, []) != without.get(i, [])
    ]
    assert len(changed) <= 1
    for i in changed:
        assert [x for x in with_her[i] if x != users - 1] == without.get(i, [])


def test_fixed_size_and_full_participation_have_exact_sizes():
    fixed = FixedSize(population=50, users_per_round=12, users_per_virtual_client=3)
    cohort = fixed.draw(RootKey.from_seed(1), 5)
    assert cohort.sizes.tolist() == [3, 3, 3, 3]
    full = FullParticipation(
        population=10, users_per_round=10, users_per_virtual_client=4
    )
    cohort = full.draw(RootKey.from_seed(1), 5)
    assert sorted(cohort.users.tolist()) == list(range(10))
    assert cohort.sizes.tolist() == [4, 4, 2]


def inclusion_p_value(sampler, q, trials=3000):
    """Chi-square of how often each of the users was in the round, against q."""
    counts = np.zeros(sampler.population)
    for t in range(trials):
        counts[sampler.draw(RootKey.from_seed(3), t).users] += 1
    z = (counts - trials * q) / np.sqrt(trials * q * (1 - q))
    return stats.chi2.sf((z**2).sum(), len(z))


@pytest.mark.statistical
@pytest.mark.parametrize("kind", [PoissonVirtualClients, PoissonUsers])
def test_users_are_included_with_probability_q_and_not_another(kind):
    sampler = kind(population=20, users_per_round=6, users_per_virtual_client=2)
    assert inclusion_p_value(sampler, 0.3) > 1e-3
    assert inclusion_p_value(sampler, 0.33) < 1e-6  # negative control


@pytest.mark.statistical
def test_virtual_clients_are_independent_coins():
    """The number drawn is binomial; a fixed-size draw of the same mean is not."""
    universe, q, trials = 40, 0.25, 2000
    sampler = PoissonVirtualClients(
        population=2 * universe, users_per_round=20, users_per_virtual_client=2
    )
    drawn = [len(sampler.draw(RootKey.from_seed(8), t)) for t in range(trials)]
    variance = universe * q * (1 - q)
    statistic = (trials - 1) * np.var(drawn, ddof=1) / variance
    assert 1e-3 < stats.chi2.cdf(statistic, trials - 1) < 1 - 1e-3
    assert abs(np.mean(drawn) - universe * q) < 4 * np.sqrt(variance / trials)
    fixed = FixedSize(population=80, users_per_round=20, users_per_virtual_client=2)
    assert len({len(fixed.draw(RootKey.from_seed(8), t)) for t in range(5)}) == 1


def test_seats_do_not_depend_on_the_coins():
    """Given the round, a user's seat is one and the same at every cohort size."""
    key, seats = RootKey.from_seed(4), {}
    for size in (8, 40, 80):
        sampler = PoissonVirtualClients(
            population=80, users_per_round=size, users_per_virtual_client=4
        )
        for client in sampler.draw(key, 2):
            known = seats.setdefault(client.id, client.users.tolist())
            assert known == client.users.tolist()


def test_a_user_keeps_her_slot_whoever_else_is_drawn():
    cohorts = [
        PoissonUsers(population=n, users_per_round=40, users_per_virtual_client=4).draw(
            RootKey.from_seed(4), 0
        )
        for n in (40, 200)
    ]
    slot = [{int(x): c.id for c in cohort for x in c.users} for cohort in cohorts]
    both = slot[0].keys() & slot[1].keys()
    assert both
    assert all(slot[0][x] == slot[1][x] for x in both)


def test_a_cohort_of_nobody_can_be_walked_and_cut():
    nobody = np.zeros(0, np.int64)
    cohort = Cohort(nobody, nobody, nobody)
    assert list(cohort) == []
    assert len(cohort.present(5)) == len(cohort.part(0, 4)) == 0


@given(samplers(), st.integers(0, 2**16), st.integers(1, 5))
def test_parts_put_together_are_the_cohort(sampler, seed, chunk):
    cohort = sampler.draw(RootKey.from_seed(seed), 0)
    parts = [cohort.part(i, i + chunk) for i in range(0, len(cohort), chunk)]
    walked = [(c.id, c.users.tolist()) for part in parts for c in part]
    assert walked == [(c.id, c.users.tolist()) for c in cohort]


def test_the_sampler_names_the_mechanism_that_it_draws():
    for name in Sampler:
        size = 60 if name is Sampler.FULL_PARTICIPATION else 12
        u = 1 if name in ALLOCATED else 3
        sampler = make_sampler(
            name, population=60, users_per_round=size, users_per_virtual_client=u
        )
        mechanism = sampler.mechanism(0.7)
        assert mechanism.sampler is name
        assert mechanism.population == 60
        assert mechanism.users_per_round == size
        assert mechanism.users_per_virtual_client == u
        assert mechanism.noise_multiplier == 0.7


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PoissonUsers, (0, 1, 1), "population=0"),
        (PoissonVirtualClients, (10, 11, 1), "=11 .* --users-per-round 10 or less"),
        (PoissonVirtualClients, (10**6, 10**6 + 1, 1), "users_per_round=1000001 must"),
        (PoissonVirtualClients, (10, 5, 8), "=8 .*users-per-virtual-client 5 or less"),
        (FixedSize, (100, 100, 8), "users_per_round=100 .* --users-per-round 96"),
        (PoissonVirtualClients, (10, 0, 1), "users_per_round=0"),
        (PoissonVirtualClients, (10, 3, 4), "users_per_virtual_client=4"),
        (FixedSize, (10, 5, 2), "must be a multiple"),
        (FullParticipation, (10, 5, 1), "must equal the population"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(kind, values, message):
    names = ("population", "users_per_round", "users_per_virtual_client")
    with pytest.raises(UserError, match=message):
        kind(**dict(zip(names, values, strict=True)))


@pytest.mark.parametrize("asked", [0, 300])
@pytest.mark.parametrize("name", [Sampler.RANDOM_ALLOCATION, Sampler.BALLS_IN_BINS])
def test_cohorts_are_refused_as_they_were_given_not_as_they_were_rounded(name, asked):
    with pytest.raises(UserError, match=f"users_per_round={asked} must be more than 0"):
        make_sampler(name, population=200, users_per_round=asked)
