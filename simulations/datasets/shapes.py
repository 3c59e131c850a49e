"""Coloured shapes: what scenes and clips are made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("square", "ball", "triangle", "cross", "ring", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan")
RGB = np.array(
    [
        (214, 39, 40),
        (44, 160, 44),
        (31, 90, 200),
        (235, 215, 50),
        (148, 60, 190),
        (240, 130, 20),
        (240, 240, 240),
        (40, 200, 210),
    ],
    dtype=np.float32,
)
"""Levels of `COLOURS`, float32 `[8, 3]`."""


@dataclass(frozen=True)
class Things:
    """One shape per picture; all arrays `[m]`.

    Attributes:
        shape: index into `SHAPES`.
        colour: index into `COLOURS`.
        x: centre, in units of the picture's side.
        y: centre, likewise, downwards.
        size: half the extent, likewise.
        angle: in radians.
        tint: added to the colour's levels.
    """

    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]
    tint: NDArray[np.float64]

    def mask(self, side: int) -> NDArray[np.bool_]:
        """Where each shape is, bool `[m, side, side]`."""
        axis = (np.arange(side, dtype=np.float32) + 0.5) / side
        scale = 1 / self.size.astype(np.float32)
        dx = (axis[None, :] - self.x[:, None].astype(np.float32)) * scale[:, None]
        dy = (axis[None, :] - self.y[:, None].astype(np.float32)) * scale[:, None]
        turn = self.angle.astype(np.float32)[:, None, None]
        cos, sin = np.cos(turn), np.sin(turn)
        u = cos * dx[:, None, :] + sin * dy[:, :, None]
        v = cos * dy[:, :, None] - sin * dx[:, None, :]
        out = np.zeros(u.shape, dtype=bool)
        for shape in np.unique(self.shape):
            rows = np.flatnonzero(self.shape == shape)
            out[rows] = inside(int(shape), u[rows], v[rows])
        return out

    def paint(self, pictures: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Lay the shapes' colours over pictures float32 `[m, side, side, 3]`."""
        levels = RGB[self.colour] + self.tint[:, None].astype(np.float32)
        covered = np.count_nonzero(mask, axis=(1, 2))
        pictures[mask] = np.repeat(levels, covered, axis=0)


def inside(
    shape: int, u: NDArray[np.floating], v: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Where a shape of unit size is, bool, at coordinates of its own frame."""
    a, b = np.abs(u), np.abs(v)
    match SHAPES[shape]:
        case "square":
            found = np.maximum(a, b) < 0.85
        case "ball":
            found = u * u + v * v < 1
        case "triangle":
            found = (v < 0.75) & (v > 2.0 * a - 1.0)
        case "cross":
            found = (np.minimum(a, b) < 0.33) & (np.maximum(a, b) < 1)
        case "ring":
            found = np.abs(u * u + v * v - 0.65) < 0.35
        case _:
            found = a + b < 1.1
    return np.asarray(found)


def article(words: str) -> str:
    """The words with `a` or `an` before them.

    Example:
        >>> article("orange ring")
        'an orange ring'
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def boxes(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(ymin, xmin, ymax, xmax) in [0, 1] of masks, float32 `[m, 4]`; -1 if empty."""
    side = mask.shape[-1]
    out = np.full((len(mask), 4), -1, dtype=np.float32)
    for low, axis in ((0, 2), (1, 1)):
        seen = np.logical_or.reduce(mask, axis=axis)
        some = seen.any(axis=1)
        out[some, low] = seen[some].argmax(axis=1) / side
        out[some, low + 2] = 1 - seen[some, ::-1].argmax(axis=1) / side
    return out
