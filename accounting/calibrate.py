"""Noise from a target epsilon, never on the unsafe side."""

import math
from collections.abc import Callable

from accounting import _validate
from accounting import pld as _pld
from accounting import rdp as _rdp
from accounting.epsilon import check_accountant
from accounting.mechanism import SampledGaussian
from accounting.vocabulary import UnsupportedMechanism

_STEPS = 60


def calibrate_noise_multiplier(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    target_epsilon: float,
    delta: float,
    accountant: str = "pld",
    relative_tolerance: float = 2e-3,
) -> SampledGaussian:
    """The mechanism with the least noise whose epsilon is at most the target.

    Guarantee: `epsilon(result) <= target_epsilon`, and at least
    `(1 - relative_tolerance) * target_epsilon` unless no noise at all is needed.

    Args:
        mechanism: one round; its noise is replaced.
        rounds: how many.
        target_epsilon: positive.
        delta: between 0 and 1.
        accountant: `pld` or `rdp`.
        relative_tolerance: how far below the target epsilon may stay.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedMechanism: if the accountant has no proof for the mechanism.

    Example:
        >>> from accounting.vocabulary import Sampler
        >>> m = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=10**6, users_per_round=2048, noise_multiplier=1.0)
        >>> z = calibrate_noise_multiplier(m, rounds=100, target_epsilon=2.0,
        ...     delta=1e6**-1.1).noise_multiplier
        >>> round(z, 2)
        0.65
    """
    check_accountant(accountant)
    _validate.at_least("rounds", rounds, 1)
    _validate.positive("target_epsilon", target_epsilon)
    _validate.delta(delta)
    if accountant == "pld" and not _pld.supports(mechanism):
        raise UnsupportedMechanism(
            f"sampler={mechanism.sampler.value} has no privacy loss distribution with a "
            "proof; use accountant rdp."
        )

    def by_rdp(z: float) -> float:
        own = mechanism.with_noise_multiplier(z)
        return _rdp.epsilon_from_rdp(_rdp.rdp([(own, rounds)]), delta)

    def by_pld(z: float) -> float:
        own = mechanism.with_noise_multiplier(z)
        return _pld.epsilon_pld([(own, rounds)], delta)

    tolerance = relative_tolerance if accountant == "rdp" else 0.05
    start = _least_noise(by_rdp, target_epsilon, 1.0, tolerance)
    if accountant == "rdp":
        return mechanism.with_noise_multiplier(start)
    z = _least_noise(by_pld, target_epsilon, start, relative_tolerance)
    return mechanism.with_noise_multiplier(z)


def _least_noise(
    epsilon_of: Callable[[float], float], target: float, start: float, tolerance: float
) -> float:
    """The smallest z, to tolerance, with epsilon_of(z) <= target; epsilon falls in z.

    Regula falsi on (log z, log epsilon), nearly a straight line, aimed a little below
    the target, so that few evaluations are needed.
    """
    low, high = _bracket(epsilon_of, target, start)
    goal = math.log(target) + math.log1p(-tolerance / 2)
    for _ in range(_STEPS):
        if high[1] >= math.log1p(-tolerance) + math.log(target):
            return math.exp(high[0])
        slope = (high[1] - low[1]) / (high[0] - low[0])
        guess = high[0] + (goal - high[1]) / slope if math.isfinite(slope) else math.inf
        margin = 0.02 * (high[0] - low[0])
        if not low[0] + margin < guess < high[0] - margin:
            guess = (low[0] + high[0]) / 2 if not low[0] < guess < high[0] else guess
        value = _log(epsilon_of(math.exp(guess)))
        if value <= math.log(target):
            high = (guess, value)
        else:
            low = (guess, value)
    return math.exp(high[0])


def _bracket(
    epsilon_of: Callable[[float], float], target: float, start: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(log z, log epsilon) above and below the target."""
    goal, here = math.log(target), math.log(start)
    value = _log(epsilon_of(start))
    step = math.log(1.3) if value <= goal else math.log(2.0)
    for _ in range(_STEPS):
        other = here - step if value <= goal else here + step
        other_value = _log(epsilon_of(math.exp(other)))
        if (value <= goal) != (other_value <= goal):
            first, second = (other, other_value), (here, value)
            return (first, second) if value <= goal else (second, first)
        here, value, step = other, other_value, step * 1.5
    raise ValueError(
        f"target_epsilon={target} could not be bracketed; it may be too small for this "
        "delta, or too large to need noise."
    )


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
