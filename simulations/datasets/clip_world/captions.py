"""What is said about a cast: a caption, and the nouns in it."""

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.clip_world.actions import ACTIONS, IN_PLACE
from simulations.datasets.shapes import COLOURS, SHAPES, article

THINGS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""Names of things by number."""

_WHILE = ("growing", "shrinking", "spinning", "changing")


def describe(
    thing: NDArray[np.int64],
    doing: NDArray[np.bool_],
    scene: NDArray[np.int64],
    verbs: bool = True,
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Captions `[n]` and the nouns in them, in order, `[n, K]`, empty if none.

    Args:
        thing: int64 `[n, K]` into `THINGS`, -1 if there is none.
        doing: bool `[n, K, len(ACTIONS)]`.
        scene: int64 `[n, K]`, 0 or 1, never falling along K.
        verbs: whether captions say what things do.

    Example:
        >>> doing = np.zeros((1, 2, len(ACTIONS)), dtype=bool)
        >>> doing[0, 0, 2] = doing[0, 0, -2] = doing[0, 1, 0] = True
        >>> describe(np.array([[0, 10]]), doing, np.array([[0, 1]]))[0].tolist()
        ['a red square rises while spinning, then a blue ball moves left']
    """
    first = doing.argmax(2)
    rest = doing.copy()
    np.put_along_axis(rest, first[..., None], False, axis=2)
    second = np.where(rest.any(2), rest.argmax(2), -1).tolist()
    captions, nouns = [], []
    rows = zip(thing.tolist(), first.tolist(), second, scene.tolist(), strict=True)
    for row in rows:
        scenes: tuple[list[str], list[str]] = ([], [])
        named = []
        for number, act, more, when in zip(*row, strict=True):
            named.append(THINGS[number] if number >= 0 else "")
            if number >= 0:
                words = article(THINGS[number])
                words += f" {ACTIONS[act]}" if verbs else ""
                words += f" while {_WHILE[more - IN_PLACE]}" if more >= 0 else ""
                scenes[when].append(words)
        captions.append(", then ".join(" and ".join(part) for part in scenes if part))
        nouns.append(named)
    return np.array(captions), np.array(nouns).reshape(thing.shape)
