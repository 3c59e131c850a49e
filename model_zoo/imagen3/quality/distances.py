"""Distances between two sets of picture vectors.

Rows are vectors of any frozen feature network; figures made with other networks than
the published ones must say so (`fd_eye`, not FID).
"""

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from model_zoo.imagen3.checks import pair_of

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def frechet_distance(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of Gaussians fitted to two sets.

    Heusel et al. (2017, arXiv:1706.08500), with unbiased covariances. A set of fewer
    rows than dimensions biases it upwards.

    Args:
        first: `[n, D]`, two rows or more.
        second: `[m, D]`, two rows or more.

    Raises:
        UserError: for fewer rows, different widths, or values that are not finite.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(frechet_distance(rows, rows + np.array([2.0, 0, 0])), 6)
        4.0
    """
    one, two = pair_of(first, second, least=2)
    return gaussian_distance(
        one.mean(0), np.atleast_2d(np.cov(one, rowvar=False)),
        two.mean(0), np.atleast_2d(np.cov(two, rowvar=False)),
    )  # fmt: skip


def gaussian_distance(
    mean1: NDArray[np.float64],
    covariance1: NDArray[np.float64],
    mean2: NDArray[np.float64],
    covariance2: NDArray[np.float64],
) -> float:
    """The same of two Gaussians; never negative.

    Example:
        >>> gaussian_distance(np.zeros(1), np.eye(1), np.full(1, 2.0), np.eye(1))
        4.0
    """
    values, vectors = np.linalg.eigh(covariance1)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance2 @ root)
    cross = np.sqrt(inner.clip(min=0)).sum()
    spread = np.trace(covariance1) + np.trace(covariance2) - 2 * cross
    return max(0.0, float(np.square(mean1 - mean2).sum() + spread))


def cmmd(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    sigma: float = CMMD_SIGMA,
    scale: float = CMMD_SCALE,
) -> float:
    """Maximum mean discrepancy, squared and times 1000, with a Gaussian kernel.

    Jayasumana et al. (2024, arXiv:2401.09603): means over all pairs, those of a row
    with itself included. Published figures use CLIP-L vectors of unit length.

    Args:
        first: `[n, D]`.
        second: `[m, D]`.
        sigma: width of the kernel exp(-|x - y|^2 / (2 sigma^2)).
        scale: that the result is multiplied by.

    Raises:
        UserError: for an empty set, different widths, values that are not finite, or a
            width of the kernel that is not positive.
    """
    if not sigma > 0:
        raise UserError(f"sigma={sigma} must be positive; published is {CMMD_SIGMA}.")
    one, two = pair_of(first, second)
    within = _kernel_mean(one, one, sigma) + _kernel_mean(two, two, sigma)
    return scale * (within - 2 * _kernel_mean(one, two, sigma))


def _kernel_mean(
    one: NDArray[np.float64], two: NDArray[np.float64], sigma: float
) -> float:
    squared = np.square(one).sum(1)[:, None] + np.square(two).sum(1) - 2 * one @ two.T
    return float(np.exp(squared.clip(min=0) / (-2 * sigma**2)).mean())
