"""Empirical lower bounds of epsilon from attacks: what an implementation really leaks.

Pure statistics on numbers that an attack produced; no claim is made about the attack. A
lower bound above the claimed epsilon, at confidence 1 - alpha, shows a bug (or bad luck
with probability alpha); a low one shows nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accounting import _validate
from accounting.matrices import gaussian_epsilon

Floats = NDArray[np.float64]


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Exact two-sided confidence interval of a binomial probability.

    Args:
        successes: between 0 and `trials`.
        trials: at least 1.
        confidence: in (0, 1), of the interval; each end errs with half the rest.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Clopper and Pearson (1934), Biometrika 26(4).

    Example:
        >>> tuple(round(x, 4) for x in clopper_pearson(0, 20))
        (0.0, 0.1684)
    """
    from scipy.special import betaincinv

    _validate.whole_at_least("trials", trials, 1)
    _validate.open_probability("confidence", confidence)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes} must be in [0, {trials}].")
    tail, missing = (1 - confidence) / 2, trials - successes
    low = 0.0 if successes == 0 else betaincinv(successes, missing + 1, tail)
    high = 1.0 if missing == 0 else betaincinv(successes + 1, missing, 1 - tail)
    return float(low), float(high)


def epsilon_lower_bound(
    member_scores: Sequence[float],
    outsider_scores: Sequence[float],
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """Lower bound of epsilon from many runs (or independent canaries) with scores.

    Half of the scores choose the threshold, the other half measure its error rates, so
    that the confidence is honest.

    Args:
        member_scores: attack scores of members; larger means "member".
        outsider_scores: attack scores of non-members, independent of one another.
        delta: of the claim, in [0, 1).
        confidence: in (0, 1).

    Returns:
        epsilon that the mechanism exceeds with this confidence; 0 if nothing is shown.

    Raises:
        ValueError: if there are fewer than 4 scores on a side.

    References:
        Jagielski, Ullman and Oprea (2020), "Auditing differentially private machine
        learning", arXiv:2006.07709; Kairouz, Oh and Viswanath (2015), arXiv:1311.0776
        (any test has TPR <= e^eps FPR + delta, and likewise for the complements).

    Example:
        >>> epsilon_lower_bound([1.0] * 400, [0.0] * 400, delta=0.0) > 3
        True
    """
    _validate.probability("delta", delta)
    members = np.asarray(member_scores, dtype=float)
    outsiders = np.asarray(outsider_scores, dtype=float)
    for name, scores in (("member_scores", members), ("outsider_scores", outsiders)):
        if len(scores) < 4:
            raise ValueError(
                f"{name} has {len(scores)} values and must have 4 or more."
            )
    best, choice = -1.0, (0.0, 1)
    for sign in (1, -1):
        for threshold in np.unique(np.concatenate([members[::2], outsiders[::2]])):
            guess = (float(threshold), sign)
            value = _bound(members[::2], outsiders[::2], guess, delta, confidence)
            if value > best:
                best, choice = value, guess
    return _bound(members[1::2], outsiders[1::2], choice, delta, confidence)


@dataclass(frozen=True, kw_only=True)
class OneRunResult:
    """Outcome of a one-run audit.

    Attributes:
        epsilon: lower bound at the confidence asked for.
        correct: guesses that were right.
        guesses: that were made.
        canaries: that were randomised.
    """

    epsilon: float
    correct: int
    guesses: int
    canaries: int


def one_run_p_value(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Most probability that an (epsilon, delta) mechanism gives so many right guesses.

    Args:
        canaries: m, each in or out by an independent fair coin.
        guesses: r <= m that the attack made, abstaining on the others.
        correct: v <= r of them that were right.
        epsilon: hypothesis, at least 0.
        delta: hypothesis, in [0, 1].

    Raises:
        ValueError: if an argument is out of range.

    References:
        Steinke, Nasr and Jagielski (2023), "Privacy auditing with one (1) training
        run", arXiv:2305.08846, Theorem 5.2: the binomial tail with success probability
        e^eps / (1 + e^eps), plus 2 m delta max_i (P[v - i <= W < v]) / i.

    Example:
        >>> round(one_run_p_value(canaries=10, guesses=10, correct=10, epsilon=0.0,
        ...                       delta=0.0) * 1024, 6)
        1.0
    """
    _check_guesses(canaries, guesses, correct)
    _validate.finite_at_least("epsilon", epsilon, 0)
    _validate.probability("delta", delta)
    if correct == 0:
        return 1.0
    log_mass = _binomial_log_mass(guesses, 1 / (1 + math.exp(-epsilon)))
    mass = np.exp(log_mass)
    tail = float(mass[correct:].sum())
    # P[W in [v - i, v - 1]] for i = 1 .. v, each over i.
    below = np.cumsum(mass[:correct][::-1])
    worst = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * canaries * delta * worst)


def one_run_epsilon(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """Lower bound of epsilon from one run with many canaries.

    Args:
        canaries: m, each in or out by an independent fair coin.
        guesses: r <= m that the attack made.
        correct: v <= r of them that were right.
        delta: of the claim.
        confidence: in (0, 1).

    Returns:
        epsilon that the mechanism exceeds with this confidence; 0 if nothing is shown.

    Raises:
        ValueError: if an argument is out of range.

    References:
        As `one_run_p_value`.

    Example:
        >>> bound = one_run_epsilon(canaries=1000, guesses=100, correct=100, delta=1e-5)
        >>> 3 < bound < 4
        True
    """
    _check_guesses(canaries, guesses, correct)
    _validate.open_probability("confidence", confidence)

    def rejected(epsilon: float) -> bool:
        p_value = one_run_p_value(
            canaries=canaries,
            guesses=guesses,
            correct=correct,
            epsilon=epsilon,
            delta=delta,
        )
        return p_value < 1 - confidence

    if guesses == 0 or not rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < 64 and rejected(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def one_run_audit(
    scores: Sequence[float],
    included: Sequence[bool],
    *,
    guesses: int,
    delta: float,
    confidence: float = 0.95,
) -> OneRunResult:
    """Guess "in" for the highest scores, "out" for the lowest, and count.

    Args:
        scores: of every canary; larger means "in".
        included: what the coins said.
        guesses: how many to guess in all, half on either side; must be fixed before
            the scores are seen.
        delta: of the claim.
        confidence: in (0, 1).

    Raises:
        ValueError: if lengths differ or there are more guesses than canaries.

    References:
        Steinke, Nasr and Jagielski (2023), arXiv:2305.08846, Algorithm 1.

    Example:
        >>> result = one_run_audit(list(range(100)), [i >= 50 for i in range(100)],
        ...                        guesses=20, delta=1e-5)
        >>> result.correct, result.epsilon > 1
        (20, True)
    """
    if len(scores) != len(included):
        raise ValueError(
            f"scores ({len(scores)}) and included ({len(included)}) must match."
        )
    _check_guesses(len(scores), guesses, 0)
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    truth = np.asarray(included, dtype=bool)[order]
    low = guesses // 2
    high = guesses - low
    correct = int((~truth[:low]).sum() + truth[len(truth) - high :].sum())
    bound = one_run_epsilon(
        canaries=len(scores),
        guesses=guesses,
        correct=correct,
        delta=delta,
        confidence=confidence,
    )
    return OneRunResult(
        epsilon=bound, correct=correct, guesses=guesses, canaries=len(scores)
    )


def observed_cosine_epsilon(
    cosines: Sequence[float], dimension: int, *, delta: float
) -> float:
    """Estimate (not a bound) of epsilon from random canaries' cosines with the release.

    Without a canary, the cosine of a random direction with the release is N(0, 1/d).
    With one, it is fitted by a Gaussian. Epsilon is that of telling the two apart.

    Args:
        cosines: of the observed canaries with the final release, at least 2.
        dimension: d of the release.
        delta: in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    References:
        Andrew et al. (2023), "One-shot empirical privacy estimation for federated
        learning", arXiv:2302.03098, Algorithm 2.

    Example:
        >>> import numpy as np
        >>> z = np.random.default_rng(0).normal(3 / 100, 1 / 100, 1000)
        >>> bool(15 < observed_cosine_epsilon(z, 10_000, delta=1e-5) < 19)
        True
    """
    _validate.whole_at_least("dimension", dimension, 1)
    _validate.open_probability("delta", delta)
    values = np.asarray(cosines, dtype=float)
    if len(values) < 2:
        raise ValueError(f"cosines has {len(values)} values and must have 2 or more.")
    mean = float(values.mean()) * math.sqrt(dimension)
    spread = float(values.std(ddof=1)) * math.sqrt(dimension)
    if abs(spread - 1) < 1e-3:
        return gaussian_epsilon(abs(mean), delta)
    # Both directions of the hockey stick between N(mean, spread^2) and N(0, 1), on a
    # grid, as the region where one exceeds the other is one or two half lines.
    x = np.linspace(min(-12, mean - 12 * spread), max(12, mean + 12 * spread), 200_001)
    step = float(x[1] - x[0])
    log_p = -(((x - mean) / spread) ** 2) / 2 - math.log(spread)
    log_q = -(x**2) / 2
    scale = step / math.sqrt(2 * math.pi)

    def exceeds(epsilon: float) -> bool:
        for a, b in ((log_p, log_q), (log_q, log_p)):
            gain = np.exp(a) * -np.expm1(np.minimum(epsilon + b - a, 0.0))
            if float(gain.sum()) * scale > delta:
                return True
        return False

    if not exceeds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < 1e4 and exceeds(high):
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def _bound(
    members: Floats,
    outsiders: Floats,
    choice: tuple[float, int],
    delta: float,
    confidence: float,
) -> float:
    """Epsilon shown by one threshold test, and by its complement."""
    threshold, sign = choice
    caught = int((sign * members >= sign * threshold).sum())
    false = int((sign * outsiders >= sign * threshold).sum())
    caught_range = clopper_pearson(caught, len(members), confidence=confidence)
    false_range = clopper_pearson(false, len(outsiders), confidence=confidence)
    best = 0.0
    for gain, cost in (
        (caught_range[0] - delta, false_range[1]),
        (1 - false_range[1] - delta, 1 - caught_range[0]),
    ):
        if gain > 0 and cost > 0:
            best = max(best, math.log(gain / cost))
    return best


def _binomial_log_mass(trials: int, probability: float) -> Floats:
    """Log probabilities of 0 .. trials successes."""
    from scipy.special import gammaln

    k = np.arange(trials + 1, dtype=float)
    choose = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    rest = math.log1p(-probability) if probability < 1 else -math.inf
    with np.errstate(invalid="ignore"):
        failures = np.where(trials - k > 0, (trials - k) * rest, 0.0)
    return np.asarray(choose + k * math.log(probability) + failures)


def _check_guesses(canaries: int, guesses: int, correct: int) -> None:
    _validate.whole_at_least("canaries", canaries, 1)
    if not 0 <= guesses <= canaries:
        raise ValueError(f"guesses={guesses} must be in [0, canaries={canaries}].")
    if not 0 <= correct <= guesses:
        raise ValueError(f"correct={correct} must be in [0, guesses={guesses}].")
