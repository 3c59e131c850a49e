"""Audits against everything a claim says, not only its epsilon at one delta.

An accountant promises a whole trade-off curve: no attack with this false positive rate
misses fewer members. Comparing an attack with that curve needs far fewer runs than
comparing it with (epsilon, delta) alone, whose worst case lies in a tail of mass delta
that no feasible number of runs reaches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accounting import _validate
from accounting.account import epsilon as epsilon_report
from accounting.answers import trade_off
from accounting.mechanism import SampledGaussian

Floats = NDArray[np.float64]

_GRID = tuple(float(x) for x in np.geomspace(1e-4, 0.9, 40))
_LEAST_SCALE, _MOST_SCALE = 1 / 16, 64.0


@dataclass(frozen=True, kw_only=True)
class AttackCounts:
    """How often an attack with a fixed rule said "member".

    Attributes:
        caught: members it recognised.
        members: independent runs with the canary.
        false_alarms: outsiders it took for members.
        outsiders: independent runs without the canary.
    """

    caught: int
    members: int
    false_alarms: int
    outsiders: int

    def __str__(self) -> str:
        return (
            f"{self.caught} of {self.members} recognised, {self.false_alarms} of "
            f"{self.outsiders} mistaken"
        )

    def rates(self, confidence: float) -> tuple[float, float]:
        """A lower bound of the true and an upper bound of the false positive rate.

        Both hold together at the confidence (Clopper and Pearson, 1934).

        Example:
            >>> counts = AttackCounts(caught=90, members=100, false_alarms=5,
            ...                       outsiders=100)
            >>> [round(rate, 3) for rate in counts.rates(0.95)]
            [0.824, 0.113]
        """
        rates = _rates(
            np.array([self.caught]),
            self.members,
            np.array([self.false_alarms]),
            self.outsiders,
            confidence,
        )
        return float(rates[0][0]), float(rates[1][0])

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """Epsilon that any mechanism behind these counts exceeds; 0 if none is shown.

        References:
            Kairouz, Oh and Viswanath (2015), arXiv:1311.0776: every test has
            TPR <= e^eps FPR + delta, and so has its complement.
        """
        caught, false = self.rates(confidence)
        best = 0.0
        for gain, cost in (
            (caught - delta, false),
            (1 - false - delta, 1 - caught),
        ):
            if gain > 0 and cost > 0:
                best = max(best, math.log(gain / cost))
        return best


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A decision fixed before the counting: "member" if sign * score >= threshold.

    Attributes:
        score: column of the scores.
        sign: 1, or -1 if members have the lower scores.
        threshold: of sign * score.
    """

    score: int
    sign: int
    threshold: float

    def count(self, members: Floats, outsiders: Floats) -> AttackCounts:
        """Apply the rule to fresh scores `[runs, S]`."""
        says = [
            self.sign * s[:, self.score] >= self.threshold for s in (members, outsiders)
        ]
        return AttackCounts(
            caught=int(says[0].sum()),
            members=len(members),
            false_alarms=int(says[1].sum()),
            outsiders=len(outsiders),
        )


