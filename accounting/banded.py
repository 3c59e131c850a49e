"""Optimising a banded strategy, and its amplification by sampling.

A Toeplitz strategy S with first column s trades the sensitivity of S against the noise
of the prefix sums, the rows of A S^-1, where A sums up (server SGD; momentum and decay
are post-processing). More bands correlate more noise away; fewer bands amplify better.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from accounting import _validate
from accounting.errors import UnsupportedMechanism
from accounting.matrices import Floats, Participation, banded_sensitivity
from accounting.mechanism import SampledGaussian, Sampler


@dataclass(frozen=True, kw_only=True)
class BandedStrategy:
    """A lower-triangular Toeplitz strategy; `bands[0]` is its diagonal.

    Attributes:
        bands: first column of S [bands], scaled to unit norm.
        rounds: T.
    """

    bands: tuple[float, ...]
    rounds: int

    @property
    def column(self) -> Floats:
        """First column of S [rounds]."""
        column = np.zeros(self.rounds)
        column[: len(self.bands)] = self.bands[: self.rounds]
        return column

    @property
    def noise_coefficients(self) -> Floats:
        """First column of S^-1 [rounds]: the weights of earlier noise in a round."""
        return _inverse(self.column)

    def error(self, participation: Participation) -> float:
        """Root mean square noise on the prefix sums, per unit of noise over privacy."""
        scale = banded_sensitivity(np.array(self.bands), participation)
        return scale * math.sqrt(_mean_square(self.column))


def optimise_banded(
    participation: Participation, *, bands: int | None = None, steps: int = 200
) -> BandedStrategy:
    """A Toeplitz strategy with little noise on the prefix sums.

    Guarantee: privacy never depends on how well this works; the strategy's sensitivity
    is computed from what is returned. It is no worse than independent noise.

    Args:
        participation: T rounds, at most k times, b rounds apart.
        bands: number of bands; the separation by default, at most T.
        steps: of the optimiser.

    Raises:
        UnsupportedMechanism: if users may return sooner than there are bands.

    References:
        Choquette-Choo et al. (2023), arXiv:2306.08153; McKenna (2024), "Scaling up the
        banded matrix factorization mechanism", arXiv:2405.15913 (Toeplitz strategies);
        start: Fichtenberger, Henzinger and Upadhyay (2023), arXiv:2202.11205, whose
        square root of A has coefficients binom(2k, k) / 4^k.

    Example:
        >>> once = Participation(rounds=64)
        >>> best = optimise_banded(once, bands=64)
        >>> plain = BandedStrategy(bands=(1.0,), rounds=64)
        >>> bool(best.error(once) < 0.5 * plain.error(once))
        True
    """
    from scipy.optimize import minimize

    rounds = participation.rounds
    wanted = participation.separation if bands is None else bands
    _validate.whole_at_least("bands", wanted, 1)
    wanted = min(wanted, rounds)
    if participation.possible > 1 and wanted > participation.separation:
        raise UnsupportedMechanism(
            f"bands={wanted} must be at most the separation of "
            f"{participation.separation} rounds between a user's participations."
        )
    plain = BandedStrategy(bands=(1.0,), rounds=rounds)
    if wanted == 1:
        return plain
    start = _root(wanted)

    def objective(tail: Floats) -> tuple[float, Floats]:
        column = np.zeros(rounds)
        column[0] = 1.0
        column[1:wanted] = tail
        return _objective(column, wanted)

    found = minimize(
        objective, start[1:], jac=True, method="L-BFGS-B", options={"maxiter": steps}
    )
    column = np.concatenate([[1.0], found.x])
    column /= np.sqrt(np.sum(column**2))
    best = BandedStrategy(bands=tuple(float(x) for x in column), rounds=rounds)
    once = Participation(rounds=rounds)
    return best if best.error(once) <= plain.error(once) else plain


def amplified(mechanism: SampledGaussian, bands: int) -> SampledGaussian:
    """The mechanism that accounts for a banded strategy with block-cyclic sampling.

    Users are split at random, once, into `bands` groups; round i draws from group i mod
    bands by Poisson sampling with probability q * bands, so that cohorts stay as large.
    A user's rounds then share no row of S, and the training costs what ceil(T / bands)
    rounds of the returned mechanism cost, with noise z over a strategy of unit column
    norm.

    Guarantee: exact reduction; account `mechanism_rounds = ceil(T / bands)` of it.

    Args:
        mechanism: one round, Poisson over virtual clients or users.
        bands: of the strategy.

    Raises:
        UnsupportedMechanism: for other samplers, or if bands * q exceeds 1.

    References:
        Choquette-Choo et al. (2023), arXiv:2306.08153, Theorem 4 (and its corollary for
        fixed groups).

    Example:
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=10**5,
        ...                             users_per_round=100, noise_multiplier=1.0)
        >>> amplified(one_round, 10).sampling_probability
        0.01
    """
    _validate.whole_at_least("bands", bands, 1)
    allowed = (Sampler.POISSON_VIRTUAL_CLIENTS, Sampler.POISSON_USERS)
    probability = bands * mechanism.sampling_probability
    if mechanism.sampler not in allowed or probability > 1:
        raise UnsupportedMechanism(
            f"bands={bands} needs Poisson sampling and bands * q = {probability:g} at "
            "most 1; use fewer bands or smaller cohorts."
        )
    grown = bands * mechanism.users_per_round
    return replace(mechanism, users_per_round=min(grown, float(mechanism.population)))


def _root(count: int) -> Floats:
    """Coefficients binom(2k, k) / 4^k of the square root of the prefix-sum matrix."""
    ratio = np.arange(1, count, dtype=float)
    return np.concatenate([[1.0], np.cumprod((2 * ratio - 1) / (2 * ratio))])


def _inverse(column: Floats) -> Floats:
    """First column of the inverse of a lower-triangular Toeplitz matrix."""
    bands = int(np.max(np.nonzero(column)[0])) + 1
    inverse = np.zeros_like(column)
    inverse[0] = 1 / column[0]
    for i in range(1, len(column)):
        reach = min(i, bands - 1)
        earlier = inverse[i - reach : i][::-1]
        inverse[i] = -np.dot(column[1 : reach + 1], earlier) / column[0]
    return inverse


def _mean_square(column: Floats) -> float:
    """Mean over the rounds of the squared norm of the rows of A S^-1."""
    sums = np.cumsum(_inverse(column))
    return float(np.mean(np.cumsum(sums**2)))


def _objective(column: Floats, bands: int) -> tuple[float, Floats]:
    """Log of |s|^2 * mean square, and its gradient in the bands after the first."""
    rounds = len(column)
    inverse = _inverse(column)
    sums = np.cumsum(inverse)
    weight = (rounds - np.arange(rounds)) / rounds
    value = float(np.sum(weight * sums**2))
    norm = float(np.sum(column**2))
    # b = A s^-1 solves S b = 1, so db/ds_j = -S^-1 shift_j(b), by the adjoint method.
    adjoint = _inverse_transposed(inverse, 2 * weight * sums)
    gradient = np.array(
        [-np.dot(adjoint[j:], sums[: rounds - j]) for j in range(1, bands)]
    )
    total = math.log(norm) + math.log(value)
    return total, 2 * column[1:bands] / norm + gradient / value


def _inverse_transposed(inverse: Floats, right: Floats) -> Floats:
    """S^-T times a vector, for S^-1 Toeplitz with first column `inverse`."""
    from scipy.signal import fftconvolve

    return np.asarray(fftconvolve(right[::-1], inverse)[: len(right)][::-1])
