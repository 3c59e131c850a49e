"""Counting, as GeckoNum asks for it: prompts for 1 to 10 things, and exact answers."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from fedemb.errors import UserError
from model_zoo.imagen3.checks import paired

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


def count_prompt(number: int, thing: str, plural: str | None = None) -> str:
    """A prompt for `number` things, 1 to 10.

    Args:
        number: of things.
        thing: one of them; its last word is the noun.
        plural: several of them; None follows the rule for regular nouns.

    Raises:
        UserError: for a number that is not 1 to 10, or no thing.

    Example:
        >>> count_prompt(1, "red ball"), count_prompt(3, "red ball")
        ('one red ball', 'three red balls')
        >>> count_prompt(2, "box"), count_prompt(2, "mouse", "mice")
        ('two boxes', 'two mice')
    """
    if number not in range(1, len(NUMBERS) + 1):
        raise UserError(
            f"number={number} must be 1 to {len(NUMBERS)}, as in GeckoNum; write "
            "prompts for other numbers yourself, in digits."
        )
    if not thing.strip():
        raise UserError(f"thing={thing!r} must name what is counted, such as 'ball'.")
    several = plural or regular_plural(thing)
    return f"{NUMBERS[number - 1]} {thing if number == 1 else several}"


def regular_plural(noun: str) -> str:
    """Several of what a regular English noun names.

    Example:
        >>> [regular_plural(noun) for noun in ("cross", "bench", "cherry", "toy")]
        ['crosses', 'benches', 'cherries', 'toys']
    """
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


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

    Raises:
        UserError: for a picture of another shape, or a colour of other channels.

    Example:
        >>> picture = np.zeros((8, 8, 3))
        >>> picture[1:3, 1:3] = picture[5:7, 5:7] = 255
        >>> count_things(picture, (255, 255, 255))
        2
    """
    if picture.ndim != 3 or picture.shape[-1:] != np.shape(colour):
        raise UserError(
            f"a picture of shape {picture.shape} and a colour of shape "
            f"{np.shape(colour)} must be [H, W, C] and [C]; count one picture a time."
        )
    distance = np.linalg.norm(picture.astype(np.float64) - np.asarray(colour), axis=-1)
    patches, count = label(distance <= tolerance, np.ones((3, 3)))
    sizes = np.bincount(patches.ravel(), minlength=count + 1)[1:]
    return int((sizes >= least).sum())


def exact_count(counted: Sequence[int], asked: Sequence[int]) -> float:
    """Share of pictures with exactly as many things as were asked for.

    Raises:
        UserError: without a picture, or for lists of different lengths.

    Example:
        >>> exact_count([1, 2, 4], [1, 2, 3])
        0.6666666666666666
    """
    found, wanted = paired(("counted", "asked"), counted, asked)
    return float(np.mean(found == wanted))
