"""One round's mechanism: clip, sum over sampled virtual clients, add Gaussian noise.

A `SampledGaussian` holds the public numbers that are necessary and sufficient to
account
for a round. It is also the only place that knows which pair of distributions dominates
the round, for which neighbouring populations that is proved, and with which multiplier:

============================ ===== =================== ============ ==================
sampler                      u     dominating pair     multiplier   proved for
============================ ===== =================== ============ ==================
Poisson over virtual clients 1     add_or_remove       z            add/remove, zero-out
Poisson over virtual clients > 1   replace_one         z            all three
Poisson over users           1     add_or_remove       z            add/remove, zero-out
Poisson over users           > 1   add_or_remove       z / 2        add/remove, zero-out
fixed size                   any   replace_one         z / 2 (*)    replace-one
full, shuffled, cyclic       1     add_or_remove       z            add/remove, zero-out
full, shuffled, cyclic       > 1   replace_one         z            all three
truncated Poisson            1     add_or_remove       z            add/remove, zero-out
truncated Poisson            > 1   replace_one         z            all three
random allocation            1     add_or_remove       z            add/remove, zero-out
============================ ===== =================== ============ ==================

Multipliers are noise over the clip norm C, except (*): noise over the sensitivity, 2C,
as sampling without replacement is analysed. `replace_one` is the antipodal pair
(1-q) N(0, z^2) + q N(+1, z^2) against (1-q) N(0, z^2) + q N(-1, z^2).

Correlated noise divides the multiplier by the sensitivity of a period, in clip norms
(`accounting.correlated`).

**Theorem (the antipodal pair dominates).** Let |d|, |d'| <= 1 in any dimension,
P = (1-q) N(0, z^2 I) + q N(d, z^2 I) and Q = (1-q) N(0, z^2 I) + q N(d', z^2 I). Then
H_t(P || Q) = sup_A P(A) - t Q(A) is, for every t >= 0, at most that of the antipodal
pair.

Proof. Write n_a for N(a, z^2 I). Since H_t(P || Q) = 1 - t + t H_{1/t}(Q || P) and the
claim is symmetric in d and d', let t >= 1. With c = (1-q)(t-1)/q >= 0,

    P(A) - t Q(A) = q [n_d(A) - t n_d'(A) - c n_0(A)].

Fix A and let a = n_d(A). By the Neyman-Pearson lemma no set of n_d-mass a has less mass
under a Gaussian whose mean is r away from d than a half-space has, and that mass is
G_r(a) = Phi(Phi^-1(a) - r/z), decreasing in r. As |d| <= 1 and |d - d'| <= 2,

    n_d(A) - t n_d'(A) - c n_0(A) <= a - t G_2(a) - c G_1(a).

On the line, the half-line B with N(1, z^2)(B) = a has mass G_1(a) under N(0, z^2) and
G_2(a) under N(-1, z^2), both at once: the right side is what the antipodal pair attains
with B. The supremum over A gives the claim; q = 0 is trivial. []

The same proof with |d|, |d'| <= r gives the pair with z / r. It covers a round: given
everybody else's data and coins, the permutation, and what earlier rounds released, a
user's virtual client is drawn by a coin of its own and then adds one of two vectors of
norm at most C. The round is a mixture of such releases over that randomness, which is
distributed alike for both neighbours, and H_t is jointly convex. Every f-divergence,
hence every Renyi divergence, is monotone in the curve t -> H_t.

*Truncated Poisson, zero-out included.* If at most B - 1 others were drawn, nothing is
cut and the round is as above. Otherwise let p be the probability of being in the cut
cohort. By symmetry its other members are a uniform set S of B - 1, and if she is not in
it one more, j: the round is (1-p) N(x_S + y_j) + p N(x_S + d) against the same with d'
(nothing changes hands but her vector), where |y_j|, |d|, |d'| <= 1. Move y_j to the
origin: the theorem with r = 2. This is what dp-accounting's truncated mechanism uses.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from accounting import _validate, correlated
from accounting.errors import UnsupportedMechanism

SCHEMA_VERSION = 1
"""Version of the JSON form of a mechanism."""


class Sampler(StrEnum):
    """How the users of a round are drawn."""

    POISSON_VIRTUAL_CLIENTS = "poisson-virtual-clients"
    POISSON_USERS = "poisson-users"
    FIXED_SIZE = "fixed-size"
    FULL_PARTICIPATION = "full-participation"
    SHUFFLED = "shuffled"
    CYCLIC = "cyclic"
    TRUNCATED_POISSON = "truncated-poisson"
    RANDOM_ALLOCATION = "random-allocation"
    BALLS_IN_BINS = "balls-in-bins"


class Noise(StrEnum):
    """How the noise of different rounds is related."""

    INDEPENDENT = "gaussian"
    TREE = "tree"
    BANDED = "banded"


class DominatingPair(StrEnum):
    """The pair of output distributions that bounds every neighbouring pair."""

    ADD_OR_REMOVE = "add_or_remove"
    REPLACE_ONE = "replace_one"


class Adjacency(StrEnum):
    """Which two populations are neighbours."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"
    ZERO_OUT = "zero-out"


