"""Whether pictures of the training set can be had back.

Carlini et al. (2023, arXiv:2301.13188): a training picture is extracted if a generated
one lies closer to it than a threshold.
"""

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from model_zoo.imagen3.checks import pair_of


def nearest(
    made: NDArray[np.floating], trained: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Root mean squared distance of each generated picture to its nearest training one.

    Args:
        made: `[n, ...]`, one at least.
        trained: `[m, ...]`, one at least.

    Returns:
        `[n]`, in the pictures' units.

    Raises:
        UserError: for an empty set, pictures of different sizes, or values that are not
            finite.
    """
    if made.shape[1:] != trained.shape[1:]:
        raise UserError(
            f"made pictures of shape {made.shape[1:]} cannot be compared with training "
            f"pictures of shape {trained.shape[1:]}; bring both to one size."
        )
    size = int(np.prod(made.shape[1:]))
    one, two = pair_of(
        made.reshape(len(made), size), trained.reshape(len(trained), size)
    )
    squared = np.square(one).sum(1)[:, None] + np.square(two).sum(1) - 2 * one @ two.T
    found: NDArray[np.float64] = np.sqrt(squared.min(1).clip(min=0) / one.shape[1])
    return found


def extraction_rate(
    made: NDArray[np.floating], trained: NDArray[np.floating], threshold: float
) -> float:
    """Share of generated pictures within `threshold` of a training picture.

    Raises:
        UserError: as `nearest`, and for a threshold that is negative or no number.

    Example:
        >>> made = np.array([[0.0, 0.0], [5.0, 5.0]])
        >>> extraction_rate(made, np.array([[0.1, 0.0]]), 0.2)
        0.5
    """
    if not threshold >= 0:
        raise UserError(
            f"threshold={threshold} must be 0 or more, in the pictures' units."
        )
    return float((nearest(made, trained) <= threshold).mean())
