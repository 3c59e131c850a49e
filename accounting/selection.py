"""Private selection: the best of a random number of runs, accounted as one release.

Training several candidates and publishing only the best costs little more than one run
if the number of runs is drawn at random. A fixed number k of runs costs k times a run
here, which is what the ledger charges by itself.
"""

import math
from enum import StrEnum

import numpy as np

from accounting import _validate, composition
from accounting.mechanism import SampledGaussian
from accounting.renyi import ORDERS, Floats, delta_from_rdp, epsilon_from_rdp


class RunCount(StrEnum):
    """How the number of runs is drawn."""

    GEOMETRIC = "geometric"
    LOGARITHMIC = "logarithmic"
    POISSON = "poisson"


def selection_rdp(
    run_rdp: Floats, *, mean_runs: float, run_count: RunCount = RunCount.GEOMETRIC
) -> Floats:
    """RDP at `ORDERS` of the best of a random number of runs.

    Guarantee: an upper bound, whatever the score by which the best run is chosen, as
    long as it is computed from the run's release or accounted in the run.

    Args:
        run_rdp: of one run, at `ORDERS`.
        mean_runs: expected number of runs, at least 1. A Poisson number may be zero, in
            which case nothing is released.
        run_count: distribution of the number of runs.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Papernot and Steinke (2021), "Hyperparameter tuning with Renyi differential
        privacy", arXiv:2110.03620, Theorem 2 (truncated negative binomial; shape 1 is
        geometric, shape 0 logarithmic) and Theorem 6 (Poisson).

    Example:
        >>> from accounting.renyi import gaussian_rdp
        >>> run = gaussian_rdp(20.0)
        >>> best = selection_rdp(run, mean_runs=10)
        >>> bool(epsilon_from_rdp(best, 1e-6) < 10 * epsilon_from_rdp(run, 1e-6))
        True
    """
    _validate.finite_at_least("mean_runs", mean_runs, 1)
    if RunCount(run_count) is RunCount.POISSON:
        rdp = _poisson(run_rdp, mean_runs)
    else:
        rdp = _negative_binomial(run_rdp, mean_runs, RunCount(run_count))
    # Renyi divergence grows with the order: larger orders bound smaller ones.
    return np.asarray(np.minimum.accumulate(rdp[::-1])[::-1])


def selection_epsilon(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    delta: float,
    mean_runs: float,
    run_count: RunCount = RunCount.GEOMETRIC,
) -> float:
    """Epsilon of publishing only the best of a random number of runs.

    Args:
        mechanism: one round of every run.
        rounds: of every run, at least 1.
        delta: in (0, 1).
        mean_runs: expected number of runs, at least 1.
        run_count: distribution of the number of runs.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedMechanism: if no Renyi bound is proved for the sampler.

    References:
        As `selection_rdp`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=10**5,
        ...                             users_per_round=100, noise_multiplier=1.0)
        >>> cost = selection_epsilon(one_round, rounds=1000, delta=1e-6, mean_runs=10)
        >>> 1 < cost < 4
        True
    """
    _validate.whole_at_least("rounds", rounds, 1)
    _validate.open_probability("delta", delta)
    spends = ((mechanism, rounds),)
    if composition.non_private(spends):
        return math.inf
    run = composition.total_rdp(spends)
    best = selection_rdp(run, mean_runs=mean_runs, run_count=run_count)
    return epsilon_from_rdp(best, delta)


def _poisson(run: Floats, mean: float) -> Floats:
    out = np.empty_like(run)
    for i, order in enumerate(ORDERS):
        # Theorem 6 with the smallest delta at epsilon-hat = log(1 + 1 / (order - 1)).
        delta = delta_from_rdp(run, math.log1p(1 / (order - 1)))
        out[i] = run[i] + mean * delta + math.log(mean) / (order - 1)
    return out


def _negative_binomial(run: Floats, mean: float, run_count: RunCount) -> Floats:
    shape, gamma = 1.0, 1 / mean
    if run_count is RunCount.LOGARITHMIC:
        shape, gamma = 0.0, _logarithmic_parameter(mean)
    # Theorem 2; lambda-hat may be any order.
    second = float(np.min((1 - 1 / ORDERS) * run - math.log(gamma) / ORDERS))
    return run + (1 + shape) * second + math.log(mean) / (ORDERS - 1)


def _logarithmic_parameter(mean: float) -> float:
    """Gamma with (1/gamma - 1) / log(1/gamma) = mean, rounded to the safe side."""
    if mean == 1:
        return 1.0
    low, high = 1e-300, 1.0  # the mean falls from infinity to 1 in between
    for _ in range(200):
        middle = math.sqrt(low * high)
        if (1 / middle - 1) / -math.log(middle) > mean:
            low = middle
        else:
            high = middle
    return low