def choose_rules(
    members: Floats,
    outsiders: Floats,
    claim: SampledGaussian,
    *,
    rounds: int,
    delta: float,
    confidence: float,
    fresh: int = 1,
) -> tuple[Rule, Rule]:
    """The rules that promise most: for (epsilon, delta), and for the whole curve.

    Args:
        members: scores `[runs, S]` with the canary, of runs that are used for nothing
            else, so that the choice costs no confidence.
        outsiders: scores `[runs, S]` without it.
        claim: one round, as it was accounted.
        rounds: of a run.
        delta: of the claim.
        confidence: that the counting will use.
        fresh: how many times as many runs will be counted.

    Raises:
        ValueError: if there are no runs on a side.
    """
    from scipy.special import ndtri

    if not len(members) or not len(outsiders):
        raise ValueError("rules are chosen from one run or more on either side.")
    curve = trade_off(claim, rounds=rounds, false_positive_rates=_GRID)
    claimed = ndtri([1 - y for _, y in curve]) - ndtri(_GRID)
    best = [(-math.inf, Rule(score=0, sign=1, threshold=0.0))] * 2
    for score in range(members.shape[1]):
        for sign in (1, -1):
            a, b = sign * members[:, score], sign * outsiders[:, score]
            values = np.unique(np.concatenate([a, b]))
            values = values[:: max(1, len(values) // 200)]
            caught = (a[:, None] >= values).sum(axis=0)
            false = (b[:, None] >= values).sum(axis=0)
            high, low = _rates(
                fresh * caught,
                fresh * len(a),
                fresh * false,
                fresh * len(b),
                confidence,
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log(np.maximum(high - delta, 0) / low)
                other = np.log(np.maximum(1 - low - delta, 0) / (1 - high))
                reached = ndtri(high) - ndtri(low)
            excess = reached - np.interp(low, _GRID, claimed)
            for i, merit in enumerate((np.fmax(ratio, other), excess)):
                merit = np.where(np.isfinite(merit), merit, -math.inf)
                at = int(np.argmax(merit))
                if merit[at] > best[i][0]:
                    rule = Rule(score=score, sign=sign, threshold=float(values[at]))
                    best[i] = (float(merit[at]), rule)
    return best[0][1], best[1][1]


def profile_epsilon(
    counts: AttackCounts,
    claim: SampledGaussian,
    *,
    rounds: int,
    delta: float,
    confidence: float,
) -> float:
    """Every claim of this mechanism below the returned epsilon is refuted.

    The trade-off curve of the claimed mechanism is compared with the attack at ever
    larger noise multipliers; the smallest that is refuted gives epsilon. That it
    exceeds the claimed epsilon means that the claimed curve itself is refuted, which
    assumes nothing about the mechanism that really ran. Read as a bound of the *true*
    epsilon, it assumes a mechanism of the claimed family, with another noise.

    Args:
        counts: of a rule chosen on other runs.
        claim: one round, as it was accounted.
        rounds: of a run.
        delta: where epsilon is stated.
        confidence: in (0, 1).

    References:
        Nasr et al. (2023), "Tight auditing of differentially private machine
        learning", arXiv:2302.07956, section 4 (bounds by f-DP instead of
        (epsilon, delta)); Dong, Roth and Su (2019), arXiv:1905.02383.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> everybody = SampledGaussian(sampler=Sampler.FULL_PARTICIPATION,
        ...     population=100, users_per_round=100, noise_multiplier=1.0)
        >>> counts = AttackCounts(caught=690, members=1000, false_alarms=310,
        ...                       outsiders=1000)
        >>> bound = profile_epsilon(counts, everybody, rounds=1, delta=1e-5,
        ...                         confidence=0.95)
        >>> claimed = epsilon_report(everybody, rounds=1, delta=1e-5).epsilon
        >>> bool(0.8 * claimed < bound < claimed)
        True
    """
    _validate.open_probability("confidence", confidence)
    caught, false = counts.rates(confidence)
    if caught <= false:
        return 0.0

    def refuted(scale: float) -> bool:
        mechanism = claim.with_noise_multiplier(claim.noise_multiplier * scale)
        return 1 - caught < least_misses(mechanism, rounds, false)

    return _epsilon_at(claim, _smallest(refuted), rounds, delta)


def noise_epsilon(
    sum_of_squares: float,
    count: int,
    claim: SampledGaussian,
    *,
    rounds: int,
    delta: float,
    confidence: float,
) -> float:
    """Epsilon of the claimed mechanism with as much noise as was observed, at most.

    Where no user contributes, a release is the noise alone: N(0, 1) in units of the
    claimed scale. The chi-squared bound on its scale holds at the confidence if the
    noise is Gaussian and independent, as is claimed.

    Args:
        sum_of_squares: of noise alone, in units of the claimed standard deviation.
        count: how many values.
        claim: one round, as it was accounted.
        rounds: of a run.
        delta: where epsilon is stated.
        confidence: in (0, 1).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> everybody = SampledGaussian(sampler=Sampler.FULL_PARTICIPATION,
        ...     population=100, users_per_round=100, noise_multiplier=1.0)
        >>> claimed = epsilon_report(everybody, rounds=1, delta=1e-5).epsilon
        >>> half = noise_epsilon(250.0, 1000, everybody, rounds=1, delta=1e-5,
        ...                      confidence=0.99)
        >>> bool(half > 1.8 * claimed)
        True
    """
    from scipy.special import chdtri

    _validate.whole_at_least("count", count, 1)
    _validate.open_probability("confidence", confidence)
    # chdtri inverts the upper tail: the quantile of mass 1 - confidence below it.
    scale = math.sqrt(sum_of_squares / float(chdtri(count, confidence)))
    scale = min(max(scale, _LEAST_SCALE), _MOST_SCALE)
    return _epsilon_at(claim, scale, rounds, delta)


@lru_cache(maxsize=256)
def least_misses(mechanism: SampledGaussian, rounds: int, false_rate: float) -> float:
    """The least false negative rate at a false positive rate; see `trade_off`."""
    curve = trade_off(mechanism, rounds=rounds, false_positive_rates=[false_rate])
    return curve[0][1]


def _rates(
    caught: NDArray[np.int64],
    members: int,
    false: NDArray[np.int64],
    outsiders: int,
    confidence: float,
) -> tuple[Floats, Floats]:
    """Clopper-Pearson ends of two rates; each errs with half of what is left."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = betaincinv(np.maximum(caught, 1), members - caught + 1, tail)
        high = betaincinv(false + 1, np.maximum(outsiders - false, 1), 1 - tail)
    return (
        np.where(caught == 0, 0.0, low),
        np.where(false == outsiders, 1.0, high),
    )


def _smallest(refuted: Callable[[float], bool]) -> float | None:
    """The smallest refuted scale of the noise, or None; more noise promises more."""
    low, high = _LEAST_SCALE, _MOST_SCALE
    if not refuted(high):
        return None
    if refuted(low):
        return low
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def _epsilon_at(
    claim: SampledGaussian, scale: float | None, rounds: int, delta: float
) -> float:
    if scale is None:
        return 0.0
    mechanism = claim.with_noise_multiplier(claim.noise_multiplier * scale)
    return epsilon_report(mechanism, rounds=rounds, delta=delta).epsilon
