"""The other way round: how much noise reaches a target epsilon.

Guarantee of everything here: what is returned, accounted again, stays within the
target.
"""

import math
from collections.abc import Callable, Mapping

from accounting import _validate, composition
from accounting.account import ACCOUNTANTS, bounds
from accounting.mechanism import SampledGaussian

_LEAST_NOISE = 1e-2
_MOST_NOISE = 1e6
_MOST_STEPS = 60
_COARSE = 0.2


def calibrate_noise_multiplier(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    target_epsilon: float,
    delta: float,
    accountant: str = "pld",
    relative_tolerance: float = 1e-3,
) -> SampledGaussian:
    """The same mechanism with just enough noise for `target_epsilon`.

    Guarantee: `epsilon(result) <= target_epsilon`, and within `relative_tolerance` of
    it unless the least noise considered, z = 0.01, is already enough.

    Args:
        mechanism: one round; its own noise multiplier is ignored.
        rounds: number of rounds, at least 1.
        target_epsilon: positive, natural log.
        delta: in (0, 1).
        accountant: 'pld' or 'rdp'; the other answers as in `accounting.epsilon`.
        relative_tolerance: how far below the target epsilon may end, in (0, 1).

    Returns:
        The mechanism with its new noise multiplier.

    Raises:
        ValueError: if an argument is out of range, or no noise below 10^6 is enough.

    References:
        Upper bounds as `accounting.epsilon`; the search keeps the safe side of its
        bracket, so neither monotonicity nor smoothness is needed for the guarantee.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...                             population=10**6, users_per_round=2048,
        ...                             noise_multiplier=1.0)
        >>> calibrated = calibrate_noise_multiplier(
        ...     one_round, rounds=100, target_epsilon=2.0, delta=1e-6**1.1)
        >>> round(calibrated.noise_multiplier, 2)
        0.65
    """
    _validate.whole_at_least("rounds", rounds, 1)
    _validate.positive("target_epsilon", target_epsilon)
    _validate.open_probability("delta", delta)
    _validate.one_of("accountant", accountant, ACCOUNTANTS)
    _validate.open_probability("relative_tolerance", relative_tolerance)
    spends = ((mechanism.with_noise_multiplier(0.0), 1),)
    used = bounds(spends, delta, accountant)[2]

    def by(which: str, width: float | None = None) -> Callable[[float], float]:
        def cost(z: float) -> float:
            trial = ((mechanism.with_noise_multiplier(z), rounds),)
            if which == "rdp":
                return composition.rdp_epsilon(trial, delta)
            return composition.pld_epsilon(trial, delta, width)

        return cost

    start, slope = 1.0, None
    if used == "pld":
        # A coarse grid costs a fifth and is within a percent: start where it ends.
        coarse, tried = by("pld", _COARSE), dict[float, float]()
        start = least_noise(
            lambda z: tried.setdefault(z, coarse(z)), target_epsilon, 0.02, start
        )
        slope = _slope_near(target_epsilon, tried)
    return mechanism.with_noise_multiplier(
        least_noise(by(used), target_epsilon, relative_tolerance, start, slope)
    )


def least_noise(
    cost: Callable[[float], float],
    target: float,
    tolerance: float,
    start: float,
    slope: float | None = None,
) -> float:
    """The least z, to tolerance on the cost, with cost(z) <= target.

    Regula falsi in log z and log epsilon, where the curve is nearly straight, kept
    inside a bracket [too little noise, enough noise]. Before there is one, the `slope`
    of that curve near the start tells where to go, if it is known.

    Raises:
        ValueError: if 10^6 is not enough noise.
    """
    low, high, z = _LEAST_NOISE / 2, math.inf, start
    cost_low = cost_high = math.nan
    for _ in range(_MOST_STEPS):
        value = cost(z)
        if value <= target:
            high, cost_high = z, value
            if value >= target * (1 - tolerance) or z <= _LEAST_NOISE:
                return z
        else:
            low, cost_low = z, value
        if high / low < 1 + 1e-9:
            return high
        aim = target * (1 - tolerance / 2)
        if slope is not None and 0 < value < math.inf and _one_sided(low, high):
            z *= (aim / value) ** (1 / slope)
            slope = None  # once: what follows is a bracket, or a bad slope
        else:
            z = _next(low, high, cost_low, cost_high, aim)
        if z > _MOST_NOISE:
            raise ValueError(
                f"target_epsilon={target:g} must be reachable with a noise multiplier "
                f"below {_MOST_NOISE:g}; use fewer rounds, a larger population or a "
                "larger delta."
            )
    return high


def _one_sided(low: float, high: float) -> bool:
    return math.isinf(high) or low < _LEAST_NOISE


def _slope_near(target: float, tried: Mapping[float, float]) -> float | None:
    """That of the last piece of the curve, between costs around the target."""
    above = [(z, cost) for z, cost in tried.items() if cost > target]
    below = [(z, cost) for z, cost in tried.items() if cost <= target]
    if not above or not below:
        return None
    (low, cost_low), (high, cost_high) = max(above), min(below)
    return _slope(low, high, cost_low, cost_high)


def _slope(low: float, high: float, cost_low: float, cost_high: float) -> float | None:
    """Of log cost over log z between two points, if the cost falls there."""
    if not (0 < cost_high < cost_low < math.inf):
        return None
    return math.log(cost_low / cost_high) / math.log(low / high)


def _next(
    low: float, high: float, cost_low: float, cost_high: float, aim: float
) -> float:
    """The next noise multiplier to try."""
    if math.isinf(high):
        if math.isinf(cost_low):
            return 2 * low
        # Epsilon falls like 1/z^2 while it is large and like 1/z once it is small.
        ratio = cost_low / aim
        rise = ratio if cost_low < 1 else 1.1 * math.sqrt(ratio)
        return low * min(1e3, max(1.02, rise))
    if math.isnan(cost_low):
        fall = max(0.5, min(0.98, cost_high / aim)) if cost_high > 0 else 0.5
        return max(high * fall, _LEAST_NOISE)
    middle = math.sqrt(low * high)
    if not (cost_high > 0 and math.isfinite(cost_low)):
        return middle
    slope = _slope(low, high, cost_low, cost_high)
    if slope is None:
        return middle
    guess = high * math.exp(math.log(aim / cost_high) / slope)
    # Stay away from the ends: a guess on top of one would not shrink the bracket.
    margin = math.pow(high / low, 0.02)
    return min(max(guess, low * margin), high / margin)
