"""Numbers of the scripts' command lines, refused where no script can use them."""

import argparse
import math
from collections.abc import Callable

STEPS = 11
"""The fewest steps whose first tenth, in which a rate rises, is longer than one."""


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type of `add_argument`: whole numbers from `least` to `most`.

    Example:
        >>> whole(1)("5")
        5
        >>> whole(1)("0")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: 0 must be a whole number, 1 at least
        >>> whole(1, 9)("many")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: many must be a whole number, 1 to 9
    """
    rule = f"{least} at least" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} must be a whole number, {rule}")
        return value

    return read


def positive(text: str) -> float:
    """A type of `add_argument`: positive, finite numbers.

    Example:
        >>> positive("1e-3")
        0.001
        >>> positive("nan")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: nan must be a positive number
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number")
    return value
