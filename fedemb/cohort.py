"""Samplers: one object draws the cohort *and* names the mechanism to account for.

Because both come from the same public fields, what is sampled and what is accounted
cannot disagree. The fields are publishable; the key is not, and comes in at call time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from accounting import PrivacyUnit, SampledGaussian, Sampler
from accounting.mechanism import check_cohort
from fedemb.errors import UserError
from fedemb.permutation import SeatPermutation, mix64
from fedemb.randomness import KeyStream, RootKey


@dataclass(frozen=True)
class VirtualClient:
    """Users that are trained and clipped together in one round.

    Attributes:
        id: number of the virtual client within its round; keys its local randomness.
        users: int64 `[users]`, their indices; fewer than the seats where users are
        absent.
    """

    id: int
    users: NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """The virtual clients of one round.

    Attributes:
        ids: int64 `[clients]`, increasing.
        users: int64 `[users]`, client after client.
        sizes: int64 `[clients]`, users in each client.
    """

    ids: NDArray[np.int64]
    users: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[VirtualClient]:
        ends = np.cumsum(self.sizes)
        for i, size, end in zip(self.ids, self.sizes, ends, strict=True):
            yield VirtualClient(int(i), self.users[end - size : end])

    def present(self, num_users: int) -> "Cohort":
        """Without the empty seats: users `num_users` and above are absent.

        A virtual client of absent users only contributes zero, and is left out.
        """
        here = self.users < num_users
        if here.all():
            return self
        clients = np.repeat(np.arange(len(self)), self.sizes)
        sizes = np.bincount(clients[here], minlength=len(self))
        return Cohort(self.ids[sizes > 0], self.users[here], sizes[sizes > 0])

    def part(self, start: int, stop: int) -> "Cohort":
        """The virtual clients number `start` to `stop - 1`."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        users = self.users[ends[start] : ends[min(stop, len(self))]]
        return Cohort(self.ids[start:stop], users, self.sizes[start:stop])


class CohortSampler(Protocol):
    """Draws cohorts and names the mechanism that was run."""

    @property
    def population(self) -> int:
        """Number of seats in the public id universe."""
        ...

    @property
    def users_per_round(self) -> float:
        """Expected number of users in a round."""
        ...

    @property
    def users_per_virtual_client(self) -> int:
        """Seats in a virtual client."""
        ...

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """The cohort of a round, a function of (key, round) alone."""
        ...

    def mechanism(self, noise_multiplier: float) -> SampledGaussian:
        """What one round costs: this sampler with Gaussian noise."""
        ...


