"""Seat -> user is a bijection, whatever the key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedemb.permutation import SeatPermutation

keys = st.binary(min_size=32, max_size=32)


@given(st.integers(1, 3000), keys)
def test_it_is_a_bijection_of_the_range(size, key):
    users = SeatPermutation(size, key)(np.arange(size))
    assert sorted(users.tolist()) == list(range(size))


@given(st.integers(1, 2000), keys, st.data())
def test_a_seat_is_looked_up_without_the_others(size, key, data):
    permutation = SeatPermutation(size, key)
    seat = data.draw(st.integers(0, size - 1))
    everybody = permutation(np.arange(size))
    assert permutation(np.array([seat])).tolist() == [everybody[seat]]


@given(keys)
def test_huge_universes_stay_in_range_and_distinct(key):
    seats = np.arange(0, 10**10, 10**8 + 7)
    users = SeatPermutation(10**10, key)(seats)
    assert users.min() >= 0
    assert users.max() < 10**10
    assert len(set(users.tolist())) == len(seats)


def test_keys_mix_users_and_the_identity_does_not():
    """Pairs of neighbouring seats fall together as often as chance has it."""
    size, u, trials = 60, 4, 400
    together = 0
    for trial in range(trials):
        users = SeatPermutation(size, trial.to_bytes(32, "big"))(np.arange(size))
        seat = np.argsort(users)
        together += int(seat[0] // u == seat[1] // u)
    chance = (u - 1) / (size - 1)
    assert stats.binomtest(together, trials, chance).pvalue > 1e-3
    assert stats.binomtest(trials, trials, chance).pvalue < 1e-9  # the identity


def test_an_empty_universe_is_refused():
    with pytest.raises(ValueError, match="size=0"):
        SeatPermutation(0, bytes(32))
