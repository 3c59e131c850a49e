"""Samplers whose cost belongs to a period of rounds: epochs, allocations, groups.

What a round draws depends on the other rounds of its period, so a period is paid for at
once. Everything is still a function of (key, round) alone: the period's arrangement
comes from a key of that period, and a round looks up its part of it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accounting import Noise, Sampler, rounds_per_epoch
from fedemb.cohort import Cohort, Seats, poisson_subset
from fedemb.randomness import KeyStream, RootKey


@dataclass(frozen=True, kw_only=True)
class Shuffled(Seats):
    """Everybody once an epoch of floor(N / m) rounds, in a new random order each time.

    Participation guarantee: exactly one round of every epoch. No amplification is
    claimed: an epoch costs one Gaussian release.

    Example:
        >>> sampler = Shuffled(population=10, users_per_round=5)
        >>> key = RootKey.from_seed(0)
        >>> sorted(u for t in (0, 1) for u in sampler.draw(key, t).users.tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    accounted_as: ClassVar[Sampler] = Sampler.SHUFFLED

    @property
    def epoch(self) -> int:
        """Rounds of an epoch."""
        return rounds_per_epoch(self.population, self.users_per_round)

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """Every `epoch`-th virtual client of the epoch's permutation."""
        epoch, place = divmod(round_index, self.epoch)
        ids = np.arange(place, self.universe, self.epoch, dtype=np.int64)
        return self.seated(ids, self._seats(key, epoch))

    def _seats(self, key: RootKey, epoch: int) -> bytes:
        return key.derive("epoch seats", epoch)


@dataclass(frozen=True, kw_only=True)
class Cyclic(Shuffled):
    """Everybody once an epoch, in one random order that all epochs share.

    Participation guarantee: exactly one round of every epoch, and exactly floor(N / m)
    rounds from one to the next: the separation that correlated noise needs.
    """

    accounted_as: ClassVar[Sampler] = Sampler.CYCLIC

    def _seats(self, key: RootKey, epoch: int) -> bytes:
        del epoch
        return key.derive("cycle seats")


@dataclass(frozen=True, kw_only=True)
class GroupedPoisson(Seats):
    """Block-cyclic Poisson sampling, which amplifies banded noise.

    A secret permutation seats everybody in virtual clients once and for all; client i
    belongs to group i mod `groups`; a round flips coins for one group, in turn.

    Participation guarantee: in each round of her group, one in `groups`, a user takes
    part with probability groups * users_per_round / population, independently.

    Attributes:
        groups: as many as the strategy has bands.
    """

    groups: int

    accounted_as: ClassVar[Sampler] = Sampler.POISSON_VIRTUAL_CLIENTS

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """Independent coins for the clients of the round's group."""
        group = round_index % self.groups
        clients = len(range(group, self.universe, self.groups))
        q = self.groups * self.users_per_round / self.population
        coins = KeyStream(key.derive("cohort", round_index))
        ids = group + self.groups * poisson_subset(clients, q, coins)
        return self.seated(ids, key.derive("group seats"))

    def _own_numbers(self) -> dict[str, Any]:
        # With independent noise: the strategy is the identity, on as many groups.
        identity = (1.0, *[0.0] * (self.groups - 1))
        return {"noise": Noise.BANDED, "bands": identity}


@dataclass(frozen=True, kw_only=True)
class BallsInBins(Seats):
    """Every user falls into one uniformly random round of every period of t rounds.

    Participation guarantee: exactly one round of every period, each equally likely,
    independently of everybody else. The sizes of the rounds are a multinomial draw and
    a permutation fills them, which is the same and costs O(t + cohort).

    Attributes:
        rounds_per_period: t; users_per_round must be population / t.

    Raises:
        UserError: for several users per virtual client, or if the numbers do not fit.
    """

    rounds_per_period: int

    accounted_as: ClassVar[Sampler] = Sampler.BALLS_IN_BINS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mechanism(0.0)  # refuses what does not fit

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """The users whom the period's draw put into this round."""
        period, place = divmod(round_index, self.rounds_per_period)
        ends = _bins(
            key.derive("bins", period), self.population, self.rounds_per_period
        )
        ids = np.arange(ends[place], ends[place + 1], dtype=np.int64)
        return self.seated(ids, key.derive("bin seats", period))

    def _own_numbers(self) -> dict[str, Any]:
        return {"rounds_per_period": self.rounds_per_period}


@dataclass(frozen=True, kw_only=True)
class RandomAllocation(BallsInBins):
    """Every user takes part in a uniformly random set of k of the t rounds of a period.

    k is users_per_round * t / population. For k = 1 this is balls-in-bins; for larger k
    a round costs O(k^2 population).

    Participation guarantee: exactly k rounds of every period, every set of k equally
    likely, independently of everybody else.
    """

    accounted_as: ClassVar[Sampler] = Sampler.RANDOM_ALLOCATION

    @property
    def times(self) -> int:
        """k, rounds of a period that a user takes part in."""
        return round(self.users_per_round * self.rounds_per_period / self.population)

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """The users whose set of rounds contains this one."""
        if self.times == 1:
            return super().draw(key, round_index)
        period, place = divmod(round_index, self.rounds_per_period)
        rounds = _subsets(
            key.derive("sets", period),
            self.population,
            self.rounds_per_period,
            self.times,
        )
        users = np.flatnonzero((rounds == place).any(axis=0)).astype(np.int64)
        return Cohort(users, users, np.ones_like(users))


@lru_cache(maxsize=4)
def _bins(key: bytes, users: int, rounds: int) -> NDArray[np.int64]:
    """Where the bins of `users` balls end, `[rounds + 1]`: binomials, one by one."""
    from scipy.stats import binom

    uniform = KeyStream(key).uniforms(rounds)
    sizes, left = np.zeros(rounds, np.int64), users
    for i in range(rounds - 1):
        if left == 0:
            break
        sizes[i] = binom.ppf(uniform[i], left, 1 / (rounds - i))
        left -= int(sizes[i])
    sizes[-1] = left
    return np.concatenate([[0], np.cumsum(sizes)])


@lru_cache(maxsize=2)
def _subsets(key: bytes, users: int, rounds: int, times: int) -> NDArray[np.int32]:
    """A uniform set of `times` rounds for every user, `[times, users]`.

    Floyd's algorithm (Bentley and Floyd, 1987): the i-th pick is uniform among the
    first t - k + i rounds, and becomes the last of them if it was picked before.
    """
    stream = KeyStream(key)
    picks = np.empty((times, users), np.int32)
    for i in range(times):
        last = rounds - times + i
        pick = (stream.uniforms(users) * (last + 1)).astype(np.int32)
        picks[i] = np.where((picks[:i] == pick).any(axis=0), last, pick)
    return picks
