"""Who is shown: drift of perceived attributes, and prompts with one kind of output."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from fedemb.errors import UserError
from model_zoo.imagen3.checks import paired

AGES = ("0-30", "30+")
GENDERS = ("masculine", "feminine")
TONES = ("Monk 1-3", "Monk 4-6", "Monk 7-8", "Monk 9-10")


@dataclass(frozen=True)
class Drift:
    """How far a distribution has moved.

    Attributes:
        total_variation: half the absolute difference of shares, in [0, 1].
        chi_squared: of the table of counts.
        p_value: that both are draws of one distribution.
    """

    total_variation: float
    chi_squared: float
    p_value: float


def distribution(classes: NDArray[np.integer], kinds: int) -> NDArray[np.float64]:
    """Shares of each class `[kinds]`.

    Raises:
        UserError: for a class out of range, or no picture.

    Example:
        >>> distribution(np.array([0, 0, 1, 0]), 2).tolist()
        [0.75, 0.25]
    """
    if classes.size == 0:
        raise UserError("classes are empty; give those of one picture or more.")
    if not np.issubdtype(classes.dtype, np.integer):
        raise UserError(f"classes of type {classes.dtype} must be whole numbers.")
    if classes.min() < 0 or classes.max() >= kinds:
        raise UserError(
            f"classes reach from {classes.min()} to {classes.max()} and must be 0 to "
            f"{kinds - 1}; set `kinds` to the number of classes."
        )
    counts = np.bincount(classes.ravel(), minlength=kinds)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def total_variation(
    first: Sequence[float] | NDArray[np.floating],
    second: Sequence[float] | NDArray[np.floating],
) -> float:
    """Half the absolute difference of two distributions.

    Raises:
        UserError: if one of them has negative shares or does not sum to 1, or they have
            different lengths.

    Example:
        >>> round(total_variation([0.625, 0.375], [0.673, 0.327]), 3)
        0.048
    """
    one, two = paired(("first", "second"), first, second)
    for name, shares in (("first", one), ("second", two)):
        if shares.min() < 0 or abs(shares.sum() - 1) > 1e-2:
            raise UserError(
                f"{name}={shares.tolist()} must be shares of 0 or more that sum to 1; "
                "divide counts by their sum."
            )
    return float(np.abs(one - two).sum() / 2)


def drift(before: NDArray[np.integer], after: NDArray[np.integer], kinds: int) -> Drift:
    """Between the classes of two sets of pictures of neutral prompts.

    Raises:
        UserError: as `distribution`, for either set.
    """
    one, two = distribution(before, kinds), distribution(after, kinds)
    table = np.stack([one * before.size, two * after.size])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return Drift(0.0, 0.0, 1.0)
    found = chi2_contingency(table, correction=False)
    return Drift(total_variation(one, two), float(found[0]), float(found[1]))


def homogeneity(classes: NDArray[np.integer]) -> float:
    """Share of prompts all of whose pictures are of one class.

    It falls with the number of pictures per prompt, so report that beside it.

    Args:
        classes: `[prompts, pictures]`.

    Raises:
        UserError: without a prompt, or with one picture per prompt, which is always of
            one class.

    Example:
        >>> homogeneity(np.array([[1, 1, 1], [0, 1, 0], [2, 2, 2], [0, 0, 1]]))
        0.5
    """
    if classes.ndim != 2 or len(classes) == 0 or classes.shape[1] < 2:
        raise UserError(
            f"classes of shape {classes.shape} must be [prompts, pictures], with two "
            "pictures per prompt or more."
        )
    return float((classes == classes[:, :1]).all(1).mean())
