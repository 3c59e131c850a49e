"""Renyi differential privacy of a round, and its conversion to (epsilon, delta)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accounting.mechanism import SampledGaussian
from accounting.vocabulary import DominatingPair, Sampler

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0),
    *(11.0, 12.0, 13.0, 14.0, 16.0, 18.0, 20.0, 22.0, 24.0, 28.0, 32.0, 36.0, 40.0, 48.0),
    *(56.0, 64.0, 80.0, 96.0, 128.0, 160.0, 192.0, 256.0, 384.0, 512.0, 1024.0),
)
"""Orders alpha at which Renyi divergences are taken; any set gives an upper bound."""

# Covers quadrature and float error, far below a visible digit, on the safe side.
_INFLATION = 1 + 1e-8
_FLOOR = 1e-13
_TAIL = 14.0  # standard deviations integrated beyond the peak; the rest is below 1e-40


def rdp(
    rounds: Sequence[tuple[SampledGaussian, int]], orders: Sequence[float] = ORDERS
) -> NDArray[np.float64]:
    """Renyi divergence of a composition at each order, `[orders]`; adds over rounds.

    Mironov (2017), arXiv:1702.07476.
    """
    total = np.zeros(len(orders))
    for mechanism, count in rounds:
        total += count * round_rdp(mechanism, orders)
    return total


def round_rdp(
    mechanism: SampledGaussian, orders: Sequence[float] = ORDERS
) -> NDArray[np.float64]:
    """Renyi divergence of one round at each order, natural log units, `[orders]`.

    - add-or-remove pair: `sampled_gaussian_rdp`; at q = 1 the Gaussian mechanism.
    - antipodal pair: `antipodal_rdp`.
    - fixed size without replacement: Wang, Balle and Kasiviswanathan (2019),
      arXiv:1808.00087, through dp-accounting, with a replaced user's distance 2C, that
      is with multiplier z / 2.
    """
    q, z = mechanism.sampling_probability, mechanism.noise_multiplier
    if z == 0:
        return np.full(len(orders), np.inf)
    if mechanism.sampler is Sampler.FIXED_SIZE:
        return _without_replacement_rdp(mechanism, orders)
    if mechanism.dominating_pair is DominatingPair.REPLACE_ONE:
        return antipodal_rdp(q, z, orders)
    return sampled_gaussian_rdp(q, mechanism.add_or_remove_multiplier, orders)


def antipodal_rdp(q: float, z: float, orders: Sequence[float]) -> NDArray[np.float64]:
    """Renyi divergence between the two sides of the antipodal pair, `[orders]`.

    P = (1-q) N(0, z^2) + q N(1, z^2) and Q its mirror image, so both directions agree:
    D(P || Q) = D(Q || P).

    Example:
        >>> exact = 2 * 2 / 1.0**2  # q = 1: two Gaussians at distance 2
        >>> bool(abs(antipodal_rdp(1.0, 1.0, [2.0])[0] - exact) < 1e-6)
        True
    """
    return np.array([_renyi(q, 1 / z, -1 / z, alpha) for alpha in orders])


def sampled_gaussian_rdp(
    q: float, z: float, orders: Sequence[float]
) -> NDArray[np.float64]:
    """Renyi divergence of the Poisson-sampled Gaussian, add-or-remove, `[orders]`.

    D((1-q) N(0, z^2) + q N(1, z^2) || N(0, z^2)), the larger of the two directions
    (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, Theorem 5).

    Example:
        >>> bool(abs(sampled_gaussian_rdp(1.0, 2.0, [8.0])[0] - 1.0) < 1e-6)
        True
    """
    return np.array([_renyi(q, 1 / z, 0.0, alpha) for alpha in orders])


def _renyi(q: float, mean_p: float, mean_q: float, alpha: float) -> float:
    """D_alpha of (1-q) N(0,1) + q N(mean_p,1) from (1-q) N(0,1) + q N(mean_q,1).

    The integrand p^alpha q^(1-alpha) is analytic in a strip around the real axis and
    falls like a Gaussian, for which the trapezoidal rule converges exponentially
    (Trefethen and Weideman 2014). Its last peak lies below alpha * mean_p +
    (1 - alpha) * mean_q, its first above mean_q.
    """
    step = min(0.05, 0.4 / mean_p)
    last = alpha * mean_p + (1 - alpha) * mean_q
    x = np.arange(mean_q - _TAIL, last + mean_p + _TAIL, step)
    base = np.log1p(-q) - x**2 / 2 if q < 1 else np.full_like(x, -np.inf)
    log_p = np.logaddexp(base, math.log(q) - (x - mean_p) ** 2 / 2)
    log_q = np.logaddexp(base, math.log(q) - (x - mean_q) ** 2 / 2)
    log_terms = alpha * log_p + (1 - alpha) * log_q
    peak = float(log_terms.max())
    mass = float(np.exp(log_terms - peak).sum()) * step / math.sqrt(2 * math.pi)
    value = (peak + math.log(mass)) / (alpha - 1)
    return max(value, 0.0) * _INFLATION + _FLOOR


def _without_replacement_rdp(
    mechanism: SampledGaussian, orders: Sequence[float]
) -> NDArray[np.float64]:
    from dp_accounting import NeighboringRelation, dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(list(orders), NeighboringRelation.REPLACE_ONE)
    accountant.compose(
        dp_event.SampledWithoutReplacementDpEvent(
            mechanism.population,
            math.ceil(mechanism.users_per_round),
            dp_event.GaussianDpEvent(mechanism.noise_multiplier / 2),
        )
    )
    return np.asarray(accountant.rdp, dtype=np.float64)


def epsilon_from_rdp(
    divergences: NDArray[np.float64], delta: float, orders: Sequence[float] = ORDERS
) -> float:
    """The smallest epsilon that the divergences prove at `delta`.

    Canonne, Kamath and Steinke (2020), arXiv:2004.00010, Proposition 12, as implemented
    by dp-accounting.
    """
    from dp_accounting.rdp import compute_epsilon

    finite = np.isfinite(divergences)
    if not finite.any():
        return math.inf
    own = np.asarray(orders)[finite]
    value, _ = compute_epsilon(own, divergences[finite], delta)
    return float(value)
