"""Epsilon of a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accounting import _validate
from accounting import pld as _pld
from accounting import rdp as _rdp
from accounting.mechanism import SampledGaussian
from accounting.vocabulary import UnsupportedMechanism


@dataclass(frozen=True, kw_only=True)
class EpsilonReport:
    """Upper bounds of epsilon for rounds of one mechanism.

    Attributes:
        epsilon: the bound of the chosen accountant; infinite without noise.
        epsilon_rdp: by Renyi divergences.
        epsilon_pld: by privacy loss distributions; None where no proof is known.
        delta: of (epsilon, delta).
        accountant: which of the two `epsilon` is.
        rounds: number of rounds.
        mechanism: one round.
    """

    epsilon: float
    epsilon_rdp: float
    epsilon_pld: float | None
    delta: float
    accountant: str
    rounds: int
    mechanism: SampledGaussian

    def to_dict(self) -> dict[str, Any]:
        """The public keys; an infinite epsilon is null, as JSON has no infinity."""
        m = self.mechanism
        return {
            "epsilon": _finite(self.epsilon),
            "epsilon_rdp": _finite(self.epsilon_rdp),
            "epsilon_pld": _finite(self.epsilon_pld),
            "delta": self.delta,
            "accountant": self.accountant,
            "sampler": m.sampler.value,
            "population": m.population,
            "users_per_round": m.users_per_round,
            "sampling_probability": m.sampling_probability,
            "rounds": self.rounds,
            "noise_multiplier": m.noise_multiplier,
            "users_per_virtual_client": m.users_per_virtual_client,
            "sampling_unit": m.sampling_unit,
            "dominating_pair": m.dominating_pair.value,
            "adjacency": m.adjacency.value,
            "unit": m.unit.value,
        }


def epsilon(
    mechanism: SampledGaussian, *, rounds: int, delta: float, accountant: str = "pld"
) -> EpsilonReport:
    """Epsilon of `rounds` rounds at `delta`, by PLD and by RDP, both upper bounds.

    Args:
        mechanism: one round.
        rounds: how many, at least 0.
        delta: between 0 and 1.
        accountant: `pld` (tight) or `rdp`.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedMechanism: if the chosen accountant has no proof for the mechanism.

    Example:
        >>> from accounting.vocabulary import Sampler
        >>> m = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS, population=6800,
        ...     users_per_round=256, noise_multiplier=2.48, users_per_virtual_client=8)
        >>> round(epsilon(m, rounds=200, delta=6800**-1.1).epsilon, 2)
        1.49
    """
    check_accountant(accountant)
    _validate.at_least("rounds", rounds, 0)
    _validate.delta(delta)
    by_rdp = _rdp.epsilon_from_rdp(_rdp.rdp([(mechanism, rounds)]), delta)
    by_pld = None
    if _pld.supports(mechanism):
        by_pld = _pld.epsilon_pld([(mechanism, rounds)], delta)
    elif accountant == "pld":
        raise UnsupportedMechanism(
            f"sampler={mechanism.sampler.value} has no privacy loss distribution with a "
            "proof; use accountant rdp, or the sampler poisson-virtual-clients."
        )
    chosen = by_rdp if accountant == "rdp" or by_pld is None else by_pld
    return EpsilonReport(
        epsilon=chosen,
        epsilon_rdp=by_rdp,
        epsilon_pld=by_pld,
        delta=delta,
        accountant=accountant,
        rounds=rounds,
        mechanism=mechanism,
    )


def composed_epsilon(
    rounds: Sequence[tuple[SampledGaussian, int]], delta: float, accountant: str = "pld"
) -> float:
    """Epsilon of a heterogeneous composition, such as the stages of a run.

    All mechanisms must be claimed under the same adjacency and unit.

    Raises:
        UnsupportedMechanism: if adjacencies or units differ, or a proof is missing.
    """
    check_accountant(accountant)
    _validate.delta(delta)
    claims = {(m.adjacency.value, m.unit.value) for m, _ in rounds}
    if len(claims) > 1:
        raise UnsupportedMechanism(
            f"mechanisms under {sorted(claims)} do not compose: guarantees add up only "
            "for one adjacency and one unit."
        )
    if accountant == "pld":
        return _pld.epsilon_pld(rounds, delta)
    return _rdp.epsilon_from_rdp(_rdp.rdp(rounds), delta)


def default_delta(population: int) -> float:
    """population ** -1.1, customary in this line of work.

    Example:
        >>> f"{default_delta(1_000_000):.2e}"
        '2.51e-07'
    """
    _validate.at_least("population", population, 2)
    return float(population**-1.1)


def check_accountant(name: str) -> None:
    """Raise ValueError unless `name` is an accountant."""
    if name not in ("pld", "rdp"):
        raise ValueError(f"accountant={name!r} must be pld or rdp.")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