def refuse_cohort(
    population: int, users_per_round: float, users_per_virtual_client: int
) -> None:
    """Refuse a round that the population cannot fill; see `check_cohort`.

    Raises:
        UserError: naming the number, and the largest one that would do.
    """
    try:
        check_cohort(population, users_per_round, users_per_virtual_client)
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Seats:
    """What all samplers have in common.

    Raises:
        UserError: if a number is out of range, or a round would exceed the population.
    """

    population: int
    users_per_round: float
    users_per_virtual_client: int = 1
    unit: PrivacyUnit = PrivacyUnit.USER

    accounted_as: ClassVar[Sampler]

    def __post_init__(self) -> None:
        refuse_cohort(
            self.population, self.users_per_round, self.users_per_virtual_client
        )

    def mechanism(self, noise_multiplier: float) -> SampledGaussian:
        """What one round costs: this sampler with Gaussian noise.

        Raises:
            UserError: if no bound is proved for these numbers.
        """
        try:
            return SampledGaussian(
                sampler=self.accounted_as,
                population=self.population,
                users_per_round=self.users_per_round,
                users_per_virtual_client=self.users_per_virtual_client,
                noise_multiplier=noise_multiplier,
                unit=self.unit,
                **self._own_numbers(),
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def _own_numbers(self) -> dict[str, Any]:
        """Public numbers that only this sampler has, by their name in the record."""
        return {}

    def seated(self, ids: NDArray[np.int64], seats: bytes) -> Cohort:
        """The users in virtual clients `ids` of the permutation keyed by `seats`."""
        u = self.users_per_virtual_client
        permutation = SeatPermutation(self.population, seats)
        places = ids[:, None] * u + np.arange(u)
        taken = places < self.population  # the last client may have empty seats
        sizes = taken.sum(axis=1).astype(np.int64)
        return Cohort(ids, permutation(places[taken]), sizes)

    @property
    def universe(self) -> int:
        """Virtual clients that the seats make up; the last may have empty seats."""
        return -(-self.population // self.users_per_virtual_client)


@dataclass(frozen=True, kw_only=True)
class PoissonVirtualClients(Seats):
    """Every virtual client is drawn independently with probability q (the default).

    A keyed permutation of the public id universe cuts it into `population / u` virtual
    clients of u seats; each is drawn with probability q = users_per_round / population.
    Adding, removing or replacing a user changes one seat and moves nobody else.

    Participation guarantee: each user is in the round with probability exactly q.

    Example:
        >>> sampler = PoissonVirtualClients(population=1000, users_per_round=100,
        ...                                 users_per_virtual_client=4)
        >>> cohort = sampler.draw(RootKey.from_seed(0), 0)
        >>> len(cohort), len(set(cohort.users.tolist())), cohort.sizes.max().item()
        (24, 96, 4)
    """

    accounted_as: ClassVar[Sampler] = Sampler.POISSON_VIRTUAL_CLIENTS

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """Virtual clients drawn by independent coins, then the users in their seats."""
        q = self.users_per_round / self.population
        coins = KeyStream(key.derive("cohort", round_index))
        ids = poisson_subset(self.universe, q, coins)
        return self.seated(ids, key.derive("seats", round_index))


@dataclass(frozen=True, kw_only=True)
class TruncatedPoisson(Seats):
    """Poisson over virtual clients, cut at random where more are drawn than may be.

    Participation guarantee: each user is in the round with probability at most q, and
    no round has more than `most // users_per_virtual_client` virtual clients. An absent
    user's seat is drawn, and counts towards the limit, as if she were there.

    Attributes:
        most: users in a round, at most.

    Raises:
        UserError: if not one virtual client may be drawn.
    """

    most: int

    accounted_as: ClassVar[Sampler] = Sampler.TRUNCATED_POISSON

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < self.users_per_virtual_client:
            raise UserError(
                f"truncated_users_per_round={self.most} must be at least "
                f"users_per_virtual_client={self.users_per_virtual_client}."
            )

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """Independent coins; of too many heads a uniform subset of the largest size."""
        q = self.users_per_round / self.population
        coins = KeyStream(key.derive("cohort", round_index))
        ids = poisson_subset(self.universe, q, coins)
        limit = self.most // self.users_per_virtual_client
        if len(ids) > limit:
            lots = KeyStream(key.derive("cut", round_index)).words(len(ids))
            ids = np.sort(ids[np.argsort(lots)[:limit]])
        return self.seated(ids, key.derive("seats", round_index))

    def _own_numbers(self) -> dict[str, Any]:
        return {"truncated_users_per_round": self.most}


@dataclass(frozen=True, kw_only=True)
class PoissonUsers(Seats):
    """Every user is drawn independently with probability q and takes a slot of her own.

    The slot is a function of (user, round) alone, so nobody's grouping depends on who
    else was drawn. Kept for comparison: a user then turns one clipped vector into
    another with nothing on the other side, which costs twice the sensitivity.

    Participation guarantee: each user is in the round with probability exactly q.
    """

    accounted_as: ClassVar[Sampler] = Sampler.POISSON_USERS

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """Users drawn by independent coins, grouped by their own slots."""
        coins = KeyStream(key.derive("cohort", round_index))
        q = self.users_per_round / self.population
        users = poisson_subset(self.population, q, coins)
        if self.users_per_virtual_client == 1:
            return Cohort(users, users, np.ones_like(users))
        slots = max(1, round(self.users_per_round / self.users_per_virtual_client))
        salt = np.frombuffer(key.derive("slots", round_index), dtype="<u8")[0]
        slot = (mix64(users.astype(np.uint64) ^ salt) % np.uint64(slots)).astype(
            np.int64
        )
        order = np.argsort(slot, kind="stable")
        ids, sizes = np.unique(slot, return_counts=True)
        return Cohort(ids, users[order], sizes.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class FixedSize(Seats):
    """Exactly `users_per_round` users without replacement, cut into groups of u.

    The published reference does this; it is accounted under replace-one.

    Participation guarantee: exactly users_per_round users, each equally likely.

    Raises:
        UserError: if users_per_round is not a multiple of users_per_virtual_client.
    """

    accounted_as: ClassVar[Sampler] = Sampler.FIXED_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        m, u = self.users_per_round, self.users_per_virtual_client
        if m % u:
            raise UserError(
                f"users_per_round={m:.15g} must be a multiple of "
                f"users_per_virtual_client={u} when the size of the cohort is fixed; "
                f"give --users-per-round {int(m // u) * u}."
            )

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """The users in the first seats of a fresh permutation: a uniform subset."""
        clients = int(self.users_per_round) // self.users_per_virtual_client
        ids = np.arange(clients, dtype=np.int64)
        return self.seated(ids, key.derive("seats", round_index))


@dataclass(frozen=True, kw_only=True)
class FullParticipation(Seats):
    """Every user in every round; no amplification."""

    accounted_as: ClassVar[Sampler] = Sampler.FULL_PARTICIPATION

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.users_per_round != self.population:
            raise UserError(
                f"users_per_round={self.users_per_round:g} must equal the population "
                "of "
                f"{self.population} when everybody takes part in every round."
            )

    def draw(self, key: RootKey, round_index: int) -> Cohort:
        """All virtual clients of this round's permutation."""
        ids = np.arange(self.universe, dtype=np.int64)
        return self.seated(ids, key.derive("seats", round_index))


def poisson_subset(universe: int, q: float, coins: KeyStream) -> NDArray[np.int64]:
    """Indices of an independent-coin subset of range(universe), in O(size drawn).

    The gaps between heads of a q-coin are geometric: floor(log U / log(1 - q)).
    """
    if q >= 1:
        return np.arange(universe, dtype=np.int64)
    block = int(universe * q + 6 * (universe * q) ** 0.5) + 16
    drawn: list[NDArray[np.int64]] = []
    last = -1
    while last < universe:
        gaps = np.log(coins.uniforms(block)) / np.log1p(-q)
        steps = np.minimum(gaps, universe).astype(np.int64) + 1
        drawn.append(last + np.cumsum(steps))
        last = int(drawn[-1][-1])
    positions = np.concatenate(drawn)
    return positions[positions < universe]
