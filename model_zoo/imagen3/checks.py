"""What the protocols refuse to judge: too few, of different widths, or not finite."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

Numbers: TypeAlias = Sequence[float] | NDArray[np.generic]


def vectors_of(
    name: str, values: NDArray[np.generic], least: int = 1
) -> NDArray[np.float64]:
    """Vectors `[n, D]` in double precision.

    Args:
        name: what a message calls them.
        values: `[n, D]`.
        least: rows that are needed.

    Raises:
        UserError: for another number of axes, too few rows, no column, or values that
            are not finite.

    Example:
        >>> vectors_of("first", np.ones((2, 3), np.float32)).shape
        (2, 3)
    """
    found = np.asarray(values)
    if found.ndim != 2 or len(found) < least or found.shape[1] < 1:
        raise UserError(
            f"{name} has the shape {found.shape} and must be [n, D] with n of at least "
            f"{least}; give one vector per picture, and more pictures if there are too "
            "few."
        )
    return _finite(name, found)


def pair_of(
    first: NDArray[np.generic], second: NDArray[np.generic], least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sets of vectors of one width, `[n, D]` and `[m, D]`.

    Raises:
        UserError: as `vectors_of`, and for different widths.
    """
    one, two = vectors_of("first", first, least), vectors_of("second", second, least)
    if one.shape[1] != two.shape[1]:
        raise UserError(
            f"first has vectors of {one.shape[1]} numbers and second of "
            f"{two.shape[1]}; take both from the same feature network."
        )
    return one, two


def numbers_of(name: str, values: Numbers, least: int = 1) -> NDArray[np.float64]:
    """Numbers `[n]` in double precision.

    Raises:
        UserError: for another number of axes, too few, or values that are not finite.

    Example:
        >>> numbers_of("scores", [1, 2]).tolist()
        [1.0, 2.0]
    """
    found = np.asarray(values)
    if found.ndim != 1 or len(found) < least:
        raise UserError(
            f"{name} has the shape {found.shape} and must be a list of at least "
            f"{least}; there is nothing to judge otherwise."
        )
    return _finite(name, found)


def paired(
    names: tuple[str, str], first: Numbers, second: Numbers, least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two lists of numbers of one length `[n]`.

    Raises:
        UserError: as `numbers_of`, and for different lengths.

    Example:
        >>> [found.tolist() for found in paired(("counted", "asked"), [1], [2])]
        [[1.0], [2.0]]
    """
    one = numbers_of(names[0], first, least)
    two = numbers_of(names[1], second, least)
    if len(one) != len(two):
        raise UserError(
            f"{names[0]} has {len(one)} entries and {names[1]} has {len(two)}; give "
            "one of each per case."
        )
    return one, two


def images_of(
    images: NDArray[np.generic], side: int | None = None
) -> NDArray[np.float64]:
    """Pictures `[n, H, W, C]` in double precision.

    Args:
        images: of any range.
        side: that height and width must have, if any.

    Raises:
        UserError: for another number of axes, another side, or an axis of length 0
            other than the first.
    """
    found = np.asarray(images)
    if found.ndim != 4 or min(found.shape[1:]) < 1:
        raise UserError(
            f"pictures of shape {found.shape} must be [n, H, W, C]; put a single one "
            "into a batch with picture[None]."
        )
    if side is not None and found.shape[1:3] != (side, side):
        raise UserError(
            f"pictures of {found.shape[1]} x {found.shape[2]} pixels must have the "
            f"watermark's side={side}; make a mark of their side."
        )
    return found.astype(np.float64)


def _finite(name: str, found: NDArray[np.generic]) -> NDArray[np.float64]:
    values = found.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise UserError(
            f"{name} has {bad} values that are not finite, and no distance or score is "
            "defined then; leave those rows out, or look where they come from."
        )
    return values
