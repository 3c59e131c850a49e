"""Calibration of everything but the noise: rounds, cohort size, population.

Guarantee: what is returned, accounted again, stays within the target, and one step
further (one more round, one more user, one user less) would not, to the stated
tolerance.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from accounting import _validate, composition
from accounting.account import ACCOUNTANTS
from accounting.mechanism import SampledGaussian


def calibrate_rounds(
    mechanism: SampledGaussian,
    *,
    target_epsilon: float,
    delta: float,
    accountant: str = "pld",
    most: int = 10_000_000,
) -> int:
    """The most rounds of a mechanism within `target_epsilon`; 0 if not even one fits.

    Args:
        mechanism: one round.
        target_epsilon: positive, natural log.
        delta: in (0, 1).
        accountant: 'pld' or 'rdp'; the other answers where there is no bound.
        most: where to stop looking.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Upper bounds as `accounting.epsilon`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=10**5,
        ...                             users_per_round=100, noise_multiplier=1.0)
        >>> rounds = calibrate_rounds(one_round, target_epsilon=1.0, delta=1e-6)
        >>> 30_000 < rounds < 32_000
        True
    """
    cost = _cost(delta, accountant, target_epsilon)
    return _largest(lambda rounds: cost(mechanism, rounds), target_epsilon, most)


def calibrate_users_per_round(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    target_epsilon: float,
    delta: float,
    accountant: str = "pld",
) -> SampledGaussian:
    """The same mechanism with the largest cohort within `target_epsilon`.

    The cohort is a whole number of virtual clients.

    Args:
        mechanism: one round; its own cohort is ignored.
        rounds: number of rounds, at least 1.
        target_epsilon: positive, natural log.
        delta: in (0, 1).
        accountant: 'pld' or 'rdp'; the other answers where there is no bound.

    Raises:
        ValueError: if an argument is out of range, or no cohort is small enough.

    References:
        Upper bounds as `accounting.epsilon`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=10**5,
        ...                             users_per_round=1, noise_multiplier=1.0)
        >>> found = calibrate_users_per_round(one_round, rounds=100, target_epsilon=1.0,
        ...                                   delta=1e-6)
        >>> 1000 < found.users_per_round < 1100
        True
    """
    _validate.whole_at_least("rounds", rounds, 1)
    cost = _cost(delta, accountant, target_epsilon)
    u = mechanism.users_per_virtual_client

    def of(clients: int) -> SampledGaussian:
        return replace(mechanism, users_per_round=float(clients * u))

    most = mechanism.population // u
    clients = _largest(lambda n: cost(of(n), rounds), target_epsilon, most)
    if clients == 0:
        raise ValueError(
            f"target_epsilon={target_epsilon:g} must be reachable with one virtual "
            "client a round; use more noise, fewer rounds or a larger population."
        )
    return of(clients)


def calibrate_population(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    target_epsilon: float,
    delta: Callable[[int], float] | float,
    accountant: str = "pld",
    relative_tolerance: float = 1e-2,
) -> SampledGaussian:
    """The same mechanism on the smallest population within `target_epsilon`.

    Args:
        mechanism: one round; its own population is ignored.
        rounds: number of rounds, at least 1.
        target_epsilon: positive, natural log.
        delta: in (0, 1), or a function of the population such as
            `accounting.default_delta`.
        accountant: 'pld' or 'rdp'; the other answers where there is no bound.
        relative_tolerance: of the population.

    Raises:
        ValueError: if an argument is out of range, or 10^12 users are not enough.

    References:
        Upper bounds as `accounting.epsilon`.

    Example:
        >>> from accounting.account import default_delta
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=2048, users_per_round=2048, noise_multiplier=0.7)
        >>> found = calibrate_population(one_round, rounds=100, target_epsilon=2.0,
        ...                              delta=default_delta)
        >>> 450_000 < found.population < 550_000
        True
    """
    _validate.whole_at_least("rounds", rounds, 1)
    _validate.open_probability("relative_tolerance", relative_tolerance)

    def of(population: int) -> SampledGaussian:
        return replace(mechanism, population=population)

    def fits(population: int) -> bool:
        there = delta(population) if callable(delta) else delta
        cost = _cost(there, accountant, target_epsilon)
        return cost(of(population), rounds) <= target_epsilon

    low, high = math.ceil(mechanism.users_per_round), 0
    size = max(2, low)
    while not fits(size):
        low, size = size, size * 4
        if size > 10**12:
            raise ValueError(
                f"target_epsilon={target_epsilon:g} must be reachable with 10^12 "
                "users; use more noise or fewer rounds."
            )
    high = size
    while high - low > max(1, relative_tolerance * low):
        middle = math.isqrt(low * high)
        middle = min(max(middle, low + 1), high - 1)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return of(high)


def _cost(
    delta: float, accountant: str, target: float
) -> Callable[[SampledGaussian, int], float]:
    """Epsilon by the accountant that answers, after checking the arguments."""
    _validate.open_probability("delta", delta)
    _validate.positive("target_epsilon", target)
    _validate.one_of("accountant", accountant, ACCOUNTANTS)

    def cost(candidate: SampledGaussian, rounds: int) -> float:
        return composition.quick_epsilon(candidate, rounds, delta, accountant)

    return cost


def _largest(cost: Callable[[int], float], target: float, most: int) -> int:
    """The largest n in [0, most] with cost(n) <= target; cost grows with n.

    Interpolates on logarithms, where cost is nearly straight in n.
    """
    low, high = 0, 1
    cost_low, cost_high = 0.0, cost(1)
    while cost_high <= target:
        if high == most:
            return most
        low, cost_low = high, cost_high
        # Like the square root of n for many rounds, like n for a growing cohort.
        growth = (target / cost_low) ** 1.5 if cost_low > 0 else 16.0
        high = min(most, max(low + 1, int(low * min(16.0, growth))))
        cost_high = cost(high)
    while high - low > 1:
        guess = math.isqrt(low * high) if low else high // 2
        if cost_low > 0 and math.isfinite(cost_high) and cost_high > cost_low:
            slope = math.log(cost_high / cost_low) / math.log(high / low)
            guess = int(low * math.pow(target / cost_low, 1 / slope))
        # Both ends must move, or one-sided guesses would creep.
        margin = (high - low) // 50
        guess = min(max(guess, low + 1 + margin), high - 1 - margin)
        value = cost(guess)
        if value <= target:
            low, cost_low = guess, value
        else:
            high, cost_high = guess, value
    return low
