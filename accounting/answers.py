"""More than one number: curves, zero-concentrated and Gaussian privacy, trade-offs.

Every function takes one round and a number of rounds, as `accounting.epsilon` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accounting import _validate, composition
from accounting.errors import UnsupportedMechanism
from accounting.mechanism import DominatingPair, SampledGaussian, Sampler
from accounting.renyi import ORDERS, epsilon_from_rdp

_DELTAS = tuple(float(10.0**-k) for k in range(3, 11))


@dataclass(frozen=True, kw_only=True)
class EpsilonInterval:
    """Certified bounds around the epsilon of the dominating pair; the gap is numerical.

    Attributes:
        lower: no accountant can prove less for this pair.
        upper: proved.
    """

    lower: float
    upper: float

    @property
    def gap(self) -> float:
        """What a finer grid could still gain."""
        return self.upper - self.lower


def epsilon_interval(
    mechanism: SampledGaussian, *, rounds: int, delta: float
) -> EpsilonInterval:
    """Lower and upper bounds of epsilon by privacy loss distributions.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 1.
        delta: in [1e-12, 1).

    Raises:
        UnsupportedMechanism: if the sampler has no privacy loss distribution, or only
            one that is itself an upper bound (truncated Poisson).
        ValueError: if an argument is out of range.

    References:
        Koskela, Jalko and Honkela (2020), arXiv:1906.03049; Doroshenko et al. (2022),
        arXiv:2207.04380 (grids that round the loss down, or up).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=1000,
        ...                             users_per_round=10, noise_multiplier=1.0)
        >>> bounds = epsilon_interval(one_round, rounds=100, delta=1e-5)
        >>> bool(0 <= bounds.gap < 0.05 * bounds.upper)
        True
    """
    _validate.whole_at_least("rounds", rounds, 1)
    _validate.open_probability("delta", delta)
    spends = ((mechanism, rounds),)
    upper = composition.pld_epsilon(spends, delta)
    if math.isinf(upper):
        return EpsilonInterval(lower=math.inf, upper=math.inf)
    # Rounding down loses half a cell a round, so the lower bound needs a finer grid;
    # beyond some 10^4 rounds, memory is worth more than a narrow gap.
    fine = max(0.05 / math.sqrt(rounds), 4e-6 * math.sqrt(rounds))
    loss = composition.total_pld(spends, pessimistic=False, relative_width=fine)
    # A small allowance for the rounding of convolutions keeps it a lower bound.
    lower = float(loss.get_epsilon_for_delta(delta * (1 + 1e-6) + 1e-13))
    return EpsilonInterval(lower=min(lower, upper), upper=upper)


def epsilon_curve(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    deltas: Sequence[float] = _DELTAS,
    accountant: str = "pld",
) -> tuple[tuple[float, float], ...]:
    """(delta, epsilon) pairs, composed once.

    Guarantee: every epsilon is an upper bound at its delta; the other accountant
    answers where the one asked for has no bound.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 0.
        deltas: where to evaluate; each in (0, 1).
        accountant: 'pld' or 'rdp'.

    Raises:
        ValueError: if an argument is out of range.

    References:
        As `accounting.epsilon`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=1000,
        ...                             users_per_round=10, noise_multiplier=1.0)
        >>> curve = epsilon_curve(one_round, rounds=100, deltas=(1e-4, 1e-6))
        >>> curve[0][1] < curve[1][1]
        True
    """
    from accounting.account import ACCOUNTANTS
    from accounting.pld import SMALLEST_DELTA

    _validate.whole_at_least("rounds", rounds, 0)
    _validate.one_of("accountant", accountant, ACCOUNTANTS)
    for delta in deltas:
        _validate.open_probability("delta", delta)
    spends = ((mechanism, rounds),)
    if composition.non_private(spends):
        return tuple((delta, math.inf) for delta in deltas)
    if rounds == 0:
        return tuple((delta, 0.0) for delta in deltas)
    by_pld = composition.pld_supports(spends) and (
        accountant == "pld" or not composition.rdp_supports(spends)
    )
    loss = composition.total_pld(spends) if by_pld else None
    rdp = composition.total_rdp(spends) if composition.rdp_supports(spends) else None
    curve = []
    for delta in deltas:
        if loss is not None and (delta >= SMALLEST_DELTA or rdp is None):
            curve.append((delta, float(loss.get_epsilon_for_delta(delta))))
        elif rdp is not None:
            curve.append((delta, epsilon_from_rdp(rdp, delta)))
    return tuple(curve)


def zcdp(mechanism: SampledGaussian, *, rounds: int) -> float:
    """Rho of zero-concentrated differential privacy, where it is defined.

    Guarantee: exact for samplers without amplification. Poisson sampling has no finite
    rho that is useful (its Renyi divergences jump at a critical order), so it is
    refused rather than bounded by the unsampled value.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 0.

    Raises:
        UnsupportedMechanism: for samplers that amplify.

    References:
        Bun and Steinke (2016), "Concentrated differential privacy", arXiv:1605.02065,
        Proposition 1.6 (Gaussian) and Lemma 1.7 (composition).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> everybody = SampledGaussian(sampler=Sampler.FULL_PARTICIPATION,
        ...     population=100, users_per_round=100, noise_multiplier=10.0)
        >>> round(zcdp(everybody, rounds=50), 6)
        0.25
    """
    return gaussian_mu(mechanism, rounds=rounds) ** 2 / 2


def gaussian_mu(mechanism: SampledGaussian, *, rounds: int) -> float:
    """Mu of Gaussian differential privacy, where it is exact.

    Guarantee: the composition is exactly as private as one Gaussian of standard
    deviation 1 / mu and sensitivity 1.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 0.

    Raises:
        UnsupportedMechanism: for samplers that amplify, for which mu is only a limit.

    References:
        Dong, Roth and Su (2019), "Gaussian differential privacy", arXiv:1905.02383,
        Theorem 1 and Corollary 2.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> everybody = SampledGaussian(sampler=Sampler.FULL_PARTICIPATION,
        ...     population=100, users_per_round=100, noise_multiplier=10.0)
        >>> gaussian_mu(everybody, rounds=25)
        0.5
    """
    _validate.whole_at_least("rounds", rounds, 0)
    if mechanism.accounted_sampling_probability < 1:
        raise UnsupportedMechanism(
            f"sampler={mechanism.sampler.value!r} with sampling_probability="
            f"{mechanism.sampling_probability:g} has no exact mu or rho; use epsilon, "
            "or a sampler without amplification."
        )
    if rounds and mechanism.noise_multiplier == 0:
        return math.inf
    distance = 2.0 if mechanism.dominating_pair is DominatingPair.REPLACE_ONE else 1.0
    if mechanism.sampler is Sampler.FIXED_SIZE:
        distance = 1.0  # its multiplier is already relative to 2 C
    steps = mechanism.periods(rounds)
    return distance * math.sqrt(steps) / (mechanism.accounted_noise_multiplier or 1.0)


def trade_off(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    false_positive_rates: Sequence[float] = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5),
) -> tuple[tuple[float, float], ...]:
    """(false positive rate, least false negative rate) of any membership attack.

    Guarantee: no test of "is this user in the data?" does better. Each value is the
    largest of many (epsilon, delta) constraints, every one of them proved.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 1.
        false_positive_rates: each in [0, 1].

    Raises:
        ValueError: if an argument is out of range.

    References:
        Wasserman and Zhou (2010), arXiv:0811.2501; Dong, Roth and Su (2019),
        arXiv:1905.02383, Proposition 2.12: (epsilon, delta) privacy is the line
        max(0, 1 - delta - e^epsilon x, e^-epsilon (1 - delta - x)).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> everybody = SampledGaussian(sampler=Sampler.FULL_PARTICIPATION,
        ...     population=100, users_per_round=100, noise_multiplier=1.0)
        >>> [(x, round(y, 2)) for x, y in trade_off(everybody, rounds=1,
        ...                                         false_positive_rates=[0.05])]
        [(0.05, 0.74)]
    """
    from accounting.renyi import delta_from_rdp

    for rate in false_positive_rates:
        _validate.probability("false_positive_rate", rate)
    spends = ((mechanism, rounds),)
    if composition.non_private(spends):
        return tuple((float(rate), 0.0) for rate in false_positive_rates)
    epsilons = np.concatenate([[0.0], np.geomspace(1e-3, 60, 400)])
    if composition.pld_supports(spends):
        loss = composition.total_pld(spends)
        deltas = [float(loss.get_delta_for_epsilon(float(e))) for e in epsilons]
    else:
        rdp = composition.total_rdp(spends)
        deltas = [delta_from_rdp(rdp, float(e)) for e in epsilons]
    delta = np.minimum(1.0, np.array(deltas))
    result = []
    for rate in false_positive_rates:
        first = 1 - delta - np.exp(epsilons) * rate
        second = np.exp(-epsilons) * (1 - delta - rate)
        best = float(np.max(np.maximum(first, second)))
        result.append((float(rate), max(0.0, best)))
    return tuple(result)


def best_order(mechanism: SampledGaussian, *, rounds: int, delta: float) -> float:
    """The Renyi order that proves the epsilon of `accountant='rdp'`; for diagnosis.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=1000,
        ...                             users_per_round=10, noise_multiplier=1.0)
        >>> bool(2 < best_order(one_round, rounds=100, delta=1e-5) < 40)
        True
    """
    rdp = composition.total_rdp(((mechanism, rounds),))
    bound = rdp + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return float(ORDERS[int(np.argmin(bound))])
