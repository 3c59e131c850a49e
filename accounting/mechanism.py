"""What one round of training is, as much as an accountant must know."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from accounting import _validate
from accounting.vocabulary import Adjacency, DominatingPair, PrivacyUnit, Sampler

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """One round: a sampler, per-virtual-client clipping to C, Gaussian noise.

    A virtual client is u users whose update is clipped as one vector. Which pair of
    distributions dominates a round depends on what is sampled and on u:

    - Poisson over virtual clients, u = 1: an absent user contributes zero, so a round is
      the Poisson-sampled Gaussian under add-or-remove (Abadi et al. 2016; Mironov et al.
      2019, arXiv:1908.10530).
    - Poisson over virtual clients, u > 1: a user's presence turns one vector of norm at
      most C into another, in a virtual client that is drawn either way. Given all else,
      the round is (1-q) N(x) + q N(x+d) against (1-q) N(x) + q N(x+d'), |d|, |d'| <= C,
      which the antipodal pair dominates (REPLACE_ONE of dp-accounting's PLD for the
      Poisson-sampled Gaussian). Valid for add-or-remove, zero-out and replace-one.
    - Poisson over users, u > 1: the user's slot is trained without her when she is not
      drawn, so her effect is a vector of norm up to 2C with probability q, and nothing
      otherwise: the add-or-remove pair with multiplier z / 2.
    - fixed size without replacement: replace-one with distance 2C.
    - full participation: q = 1, distance C (u = 1, add-or-remove) or 2C (u > 1).

    Attributes:
        sampler: how users are chosen.
        population: N, number of users (seats) sampled from.
        users_per_round: expected (Poisson) or exact number of users in a round.
        noise_multiplier: z; the noise on the sum has standard deviation z * C. 0 means
            no privacy: epsilon is infinite.
        users_per_virtual_client: u.
        unit: whose presence is protected.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> m = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS, population=1000,
        ...     users_per_round=100, noise_multiplier=1.0, users_per_virtual_client=4)
        >>> m.sampling_probability, m.dominating_pair.value
        (0.1, 'replace_one')
        >>> SampledGaussian.from_json(m.to_json()) == m
        True
    """

    sampler: Sampler
    population: int
    users_per_round: float
    noise_multiplier: float
    users_per_virtual_client: int = 1
    unit: PrivacyUnit = PrivacyUnit.USER

    def __post_init__(self) -> None:
        _validate.at_least("population", self.population, 1)
        _validate.non_negative("noise_multiplier", self.noise_multiplier)
        _validate.at_least("users_per_virtual_client", self.users_per_virtual_client, 1)
        if not 0 < self.users_per_round <= self.population:
            raise ValueError(
                f"users_per_round={self.users_per_round:g} must be positive and at most "
                f"the population of {self.population}."
            )
        if self.users_per_virtual_client > self.users_per_round:
            raise ValueError(
                f"users_per_virtual_client={self.users_per_virtual_client} must be at "
                f"most users_per_round={self.users_per_round:g}."
            )
        full = self.sampler is Sampler.FULL_PARTICIPATION
        if full and self.users_per_round != self.population:
            raise ValueError(
                f"users_per_round={self.users_per_round:g} must equal the population of "
                f"{self.population} under full participation."
            )

    @property
    def sampling_probability(self) -> float:
        """q, the share of users in a round."""
        return self.users_per_round / self.population

    @property
    def expected_virtual_clients(self) -> float:
        """m, the public divisor of a round's mean."""
        return self.users_per_round / self.users_per_virtual_client

    @property
    def sampling_unit(self) -> str:
        """What is drawn as a whole: `user` or `virtual_client`."""
        by_client = self.sampler in (
            Sampler.POISSON_VIRTUAL_CLIENTS,
            Sampler.FULL_PARTICIPATION,
        )
        return "virtual_client" if by_client and self._grouped else "user"

    @property
    def dominating_pair(self) -> DominatingPair:
        """The pair that bounds one round."""
        if self.sampler is Sampler.FIXED_SIZE:
            return DominatingPair.REPLACE_ONE
        if self.sampling_unit == "virtual_client":
            return DominatingPair.REPLACE_ONE
        return DominatingPair.ADD_OR_REMOVE

    @property
    def adjacency(self) -> Adjacency:
        """The adjacency under which epsilon is claimed."""
        if self.sampler is Sampler.FIXED_SIZE:
            return Adjacency.REPLACE_ONE
        return Adjacency.ADD_OR_REMOVE_ONE

    @property
    def add_or_remove_multiplier(self) -> float:
        """Noise relative to the largest change, for the add-or-remove pair."""
        halved = self.sampler is Sampler.POISSON_USERS and self._grouped
        return self.noise_multiplier / 2 if halved else self.noise_multiplier

    @property
    def _grouped(self) -> bool:
        return self.users_per_virtual_client > 1

    def with_noise_multiplier(self, noise_multiplier: float) -> "SampledGaussian":
        """The same round with other noise."""
        return replace(self, noise_multiplier=noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Public numbers, with the version of their schema."""
        return {"schema": _SCHEMA, "kind": "sampled-gaussian", **asdict(self)}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "SampledGaussian":
        """The inverse of `to_json`.

        Raises:
            ValueError: if the schema is of another version or kind.
        """
        own = dict(content)
        schema, kind = own.pop("schema", None), own.pop("kind", None)
        if (schema, kind) != (_SCHEMA, "sampled-gaussian"):
            raise ValueError(
                f"schema={schema} of kind={kind!r} is not readable; this version reads "
                f"schema {_SCHEMA} of kind 'sampled-gaussian'."
            )
        own["sampler"] = Sampler(own["sampler"])
        own["unit"] = PrivacyUnit(own["unit"])
        return SampledGaussian(**own)

    def digest(self) -> str:
        """A canonical text that is equal exactly for equal mechanisms."""
        return json.dumps(self.to_json(), sort_keys=True)
