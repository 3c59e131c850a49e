"""Counting, as GeckoNum asks for it: prompts for 1 to 10 things, and exact answers."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

NUMBERS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)


def count_prompt(number: int, thing: str) -> str:
    """A prompt for `number` things, 1 to 10.

    Example:
        >>> count_prompt(1, "red ball"), count_prompt(3, "red ball")
        ('one red ball', 'three red balls')
    """
    return f"{NUMBERS[number - 1]} {thing}{'' if number == 1 else 's'}"


def asked_count(prompt: str) -> int | None:
    """The first number that a prompt names, in words or digits; None if there is none.

    Example:
        >>> asked_count("a picture of three red balls"), asked_count("a ball")
        (3, None)
    """
    for word in re.findall(r"[a-z]+|\d+", prompt.lower()):
        if word in NUMBERS:
            return NUMBERS.index(word) + 1
        if word.isdigit():
            return int(word)
    return None


def count_things(
    picture: NDArray[np.generic],
    colour: Sequence[float],
    *,
    tolerance: float = 60.0,
    least: int = 4,
) -> int:
    """Connected patches of about one colour in a picture.

    Args:
        picture: levels 0 to 255, `[H, W, 3]`.
        colour: its levels.
        tolerance: largest Euclidean distance from it.
        least: pixels of the smallest patch that counts.
    """
    distance = np.linalg.norm(picture.astype(np.float64) - np.asarray(colour), axis=-1)
    patches, count = label(distance <= tolerance, np.ones((3, 3)))
    sizes = np.bincount(patches.ravel(), minlength=count + 1)[1:]
    return int((sizes >= least).sum())


def exact_count(counted: Sequence[int], asked: Sequence[int]) -> float:
    """Share of pictures with exactly as many things as were asked for.

    Example:
        >>> exact_count([1, 2, 4], [1, 2, 3])
        0.6666666666666666
    """
    return float(np.mean(np.asarray(counted) == np.asarray(asked)))
