"""Renyi divergences of the dominating pairs, and what they say about (epsilon, delta).

The pairs are one-dimensional, so every divergence is one integral. With t = P/Q,

    E_Q[t^alpha] - 1 = E_Q[t^alpha - 1 - alpha (t - 1)],

whose integrand is non-negative, hence no cancellation even when q is 1e-6 and the
divergence 1e-12. The integrand is analytic in a strip around the real line and decays
like a Gaussian, for which the trapezoidal rule converges exponentially (Trefethen and
Weideman, 2014, "The exponentially convergent trapezoidal rule"); the step below makes
the error smaller than rounding, and `_GUARD` covers rounding, so that values are upper
bounds.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accounting import _validate
from accounting.mechanism import DominatingPair

Floats = NDArray[np.float64]

ORDERS: Floats = 1.0 + np.geomspace(0.02, 2e4, 150)
"""Renyi orders. Any subset gives a valid bound; 10 % apart costs 0.1 % at most."""

_GUARD = 1e-7
_MOST_POINTS = 1 << 15


def gaussian_rdp(noise_multiplier: float, distance: float = 1.0) -> Floats:
    """RDP of the Gaussian mechanism at `ORDERS`.

    Args:
        noise_multiplier: z, the noise in units of the clip norm.
        distance: between the two means, in clip norms (2 for the antipodal pair).

    Returns:
        Divergences, natural log; infinite when z = 0.

    References:
        Mironov (2017), "Renyi differential privacy", arXiv:1702.07476, Proposition 7.

    Example:
        >>> bool(np.allclose(gaussian_rdp(2.0), ORDERS / 8))
        True
    """
    if noise_multiplier == 0:
        return np.full_like(ORDERS, np.inf)
    return ORDERS * (distance / noise_multiplier) ** 2 / 2


@lru_cache(maxsize=256)
def sampled_gaussian_rdp(
    sampling_probability: float, noise_multiplier: float, pair: DominatingPair
) -> Floats:
    """RDP of one Poisson-sampled Gaussian release at `ORDERS`, the worse direction.

    Guarantee: an upper bound at every order. Orders whose integral would need too many
    points get the bound of the unsampled Gaussian.

    Args:
        sampling_probability: q in [0, 1].
        noise_multiplier: z >= 0 of the pair.
        pair: ADD_OR_REMOVE, (1-q) N(0, z^2) + q N(1, z^2) against N(0, z^2), or
            REPLACE_ONE, the antipodal pair.

    Returns:
        A read-only array of the shape of `ORDERS`, natural log.

    Raises:
        ValueError: if q or z is out of range.

    References:
        Mironov, Talwar and Zhang (2019), "Renyi differential privacy of the sampled
        Gaussian mechanism", arXiv:1908.10530 (add-or-remove). That the antipodal pair
        dominates is proved in `accounting.mechanism`; dominating pairs: Zhu, Dong and
        Wang (2022), "Optimal accounting of differential privacy via characteristic
        function", arXiv:2106.08567.

    Example:
        >>> rdp = sampled_gaussian_rdp(0.01, 1.0, DominatingPair.ADD_OR_REMOVE)
        >>> bool(abs(np.interp(2.0, ORDERS, rdp) / 1.72e-4 - 1) < 0.02)
        True
    """
    q, z = sampling_probability, noise_multiplier
    _validate.probability("sampling_probability", q)
    _validate.finite_at_least("noise_multiplier", z, 0)
    antipodal = pair is DominatingPair.REPLACE_ONE
    if q == 0:
        rdp = np.zeros_like(ORDERS)
    elif q == 1 or z == 0:
        rdp = gaussian_rdp(z, 2.0 if antipodal else 1.0)
    else:
        rdp = np.array([_divergence(float(a), q, z, antipodal) for a in ORDERS])
        # Sampling never costs privacy (joint convexity): bounds the orders left out.
        rdp = np.minimum(rdp, gaussian_rdp(z, 2.0 if antipodal else 1.0))
        # Renyi divergence grows with the order, so a finite value bounds all below it.
        rdp = np.minimum.accumulate(rdp[::-1])[::-1]
    rdp.flags.writeable = False
    return rdp


def epsilon_from_rdp(rdp: Floats, delta: float) -> float:
    """The smallest epsilon that the divergences at `ORDERS` prove for delta.

    References:
        Canonne, Kamath and Steinke (2020), "The discrete Gaussian for differential
        privacy", arXiv:2004.00010, Proposition 12; and total variation through
        Bretagnolle and Huber: delta <= sqrt(1 - exp(-KL)) gives epsilon = 0.

    Example:
        >>> round(epsilon_from_rdp(gaussian_rdp(5.0), 1e-5), 3)
        0.794
    """
    _validate.open_probability("delta", delta)
    if delta**2 + math.expm1(-float(rdp.min())) > 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        bounds = rdp + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(np.min(bounds)))


def delta_from_rdp(rdp: Floats, epsilon: float) -> float:
    """The smallest delta that the divergences at `ORDERS` prove for epsilon.

    References:
        As `epsilon_from_rdp`.

    Example:
        >>> rdp = gaussian_rdp(5.0)
        >>> round(delta_from_rdp(rdp, epsilon_from_rdp(rdp, 1e-5)) * 1e5, 6)
        1.0
    """
    _validate.finite_at_least("epsilon", epsilon, 0)
    # Per order: the conversion above, and the total variation bound.
    log_delta = (ORDERS - 1) * (rdp - epsilon + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    total_variation = math.sqrt(-math.expm1(-float(rdp.min())))
    return min(1.0, total_variation, math.exp(min(0.0, float(np.min(log_delta)))))


def _divergence(alpha: float, q: float, z: float, antipodal: bool) -> float:
    """Renyi divergence of order alpha, maximum over both directions."""
    # Mass sits near the means, and P^alpha Q^(1-alpha) peaks at most this far out.
    reach = (2 * alpha if antipodal else alpha) + 12 * z
    # The nearest singularities, zeros of a mixture, are pi z^2 off the real line.
    step = min(z / 3, 0.4 * z * z)
    if reach / step > _MOST_POINTS:
        return math.inf
    # The antipodal pair's directions are mirror images of each other.
    cells = math.ceil(reach / step)
    x: Floats = np.arange(-cells, cells + 1, dtype=np.float64) * step
    right = _log_mixture(q, (2 * x - 1) / (2 * z * z))
    if antipodal:
        return _moment(alpha, right, right[::-1], x, z, step)
    zero = np.zeros_like(x)
    remove = _moment(alpha, right, zero, x, z, step)
    add = _moment(alpha, zero, right, x, z, step)
    return max(remove, add)


def _log_mixture(q: float, log_ratio: Floats) -> Floats:
    """log(1 - q + q exp(log_ratio)), accurate to relative rounding when q is tiny."""
    small = np.log1p(q * np.expm1(np.minimum(log_ratio, 1.0)))
    large = np.logaddexp(math.log1p(-q), math.log(q) + log_ratio)
    return np.where(log_ratio < 1.0, small, large)


def _moment(
    alpha: float, p: Floats, q: Floats, x: Floats, z: float, step: float
) -> float:
    """Log E_Q[(P/Q)^alpha] / (alpha - 1) from log densities relative to N(0, z^2)."""
    loss = p - q
    log_base = q - x * x / (2 * z * z)
    # t^a - 1 - a (t - 1): by expm1 where it is small, in logs where it overflows.
    mild = np.clip(loss, -30.0, 30.0 / alpha)
    curved = np.expm1(alpha * mild) - alpha * np.expm1(mild)
    with np.errstate(divide="ignore"):
        log_curved = np.log(np.maximum(curved, 0.0))
    # Dropping -1 - a (t - 1) < 0 only makes the bound larger (by less than 1e-9).
    log_curved = np.where(alpha * loss > 30.0, alpha * loss, log_curved)
    exponent = log_base + log_curved
    top = float(exponent.max())
    total = float(np.exp(exponent - top).sum()) * step / (z * math.sqrt(2 * math.pi))
    log_excess = top + math.log(total) + _GUARD
    return float(np.logaddexp(0.0, log_excess)) / (alpha - 1)
