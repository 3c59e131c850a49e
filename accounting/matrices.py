"""Correlated noise: tree aggregation (DP-FTRL) and banded matrix factorisation.

Both release the prefix sums A x of the rounds' sums x as A x + B z C-scaled noise, with
A = B S for a strategy S: the release is post-processing of S x + noise. One user's
rounds move S x by at most its sensitivity, so the whole training is a single Gaussian
mechanism

    mu = distance * sensitivity(S) / noise multiplier,

whatever the rounds release, adaptively too (Denisov et al., 2022, arXiv:2202.08312,
Theorem 2.1). `distance` is 1 in clip norms for single users under zero-out, and 2 for
virtual clients of several users, where one clipped vector turns into another. No
amplification by sampling is needed or claimed, except where stated.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accounting import _validate
from accounting.errors import UnsupportedMechanism

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Participation:
    """When one user may take part.

    Attributes:
        rounds: T of the whole training.
        most: participations of a user, at most.
        separation: rounds from one participation to the next, at least; 1 means any.

    Raises:
        ValueError: if a number is out of range.
    """

    rounds: int
    most: int = 1
    separation: int = 1

    def __post_init__(self) -> None:
        _validate.whole_at_least("rounds", self.rounds, 1)
        _validate.whole_at_least("most", self.most, 1)
        _validate.whole_at_least("separation", self.separation, 1)

    @property
    def possible(self) -> int:
        """Participations that fit into the rounds."""
        return min(self.most, -(-self.rounds // self.separation))


def tree_sensitivity(participation: Participation, *, restart_every: int = 0) -> float:
    """Sensitivity of the binary tree, in clip norms.

    Guarantee: an upper bound, exact for a single participation. A node over 2^l rounds
    sees a user at most c = min(k, ceil(2^l / b)) times; the counts of a level add up to
    k, so the level contributes at most k c, and the square is the sum over levels.

    Args:
        participation: T rounds, at most k times, b rounds apart.
        restart_every: rounds after which a new tree begins; 0 for never.

    Raises:
        ValueError: if restart_every is negative.

    References:
        Kairouz et al. (2021), "Practical and private (deep) learning without sampling
        or shuffling", arXiv:2103.00039, Theorem 4.1 and appendix D (restarts,
        multiple participations).

    Example:
        >>> round(tree_sensitivity(Participation(rounds=8)) ** 2, 6)
        4.0
        >>> twice = Participation(rounds=8, most=2, separation=4)
        >>> round(tree_sensitivity(twice) ** 2, 6)
        10.0
    """
    _validate.whole_at_least("restart_every", restart_every, 0)
    length = min(restart_every or participation.rounds, participation.rounds)
    levels = length.bit_length()  # only complete nodes are ever released
    k, b = participation.possible, participation.separation
    square = 0.0
    for level in range(levels):
        together = min(k, -(-(2**level) // b))
        square += k * together
    return math.sqrt(square)


def correlated_mu(
    sensitivity: float, noise_multiplier: float, *, users_per_virtual_client: int = 1
) -> float:
    """Mu of Gaussian differential privacy of the whole training.

    Guarantee: exact for the worst case of the sensitivity.

    Args:
        sensitivity: of the strategy, in clip norms.
        noise_multiplier: z; the noise on S x has standard deviation z * C.
        users_per_virtual_client: u; a user changes a clipped vector by 2C if u > 1.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Denisov et al. (2022), arXiv:2202.08312, Theorem 2.1; Dong, Roth and Su (2019),
        arXiv:1905.02383.

    Example:
        >>> correlated_mu(2.0, 4.0), correlated_mu(2.0, 4.0, users_per_virtual_client=8)
        (0.5, 1.0)
    """
    _validate.positive("sensitivity", sensitivity)
    _validate.finite_at_least("noise_multiplier", noise_multiplier, 0)
    _validate.whole_at_least("users_per_virtual_client", users_per_virtual_client, 1)
    if noise_multiplier == 0:
        return math.inf
    distance = 1.0 if users_per_virtual_client == 1 else 2.0
    return distance * sensitivity / noise_multiplier


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a mechanism that is mu-Gaussian differentially private, exactly.

    Args:
        mu: at least 0; infinite gives infinite epsilon.
        delta: in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    References:
        Balle and Wang (2018), "Improving the Gaussian mechanism", arXiv:1805.06530,
        Theorem 8.

    Example:
        >>> round(gaussian_epsilon(1.0, 1e-5), 3)
        4.377
    """
    _validate.open_probability("delta", delta)
    if mu == 0 or math.isinf(mu):
        return mu
    _validate.positive("mu", mu)
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, 2 * high
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if gaussian_delta(mu, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Delta of a mu-Gaussian differentially private mechanism at epsilon, exactly.

    References:
        As `gaussian_epsilon`.

    Example:
        >>> round(gaussian_delta(1.0, 1.0), 4)
        0.1269
    """
    from scipy.special import log_ndtr, ndtr

    first = float(ndtr(mu / 2 - epsilon / mu))
    second = math.exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))
    return max(0.0, first - second)


def noise_for_epsilon(
    sensitivity: float,
    *,
    target_epsilon: float,
    delta: float,
    users_per_virtual_client: int = 1,
) -> float:
    """The least noise multiplier of a correlated mechanism within `target_epsilon`.

    Guarantee: rounded up, so that the epsilon of the result is at most the target.

    Raises:
        ValueError: if an argument is out of range.

    References:
        As `correlated_mu` and `gaussian_epsilon`.

    Example:
        >>> z = noise_for_epsilon(2.0, target_epsilon=1.0, delta=1e-6)
        >>> 0.99 < gaussian_epsilon(correlated_mu(2.0, z), 1e-6) <= 1.0
        True
    """
    _validate.positive("target_epsilon", target_epsilon)
    low, high = 1e-6, 1.0
    while gaussian_epsilon(high, delta) <= target_epsilon:
        low, high = high, 2 * high
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        if gaussian_epsilon(middle, delta) <= target_epsilon:
            low = middle
        else:
            high = middle
    return correlated_mu(
        sensitivity, low, users_per_virtual_client=users_per_virtual_client
    )


def banded_sensitivity(strategy: Floats, participation: Participation) -> float:
    """Sensitivity of a banded Toeplitz strategy, in clip norms.

    Guarantee: exact when participations are at least as far apart as there are bands:
    columns that far apart share no row, so their squares add up.

    Args:
        strategy: first column of S, its bands [bands].
        participation: T rounds, at most k times, b rounds apart.

    Raises:
        UnsupportedMechanism: if the separation is less than the number of bands.

    References:
        Choquette-Choo et al. (2023), "(Amplified) banded matrix factorization",
        arXiv:2306.08153, Theorem 2.

    Example:
        >>> one = Participation(rounds=10, most=4, separation=2)
        >>> banded_sensitivity(np.array([1.0, 0.0]), one)
        2.0
    """
    bands = int(np.max(np.nonzero(strategy)[0])) + 1
    if participation.possible > 1 and participation.separation < bands:
        raise UnsupportedMechanism(
            f"separation={participation.separation} must be at least the {bands} bands "
            "of the strategy; use fewer bands, or keep users apart for longer."
        )
    column = float(np.sqrt(np.sum(np.asarray(strategy) ** 2)))
    return math.sqrt(participation.possible) * column
