"""Shapes cut out beforehand, so that painting a moving shape is a copy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.shapes import SHAPES, boxes, inside

SIZES = np.geomspace(0.055, 0.32, 24)
"""Half extents that sprites have, in units of the picture's side."""

ANGLES = 32
"""Directions that sprites have."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Shapes at places, all arrays `[m]`; places in units of the picture's side.

    Attributes:
        picture: number of the picture each is painted in.
        shape: index into `SHAPES`.
        x: centre, to the right.
        y: centre, downwards.
        size: half the extent.
        angle: in radians.
        colour: of the body, uint8 `[m, 3]`; one side of it is darker, so that turning
            shows on every shape.
    """

    picture: NDArray[np.int64]
    shape: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]
    colour: NDArray[np.uint8]


@dataclass(frozen=True)
class Sprites:
    """Every shape in `SIZES` and `ANGLES`, for pictures of one size.

    Attributes:
        side: of the pictures, in pixels.
    """

    side: int

    def paint(self, pictures: NDArray[np.uint8], placed: Placed) -> NDArray[np.float32]:
        """Paint at most one shape into each of the pictures uint8 `[n, side, side, 3]`.

        Returns:
            Boxes (ymin, xmin, ymax, xmax) in [0, 1], float32 `[m, 4]`: the extent of
            each shape, cut at the picture's edge; -1 if it is outside. What another
            shape hides is not cut off.
        """
        pixels, starts, extent = self._atlas
        size = np.abs(placed.size[:, None] - SIZES).argmin(1)
        angle = np.rint(placed.angle * (ANGLES / (2 * np.pi))).astype(np.int64) % ANGLES
        sprite = (placed.shape * len(SIZES) + size) * ANGLES + angle
        left = np.floor(placed.x * self.side).astype(np.int32)
        top = np.floor(placed.y * self.side).astype(np.int32)

        counts = starts[sprite + 1] - starts[sprite]
        row = np.repeat(np.arange(len(sprite)), counts)
        first = starts[sprite] - (np.cumsum(counts) - counts)
        y, x, dark = pixels[first[row] + np.arange(len(row))].T
        y, x = y + top[row], x + left[row]
        seen = (x >= 0) & (x < self.side) & (y >= 0) & (y < self.side)
        row, y, x, dark = row[seen], y[seen], x[seen], dark[seen]
        place = (placed.picture[row] * self.side + y) * self.side + x
        shades = np.stack([placed.colour, placed.colour // 2], axis=1)
        pictures.reshape(-1, 3)[place] = shades[row, dark]

        corners = extent[sprite] + np.stack([top, left, top, left], axis=1)
        corners = corners.clip(0, self.side)
        found: NDArray[np.float32] = (corners / self.side).astype(np.float32)
        found[(corners[:, :2] >= corners[:, 2:]).any(1)] = -1
        return found

    @cached_property
    def _atlas(
        self,
    ) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
        """Pixels, where each sprite's begin, and its box, all around its centre.

        Pixels int16 `[all, 3]` are (y, x, dark); starts `[sprites + 1]`; boxes
        `[sprites, 4]`.
        """
        turn = (np.arange(ANGLES) * (2 * np.pi / ANGLES))[:, None, None]
        cos, sin = np.cos(turn), np.sin(turn)
        pixels, counts, extents = [], [], []
        for shape in range(len(SHAPES)):
            for size in SIZES * self.side:
                reach = int(np.ceil(1.25 * size))  # a square's corner
                axis = np.arange(-reach, reach + 1)
                dx, dy = axis[None, None, :] / size, axis[None, :, None] / size
                u, v = cos * dx + sin * dy, cos * dy - sin * dx
                body = inside(shape, u, v)
                sprite, y, x = np.nonzero(body)
                dark = u[sprite, y, x] > 0.3
                found = np.stack([y - reach, x - reach, dark], axis=1)
                pixels.append(found.astype(np.int16))
                counts.append(body.sum((1, 2)))
                extents.append(np.rint(boxes(body) * len(axis)) - reach)
        starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return (
            np.concatenate(pixels),
            starts.astype(np.int64),
            np.concatenate(extents).astype(np.int64),
        )
