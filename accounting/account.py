"""From a mechanism and a number of rounds to epsilon, and back to delta.

Two accountants: privacy loss distributions ("pld", the default, tight) and Renyi
divergences ("rdp", looser, always printed beside it). Both are upper bounds.
"""

import math
from dataclasses import dataclass
from typing import Any

from accounting import _validate, composition, pld
from accounting.mechanism import Adjacency, SampledGaussian
from accounting.renyi import delta_from_rdp

ACCOUNTANTS = ("pld", "rdp")
"""Names of the accountants."""


@dataclass(frozen=True, kw_only=True)
class EpsilonReport:
    """What a number of rounds costs.

    Guarantee: `epsilon` is an upper bound for the mechanism at `delta`, for the
    neighbouring relation `mechanism.adjacency`.

    Attributes:
        epsilon: the bound of the accountant; infinite without noise. Natural log.
        epsilon_rdp: the bound by Renyi divergences; None where none is proved.
        epsilon_pld: the bound by privacy loss distributions; None where none is proved.
        delta: of (epsilon, delta).
        accountant: the one that gave `epsilon`: 'pld' or 'rdp'.
        rounds: how many rounds.
        mechanism: one round.
        note: why the accountant is not the one asked for; empty otherwise.
    """

    epsilon: float
    epsilon_rdp: float | None
    epsilon_pld: float | None
    delta: float
    accountant: str
    rounds: int
    mechanism: SampledGaussian
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. An infinite epsilon is null, with "epsilon_text": "infinite"."""
        m = self.mechanism
        record: dict[str, Any] = {
            "epsilon": _finite(self.epsilon),
            "epsilon_rdp": _finite(self.epsilon_rdp),
            "epsilon_pld": _finite(self.epsilon_pld),
            "delta": self.delta,
            "accountant": self.accountant,
            "sampler": m.sampler.value,
            "sampling_probability": m.sampling_probability,
            "noise": m.noise.value,
            "rounds": self.rounds,
            "noise_multiplier": m.noise_multiplier,
            "users_per_virtual_client": m.users_per_virtual_client,
            "sampling_unit": m.sampling_unit,
            "dominating_pair": m.dominating_pair.value,
            "adjacency": m.adjacency.value,
        }
        if math.isinf(self.epsilon):
            record["epsilon_text"] = "infinite"
        if self.note:
            record["note"] = self.note
        return record


def default_delta(population: int) -> float:
    """The customary delta, population ** -1.1.

    Args:
        population: N [users], at least 2.

    Raises:
        ValueError: if there are fewer than two users.

    Example:
        >>> f"{default_delta(1_000_000):.3g}"
        '2.51e-07'
    """
    _validate.whole_at_least("population", population, 2, "Choose delta yourself.")
    return math.pow(population, -1.1)


def epsilon(
    mechanism: SampledGaussian, *, rounds: int, delta: float, accountant: str = "pld"
) -> EpsilonReport:
    """What `rounds` rounds of a mechanism cost at `delta`.

    Guarantee: an upper bound. If the accountant asked for has no proved bound for the
    sampler, the other one answers and the report says so in `accountant` and `note`.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 0.
        delta: in (0, 1); below 1e-12 only 'rdp' answers.
        accountant: 'pld' or 'rdp'.

    Returns:
        The bound of the accountant, and of both where both exist.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Doroshenko et al. (2022), arXiv:2207.04380 (privacy loss distributions).
        Mironov, Talwar and Zhang (2019), arXiv:1908.10530 (Renyi divergences).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=6800, users_per_round=256, noise_multiplier=0.62,
        ...     users_per_virtual_client=8)
        >>> report = epsilon(one_round, rounds=200, delta=default_delta(6800))
        >>> round(report.epsilon, 1), report.accountant
        (11.7, 'pld')
    """
    _validate.whole_at_least("rounds", rounds, 0)
    _validate.open_probability("delta", delta)
    _validate.one_of("accountant", accountant, ACCOUNTANTS)
    spends = ((mechanism, int(rounds)),)
    by_rdp, by_pld, used, note = bounds(spends, delta, accountant)
    chosen = by_pld if used == "pld" else by_rdp
    return EpsilonReport(
        epsilon=math.inf if chosen is None else chosen,
        epsilon_rdp=by_rdp,
        epsilon_pld=by_pld,
        delta=delta,
        accountant=used,
        rounds=int(rounds),
        mechanism=mechanism,
        note=note,
    )


def bounds(
    spends: tuple[composition.Spend, ...], delta: float, accountant: str
) -> tuple[float | None, float | None, str, str]:
    """Epsilon by (rdp, pld), the accountant that counts, and why if it was changed."""
    rdp_possible = composition.rdp_supports(spends)
    pld_possible = composition.pld_supports(spends) and delta >= pld.SMALLEST_DELTA
    by_rdp = composition.rdp_epsilon(spends, delta) if rdp_possible else None
    by_pld = composition.pld_epsilon(spends, delta) if pld_possible else None
    if accountant == "pld" and not pld_possible and rdp_possible:
        why = (
            f"delta={delta:g} is below what its convolutions resolve"
            if composition.pld_supports(spends)
            else "no privacy loss distribution is proved for this sampler"
        )
        return by_rdp, by_pld, "rdp", f"accountant rdp answers for pld: {why}"
    if accountant == "rdp" and not rdp_possible and pld_possible:
        why = "no Renyi bound is proved for this sampler"
        return by_rdp, by_pld, "pld", f"accountant pld answers for rdp: {why}"
    return by_rdp, by_pld, accountant, ""


def delta_for_epsilon(
    mechanism: SampledGaussian, *, rounds: int, epsilon: float, accountant: str = "pld"
) -> float:
    """The smallest delta proved for `rounds` rounds at `epsilon`.

    Guarantee: an upper bound; the other accountant answers where the one asked for has
    no bound, as in `epsilon`.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 0.
        epsilon: at least 0, natural log.
        accountant: 'pld' or 'rdp'.

    Raises:
        ValueError: if an argument is out of range.

    References:
        As `accounting.epsilon`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=1000,
        ...                             users_per_round=10, noise_multiplier=1.0)
        >>> bool(delta_for_epsilon(one_round, rounds=100, epsilon=1.0) < 1e-4)
        True
    """
    _validate.whole_at_least("rounds", rounds, 0)
    _validate.finite_at_least("epsilon", epsilon, 0)
    _validate.one_of("accountant", accountant, ACCOUNTANTS)
    spends = ((mechanism, int(rounds)),)
    if composition.non_private(spends):
        return 1.0
    if rounds == 0:
        return 0.0
    by_pld = composition.pld_supports(spends)
    if accountant == "rdp" and composition.rdp_supports(spends):
        by_pld = False
    if not by_pld:
        return delta_from_rdp(composition.total_rdp(spends), epsilon)
    return float(composition.total_pld(spends).get_delta_for_epsilon(epsilon))


def adjacency_of(spends: tuple[composition.Spend, ...]) -> Adjacency:
    """The relation to quote for several spends: add-or-remove-one where proved."""
    common = composition.common_adjacencies(spends)
    for candidate in (Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE):
        if candidate in common:
            return candidate
    return Adjacency.ZERO_OUT


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
