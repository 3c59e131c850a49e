"""Random allocation: every user takes part in one round, drawn at random, of t.

Balls-in-bins sampling, where users fall into rounds independently, has the same cost.
The dominating pair of a period, for adaptive rounds too, is

    P = (1/t) sum_i N(e_i, z^2 I_t)   against   Q = N(0, z^2 I_t):

whatever round i releases, projecting its noise on the direction of the user's
contribution (a function of earlier rounds) gives t independent coordinates, so the
likelihood ratio is the same as without adaptivity. With l_i ~ N(-1/(2z^2), 1/z^2) the
ratio is R = (1/t) sum_i exp(l_i) under Q.
"""

import math
from functools import lru_cache

import numpy as np

from accounting import _validate
from accounting.mechanism import DominatingPair
from accounting.renyi import ORDERS, Floats, gaussian_rdp, sampled_gaussian_rdp

_LARGEST_ORDER = 128
_GUARD = 1e-10  # covers the rounding of sums of logarithms


@lru_cache(maxsize=64)
def random_allocation_rdp(rounds: int, noise_multiplier: float) -> Floats:
    """RDP at `ORDERS` of one period of `rounds` rounds, both directions.

    Guarantee: an upper bound at every order, at most that of one unsampled release.

    Remove direction, whole orders: E_Q[R^a] = a!/t^a [x^a] f(x)^t with
    f(x) = sum_k exp(k(k-1)/(2z^2)) x^k / k!, by expanding the power of the sum
    (multinomial theorem); between whole orders the cumulant's chord is an upper bound.

    The same moment is E[prod_i h(n_i)] with h(n) = exp(n(n-1)/(2z^2)) and n the counts
    of a picks among t rounds. They are negatively associated and h increases, so it is
    at most prod_i E[h(n_i)], where n_i is binomial(a, 1/t): t rounds of Poisson
    sampling with q = 1/t. This bounds the orders beyond 128, where the expansion is
    slow; what holds at the next whole order holds below it.

    Add direction, any order: E_Q[R^(1-a)] is the integral over s > 0 of
    s^(a-2) (E exp(-s e^l / t))^t / Gamma(a-1).

    Args:
        rounds: t, rounds in the period.
        noise_multiplier: z.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Feldman and Shenfeld (2025), "Privacy amplification by random allocation",
        arXiv:2502.08202 (the pair, and k of t rounds as k periods of t/k). Chua et al.
        (2024), "Balls-and-bins sampling for DP-SGD", arXiv:2412.16802 (the same pair).
        Joag-Dev and Proschan (1983), "Negative association of random variables"
        (multinomial counts).

    Example:
        >>> bool(np.allclose(random_allocation_rdp(1, 2.0)[:60], ORDERS[:60] / 8))
        True
    """
    _validate.whole_at_least("rounds", rounds, 1)
    _validate.finite_at_least("noise_multiplier", noise_multiplier, 0)
    if rounds == 1 or noise_multiplier == 0:
        scale = math.inf if noise_multiplier == 0 else 1 / (2 * noise_multiplier**2)
        return ORDERS * scale
    remove = _remove(rounds, noise_multiplier)
    orders = np.arange(1, _LARGEST_ORDER + 1, dtype=float)
    inner = np.interp(ORDERS, orders, remove, right=np.inf) / (ORDERS - 1)
    # ORDERS are more than 1 apart there: a whole order lies before the next of them.
    poisson = sampled_gaussian_rdp(
        1 / rounds, noise_multiplier, DominatingPair.ADD_OR_REMOVE
    )
    beyond = ORDERS > _LARGEST_ORDER
    inner[beyond] = (rounds * np.append(poisson[1:], np.inf))[beyond]
    inner = np.maximum(inner, _add(rounds, noise_multiplier, ORDERS)) + _GUARD
    # A user's round is a mixture over rounds, and Renyi divergence is quasi-convex.
    inner = np.minimum(inner, gaussian_rdp(noise_multiplier))
    inner.flags.writeable = False
    return np.asarray(inner)


def _remove(t: int, z: float) -> Floats:
    """Log E_Q[R^a] for a = 1 .. _LARGEST_ORDER."""
    k = np.arange(_LARGEST_ORDER + 1, dtype=float)
    log_factorial = np.array([math.lgamma(i + 1) for i in k])
    series = k * (k - 1) / (2 * z * z) - log_factorial
    power = _log_power(series, t)
    moments: Floats = power + log_factorial - k * math.log(t)
    return np.asarray(np.maximum(moments[1:], 0.0), dtype=np.float64)


def _log_power(series: Floats, exponent: int) -> Floats:
    """Logarithms of the coefficients of a power of a series with positive ones."""
    result, base = None, series
    while exponent:
        if exponent & 1:
            result = base if result is None else _log_multiply(result, base)
        exponent >>= 1
        if exponent:
            base = _log_multiply(base, base)
    return np.asarray(series if result is None else result)


def _log_multiply(a: Floats, b: Floats) -> Floats:
    out = np.empty_like(a)
    for n in range(len(a)):
        terms = a[: n + 1] + b[n::-1] if n < len(b) else a
        top = terms.max()
        out[n] = top + math.log(np.exp(terms - top).sum())
    return out


def _add(t: int, z: float, orders: Floats) -> Floats:
    """Renyi divergence of Q from P at `orders`, by two nested quadratures."""
    from scipy.special import log_ndtr

    x = np.arange(-12, 12 + 1e-9, 0.05)
    weight = np.exp(-x * x / 2)
    weight /= weight.sum()
    log_ratio = x / z - 1 / (2 * z * z)
    # s = t e^v; the integrand decays doubly exponentially to the right.
    v = np.arange(-80.0, 40.0 + 12 / z, 0.05)
    inner = -np.expm1(-np.exp(v[:, None] + log_ratio[None, :]))
    # Far to the right the transform underflows; 1e-300 is above what it was, and so is
    # P(v + l < c) + exp(-e^c), for any c.
    direct = np.log(np.maximum(1 - inner @ weight, 1e-300))
    c = np.arange(0.0, 12.0, 0.25)
    below = log_ndtr(z * (c - v[:, None] + 1 / (2 * z * z)))
    tail = np.logaddexp(below, -np.exp(c)).min(axis=1)
    log_laplace = t * np.minimum(direct, tail)
    out = np.empty_like(orders)
    for i, order in enumerate(orders):
        a = order - 1
        exponent = a * (v + math.log(t)) + log_laplace
        exponent = np.where(np.isnan(exponent), -np.inf, exponent)
        top = exponent.max()
        total = top + math.log(np.exp(exponent - top).sum() * 0.05)
        # The left end of the integral, s^a near zero, exactly: (s^a)/a.
        left = a * (v[0] + math.log(t)) - math.log(a)
        out[i] = (np.logaddexp(total, left) - math.lgamma(a)) / a
    return np.maximum(out, 0.0)
