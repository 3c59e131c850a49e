"""Whether pictures of the training set can be had back.

Carlini et al. (2023, arXiv:2301.13188): a training picture is extracted if a generated
one lies closer to it than a threshold.
"""

import numpy as np
from numpy.typing import NDArray


def nearest(
    made: NDArray[np.floating], trained: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Root mean squared distance of each generated picture to its nearest training one.

    Args:
        made: `[n, ...]`.
        trained: `[m, ...]`, one at least.

    Returns:
        `[n]`, in the pictures' units.
    """
    one = made.reshape(len(made), -1).astype(np.float64)
    two = trained.reshape(len(trained), -1).astype(np.float64)
    squared = np.square(one).sum(1)[:, None] + np.square(two).sum(1) - 2 * one @ two.T
    found: NDArray[np.float64] = np.sqrt(squared.min(1).clip(min=0) / one.shape[1])
    return found


def extraction_rate(
    made: NDArray[np.floating], trained: NDArray[np.floating], threshold: float
) -> float:
    """Share of generated pictures within `threshold` of a training picture.

    Example:
        >>> made = np.array([[0.0, 0.0], [5.0, 5.0]])
        >>> extraction_rate(made, np.array([[0.1, 0.0]]), 0.2)
        0.5
    """
    return float((nearest(made, trained) <= threshold).mean())
