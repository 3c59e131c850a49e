"""Samplers of periods: who takes part how often, and with which probability."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accounting import Sampler
from fedemb.cohort import TruncatedPoisson
from fedemb.errors import UserError
from fedemb.periods import BallsInBins, Cyclic, RandomAllocation, Shuffled
from fedemb.randomness import RootKey
from fedemb.samplers import SAMPLERS

KEY = RootKey.from_seed(31)


@given(st.sampled_from([Shuffled, Cyclic]), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=20)
def test_everybody_takes_part_once_an_epoch(kind, u, seed):
    sampler = kind(population=53, users_per_round=12, users_per_virtual_client=u)
    key = RootKey.from_seed(seed)
    assert sampler.epoch == sampler.mechanism(1.0).period == 4
    for epoch in range(2):
        cohorts = [sampler.draw(key, 4 * epoch + i) for i in range(4)]
        users = np.concatenate([c.users for c in cohorts])
        assert sorted(users.tolist()) == list(range(53))
        assert max(len(c) for c in cohorts) - min(len(c) for c in cohorts) <= 1
        assert max(c.sizes.max() for c in cohorts) <= u


def test_a_cycle_keeps_users_a_whole_epoch_apart_and_a_shuffle_does_not():
    cycle = Cyclic(population=53, users_per_round=12)
    shuffle = Shuffled(population=53, users_per_round=12)
    gaps = {}
    for kind in (cycle, shuffle):
        cohorts = [set(kind.draw(KEY, t).users.tolist()) for t in range(40)]
        gaps[kind] = {
            b - a
            for user in range(53)
            for a, b in itertools.pairwise(t for t in range(40) if user in cohorts[t])
        }
    assert gaps[cycle] == {4}
    assert min(gaps[shuffle]) < 4


@pytest.mark.parametrize(
    "sampler",
    [
        BallsInBins(population=60, users_per_round=6, rounds_per_period=10),
        RandomAllocation(population=60, users_per_round=6, rounds_per_period=10),
        RandomAllocation(population=60, users_per_round=18, rounds_per_period=10),
    ],
    ids=["bins", "one of ten", "three of ten"],
)
def test_every_user_takes_part_exactly_k_times_a_period(sampler):
    k = round(sampler.users_per_round * 10 / 60)
    for period in range(3):
        counts = np.zeros(60, int)
        for t in range(10):
            counts[sampler.draw(KEY, 10 * period + t).users] += 1
        assert (counts == k).all()


@pytest.mark.statistical
@pytest.mark.parametrize("k", [1, 2])
def test_every_set_of_rounds_is_equally_likely_and_users_are_independent(k):
    t, users = 4, 40
    sampler = RandomAllocation(
        population=users, users_per_round=users * k / t, rounds_per_period=t
    )
    sets = list(itertools.combinations(range(t), k))
    counts, together, periods = dict.fromkeys(sets, 0), 0, 250
    for period in range(periods):
        cohorts = [set(sampler.draw(KEY, t * period + i).users) for i in range(t)]
        own = [tuple(i for i in range(t) if x in cohorts[i]) for x in range(users)]
        for chosen in own:
            counts[chosen] += 1
        together += own[0] == own[1]
    observed = np.array([counts[s] for s in sets])
    assert stats.chisquare(observed).pvalue > 1e-4
    assert stats.binomtest(together, periods, 1 / len(sets)).pvalue > 1e-4
    # The negative control: one round at the expense of another.
    skewed = observed.astype(float)
    skewed[0] *= 1.15
    skewed[1] -= 0.15 * observed[0]
    assert stats.chisquare(skewed).pvalue < 1e-4


@pytest.mark.statistical
def test_bins_have_multinomial_sizes():
    sampler = BallsInBins(population=1000, users_per_round=100, rounds_per_period=10)
    sizes = np.array([len(sampler.draw(KEY, t)) for t in range(3000)])
    assert sizes.reshape(-1, 10).sum(axis=1).tolist() == [1000] * 300
    statistic = ((sizes - 100) ** 2).sum() / 90
    assert 1e-3 < stats.chi2.cdf(statistic * 0.9, 2700) < 1 - 1e-3


@pytest.mark.parametrize("u", [1, 3])
def test_no_truncated_cohort_is_larger_than_allowed(u):
    sampler = TruncatedPoisson(
        population=90, users_per_round=30, users_per_virtual_client=u, most=33
    )
    sizes = [len(sampler.draw(KEY, t)) for t in range(300)]
    assert max(sizes) == 33 // u
    assert min(sizes) < 33 // u
    assert sampler.mechanism(1.0).truncated_users_per_round == 33
    with pytest.raises(UserError, match="truncated_users_per_round=0"):
        TruncatedPoisson(population=90, users_per_round=30, most=0)


@pytest.mark.statistical
def test_the_cut_of_a_truncated_cohort_is_uniform():
    """Every user is cut equally often; keeping the first ones would not be."""
    sampler = TruncatedPoisson(population=20, users_per_round=10, most=9)
    counts = np.zeros(20)
    for t in range(3000):
        counts[sampler.draw(KEY, t).users] += 1
    q = counts.mean() / 3000
    z = (counts - 3000 * q) / np.sqrt(3000 * q * (1 - q))
    assert stats.chi2.sf((z**2).sum(), 19) > 1e-4
    assert q < 0.5


def test_numbers_that_do_not_fit_are_refused_by_name():
    with pytest.raises(UserError, match="users_per_virtual_client=1"):
        BallsInBins(
            population=60,
            users_per_round=6,
            users_per_virtual_client=2,
            rounds_per_period=10,
        )
    with pytest.raises(UserError, match="whole number"):
        RandomAllocation(population=60, users_per_round=7, rounds_per_period=10)
    assert {kind.accounted_as for kind in SAMPLERS} == set(Sampler)