class PrivacyUnit(StrEnum):
    """Whose presence is protected."""

    USER = "user"
    EXAMPLE = "example"


EVERY_ROUND_OR_EPOCH = (
    Sampler.FULL_PARTICIPATION,
    Sampler.SHUFFLED,
    Sampler.CYCLIC,
)
"""Samplers without amplification: a plain Gaussian for every participation."""

ALLOCATED = (Sampler.RANDOM_ALLOCATION, Sampler.BALLS_IN_BINS)
"""Samplers that allot every user a fixed number of the rounds of a period."""


def rounds_per_epoch(population: int, users_per_round: float) -> int:
    """Rounds in which everybody takes part once, floor(N / m); at least 1.

    A hair of rounding in m does not cost a round.

    Example:
        >>> rounds_per_epoch(1000, 300), rounds_per_epoch(1000, 100.00000001)
        (3, 10)
    """
    return max(1, math.floor(population / users_per_round * (1 + 1e-9)))


def check_cohort(
    population: int, users_per_round: float, users_per_virtual_client: int
) -> None:
    """Refuse a round that the population cannot fill.

    Raises:
        ValueError: naming the number, and the largest one that would do.

    Example:
        >>> check_cohort(population=300, users_per_round=300,
        ...              users_per_virtual_client=8)
    """
    m, u = users_per_round, users_per_virtual_client
    _validate.whole_at_least("population", population, 1)
    if not 0 < m <= population:
        raise ValueError(
            f"users_per_round={m:.15g} must be more than 0 and at most the population "
            f"of {population}, of whom each is in a round once at most; give "
            f"--users-per-round {population} or less, or bring more users."
        )
    _validate.whole_at_least("users_per_virtual_client", u, 1)
    if u > m:
        raise ValueError(
            f"users_per_virtual_client={u} must be at most users_per_round={m:.15g}: a "
            "round needs a whole virtual client; give --users-per-virtual-client "
            f"{max(int(m), 1)} or less, or a larger --users-per-round."
        )


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """One round: a sampled sum of vectors of norm at most C, plus N(0, (zC)^2 I).

    Guarantee: two records that compare equal cost the same, and everything in one may
    be published. Noise scales exist only relative to the clip norm C.

    Attributes:
        sampler: how the users of a round are drawn.
        population: N, number of seats in the public id universe [users].
        users_per_round: expected number of users in a round (exact if fixed) [users].
        noise_multiplier: z; the noise on the sum has standard deviation z * C. Zero
            means no privacy at all.
        users_per_virtual_client: u, users trained and clipped together.
        unit: whose presence is protected. With EXAMPLE read "users" as examples.
        truncated_users_per_round: truncated Poisson only, the most users in a round.
        rounds_per_period: under random allocation t; every user takes part in exactly
            `users_per_round * t / population` of every t rounds. Under correlated noise
            the rounds until it starts afresh, or of the whole run.
        noise: how the noise of different rounds is related.
        bands: banded noise only, the first column of the strategy [bands].

    Raises:
        ValueError: if a number is out of range.
        UnsupportedMechanism: if no bound is proved for the combination.

    Example:
        >>> mechanism = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=1000, users_per_round=100, noise_multiplier=1.0,
        ...     users_per_virtual_client=4)
        >>> mechanism.sampling_probability, mechanism.dominating_pair.value
        (0.1, 'replace_one')
        >>> SampledGaussian.from_json(mechanism.to_json()) == mechanism
        True

    References:
        Ponomareva et al. (2023), "How to DP-fy ML", arXiv:2303.00654, section 5.6
        (microbatches: one user turns one clipped vector into another).
    """

    sampler: Sampler
    population: int
    users_per_round: float
    noise_multiplier: float
    users_per_virtual_client: int = 1
    unit: PrivacyUnit = PrivacyUnit.USER
    truncated_users_per_round: int | None = None
    rounds_per_period: int | None = None
    noise: Noise = Noise.INDEPENDENT
    bands: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", Sampler(self.sampler))
        object.__setattr__(self, "unit", PrivacyUnit(self.unit))
        object.__setattr__(self, "noise", Noise(self.noise))
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(map(float, self.bands)))
        check_cohort(
            self.population, self.users_per_round, self.users_per_virtual_client
        )
        _validate.finite_at_least(
            "noise_multiplier", self.noise_multiplier, 0, "Zero means no privacy."
        )
        self._check_combination()

    def _check_combination(self) -> None:
        """Refuse what the sampler cannot draw or the theory does not cover."""
        sampler, m = self.sampler, self.users_per_round
        if self.unit is PrivacyUnit.EXAMPLE and self.users_per_virtual_client > 1:
            raise UnsupportedMechanism(
                "unit='example' needs users_per_virtual_client=1: examples are clipped "
                "one by one."
            )
        if sampler is Sampler.FIXED_SIZE:
            _validate.whole_at_least("users_per_round", m, 1, "Its size is fixed.")
        if sampler is Sampler.FULL_PARTICIPATION and m != self.population:
            raise ValueError(
                f"users_per_round={m:g} must equal the population of "
                f"{self.population} under full participation."
            )
        if (sampler is Sampler.TRUNCATED_POISSON) != (
            self.truncated_users_per_round is not None
        ):
            raise ValueError(
                f"truncated_users_per_round={self.truncated_users_per_round} must be "
                "given for sampler='truncated-poisson' and for no other."
            )
        if self.truncated_users_per_round is not None:
            _validate.whole_at_least(
                "truncated_users_per_round",
                self.truncated_users_per_round,
                self.users_per_virtual_client,
            )
        if self.noise is not Noise.INDEPENDENT or self.bands is not None:
            correlated.check(self)
        elif (sampler in ALLOCATED) != (self.rounds_per_period is not None):
            raise ValueError(
                f"rounds_per_period={self.rounds_per_period} must be given for "
                "random-allocation and balls-in-bins and for no other sampler."
            )
        elif self.rounds_per_period is not None:
            self._check_allocation(self.rounds_per_period)

    def _check_allocation(self, period: int) -> None:
        _validate.whole_at_least("rounds_per_period", period, 1)
        times = self.users_per_round * period / self.population
        if abs(times - round(times)) > 1e-9 * times or round(times) < 1:
            raise ValueError(
                f"rounds_per_period={period} gives every user {times:g} rounds of a "
                "period, which must be a whole number; change users_per_round."
            )
        if self.sampler is Sampler.BALLS_IN_BINS and round(times) != 1:
            raise ValueError(
                f"rounds_per_period={period} must be population / users_per_round for "
                "balls-in-bins, where every user falls into one round."
            )
        if self.users_per_virtual_client > 1:
            raise UnsupportedMechanism(
                f"{self.sampler} is proved for users_per_virtual_client=1 only; use "
                "poisson-virtual-clients for larger virtual clients."
            )

    @property
    def sampling_probability(self) -> float:
        """Probability q that a given user is in a given round."""
        return self.users_per_round / self.population

    @property
    def sampling_unit(self) -> str:
        """What is drawn at once: 'virtual_client' or 'user' (the same if u = 1)."""
        by_user = (Sampler.POISSON_USERS, Sampler.FIXED_SIZE)
        if self.users_per_virtual_client == 1 or self.sampler in by_user:
            return "user"
        return "virtual_client"

    @property
    def expected_virtual_clients(self) -> float:
        """Expected virtual clients in a round: the public divisor of every mean."""
        return self.users_per_round / self.users_per_virtual_client

    @property
    def dominating_pair(self) -> DominatingPair:
        """The pair that bounds a round; see the table of this module."""
        if self.sampler is Sampler.FIXED_SIZE:
            return DominatingPair.REPLACE_ONE
        if self.users_per_virtual_client == 1 or self.sampler is Sampler.POISSON_USERS:
            return DominatingPair.ADD_OR_REMOVE
        return DominatingPair.REPLACE_ONE

    @property
    def adjacencies(self) -> frozenset[Adjacency]:
        """Every neighbouring relation the bound is proved for."""
        if self.sampler is Sampler.FIXED_SIZE:
            return frozenset({Adjacency.REPLACE_ONE})
        if self.dominating_pair is DominatingPair.REPLACE_ONE:
            return frozenset(Adjacency)
        return frozenset({Adjacency.ADD_OR_REMOVE_ONE, Adjacency.ZERO_OUT})

    @property
    def adjacency(self) -> Adjacency:
        """The relation quoted: add-or-remove-one wherever it is proved."""
        if Adjacency.ADD_OR_REMOVE_ONE in self.adjacencies:
            return Adjacency.ADD_OR_REMOVE_ONE
        return Adjacency.REPLACE_ONE

    @property
    def accounted_noise_multiplier(self) -> float:
        """The multiplier of the dominating pair; see the table of this module."""
        halved = self.sampler is Sampler.FIXED_SIZE or (
            self.sampler is Sampler.POISSON_USERS and self.users_per_virtual_client > 1
        )
        z = self.noise_multiplier / 2 if halved else self.noise_multiplier
        return z / correlated.sensitivity(self)

    @property
    def accounted_sampling_probability(self) -> float:
        """The probability in the dominating pair: 1 where nothing is amplified.

        With bands, a round draws from one of as many groups, all the likelier.
        """
        if self.sampler in EVERY_ROUND_OR_EPOCH:
            return 1.0
        return min(1.0, self.sampling_probability * len(self.bands or (1.0,)))

    @property
    def period(self) -> int:
        """Rounds that can only be paid for together; 1 for independent rounds.

        An epoch, shuffled or cyclic, has floor(N / m) rounds, an allocation period t,
        amplified bands as many as there are bands. The cost of such mechanisms is a
        property of the period, not of one round.
        """
        if self.rounds_per_period is not None:
            return self.rounds_per_period
        if self.bands is not None:
            return len(self.bands)
        if self.sampler in (Sampler.SHUFFLED, Sampler.CYCLIC):
            return rounds_per_epoch(self.population, self.users_per_round)
        return 1

    def periods(self, rounds: int) -> int:
        """Periods that `rounds` rounds touch; a period begun is paid in full."""
        return -(-rounds // self.period)

    def with_noise_multiplier(self, noise_multiplier: float) -> "SampledGaussian":
        """The same mechanism with another noise multiplier."""
        return replace(self, noise_multiplier=noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """The public numbers, JSON-ready, with the version of their schema."""
        record = {k: v for k, v in asdict(self).items() if v is not None}
        # A cohort of 256 and of 256.0 users is the same mechanism.
        for name in ("users_per_round", "noise_multiplier"):
            record[name] = float(record[name])
        record["sampler"], record["unit"] = self.sampler.value, self.unit.value
        record["noise"] = self.noise.value
        if self.noise is Noise.INDEPENDENT:
            del record["noise"]  # as before there was any other: digests stay the same
        if self.bands is not None:
            record["bands"] = list(self.bands)
        return {"schema": SCHEMA_VERSION, "kind": "sampled-gaussian", **record}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "SampledGaussian":
        """The mechanism written by `to_json`.

        Raises:
            ValueError: if it is no mechanism of a known schema version.
        """
        fields = dict(record)
        kind, schema = fields.pop("kind", None), fields.pop("schema", None)
        if (kind, schema) != ("sampled-gaussian", SCHEMA_VERSION):
            raise ValueError(
                f"kind={kind!r} of schema={schema!r} must be 'sampled-gaussian' of "
                f"schema {SCHEMA_VERSION}; a newer version may have written it."
            )
        return cls(**fields)

    def canonical(self) -> str:
        """Text that is equal exactly for equal mechanisms."""
        return json.dumps(self.to_json(), sort_keys=True)
