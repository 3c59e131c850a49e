"""Random crops, flips and mosaics, inside one virtual client.

Every output picture is a grid of g x g tiles; a tile is a window of one of the client's
own pictures, perhaps mirrored. Boxes and relations follow their pictures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.errors import UserError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Annotated:
    """Pictures with boxes, names and relations, `[n, ...]` each.

    Attributes:
        image: uint8 `[n, S, S, 3]`.
        boxes: float32 `[n, K, 4]` as (cx, cy, w, h) in units of the sides.
        names: int64 `[n, K]`; -1 is no object.
        relations: int64 `[n, R, 3]`, (subject, predicate, object); subject -1 is none.
        source: int64 `[n]`, whose words.
    """

    image: NDArray[np.uint8]
    boxes: Floats
    names: Integers
    relations: Integers
    source: Integers


def annotated(examples: Examples) -> Annotated:
    """The rows of a data set with boxes, names and relations.

    Fields: `image`, `boxes` as (ymin, xmin, ymax, xmax) in [0, 1], `object_name`,
    `relations`, and `source` where there are several.
    """
    fields = examples.fields
    y0, x0, y1, x1 = np.moveaxis(np.asarray(fields["boxes"], np.float32), -1, 0)
    boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
    source = fields.get("source", np.zeros(len(boxes), np.int64))
    return Annotated(
        np.asarray(fields["image"], np.uint8),
        boxes,
        np.asarray(fields["object_name"], np.int64),
        np.asarray(fields["relations"], np.int64),
        np.asarray(source, np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How pictures are changed in training.

    Attributes:
        mosaics: chances of 1 x 1, 2 x 2, 3 x 3, ... tiles; they add up to 1.
        least_crop: side of the smallest window, in units of the picture; 1 is no crop.
        flip: chance of a mirrored tile.

    Raises:
        UserError: if chances are none.
    """

    mosaics: tuple[float, ...] = (0.4, 0.3, 0.3)
    least_crop: float = 0.6
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not self.mosaics or abs(sum(self.mosaics) - 1) > 1e-6:
            raise UserError(f"mosaics={self.mosaics} must add up to 1.")
        if not (0 < self.least_crop <= 1 and 0 <= self.flip <= 1):
            raise UserError(
                f"least_crop={self.least_crop} and flip={self.flip} must be in [0, 1]."
            )

    @property
    def most_tiles(self) -> int:
        """Tiles of the largest mosaic."""
        return len(self.mosaics) ** 2

    @property
    def draws(self) -> int:
        """Uniform numbers that one picture takes."""
        return 1 + 5 * self.most_tiles


def augmented(
    rows: Annotated,
    offsets: Integers,
    draws: NDArray[np.float64],
    how: Augmentation,
    mirrored: Integers,
) -> Annotated:
    """One picture per row, made of pictures of the row's own group.

    Objects whose centre leaves the window are dropped, with their relations; the others
    are cut at its edge.

    Args:
        rows: `[n, ...]`.
        offsets: where groups begin, `[groups + 1]`.
        draws: uniform numbers `[n, how.draws]`.
        how: chances and sizes.
        mirrored: name of each predicate in a mirror; -1 where it has none.
    """
    n, tiles = len(rows.names), how.most_tiles
    grid = 1 + np.searchsorted(np.cumsum(how.mosaics)[:-1], draws[:, 0], side="right")
    pick, wide, left, top, flip = np.split(draws[:, 1:], 5, axis=1)
    groups = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sizes = np.diff(offsets)[groups]
    taken = offsets[groups][:, None] + (pick * sizes[:, None]).astype(np.int64)
    taken[:, 0] = np.arange(n)  # every picture is seen; the other tiles are drawn
    size = how.least_crop + (1 - how.least_crop) * wide
    window = np.stack([left * (1 - size), top * (1 - size), size], axis=2)
    used = np.arange(tiles) < (grid**2)[:, None]
    predicates = rows.relations[taken, :, 1]
    nameless = (rows.relations[taken, :, 0] >= 0) & (mirrored[predicates] < 0)
    mirror = (flip < how.flip) & ~nameless.any(axis=2)
    boxes, names, relations = _annotations(
        rows, taken, window, mirror, used, grid, mirrored
    )
    image = _pictures(rows.image, taken, window, mirror, grid)
    return Annotated(image, boxes, names, relations, rows.source)


def _annotations(
    rows: Annotated,
    taken: Integers,
    window: NDArray[np.float64],
    mirror: NDArray[np.bool_],
    used: NDArray[np.bool_],
    grid: Integers,
    mirrored: Integers,
) -> tuple[Floats, Integers, Integers]:
    n, tiles = taken.shape
    boxes = rows.boxes[taken].astype(np.float64)  # [n, T, K, 4]
    names = np.where(used[..., None], rows.names[taken], -1)
    size = window[..., None, 2:]
    low = (boxes[..., :2] - boxes[..., 2:] / 2 - window[..., None, :2]) / size
    high = (boxes[..., :2] + boxes[..., 2:] / 2 - window[..., None, :2]) / size
    centre = (low + high) / 2
    inside = ((centre > 0) & (centre < 1)).all(axis=-1)
    low, high = low.clip(0, 1), high.clip(0, 1)
    x0 = np.where(mirror[..., None], 1 - high[..., 0], low[..., 0])
    x1 = np.where(mirror[..., None], 1 - low[..., 0], high[..., 0])
    names = np.where(inside, names, -1)
    tile = np.arange(tiles)
    column, row = tile % grid[:, None], tile // grid[:, None]  # [n, T]
    g = grid[:, None, None]
    x0, x1 = (x0 + column[..., None]) / g, (x1 + column[..., None]) / g
    y0 = (low[..., 1] + row[..., None]) / g
    y1 = (high[..., 1] + row[..., None]) / g
    moved = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
    relations = np.array(rows.relations[taken])  # [n, T, R, 3]
    ends = relations[..., [0, 2]]
    k = rows.names.shape[1]
    lost = np.take_along_axis(
        names, ends.clip(0).reshape(n, tiles, -1), axis=2
    ).reshape(ends.shape)
    gone = (ends[..., 0] < 0) | (((lost < 0) & (ends >= 0)).any(axis=-1))
    ends = np.where(ends >= 0, ends + (tile * k)[:, None, None], -1)
    named = relations[..., 1]
    named = np.where(mirror[..., None], mirrored[named], named)
    relations = np.stack([ends[..., 0], named, ends[..., 1]], axis=-1)
    relations[gone] = -1
    return (
        moved.reshape(n, -1, 4).astype(np.float32),
        names.reshape(n, -1),
        relations.reshape(n, -1, 3),
    )


def _pictures(
    images: NDArray[np.uint8],
    taken: Integers,
    window: NDArray[np.float64],
    mirror: NDArray[np.bool_],
    grid: Integers,
) -> NDArray[np.uint8]:
    """The tiles' pixels, nearest neighbour."""
    out = np.empty((len(taken), *images.shape[1:]), dtype=np.uint8)
    side = images.shape[1]
    for g in np.unique(grid).tolist():
        rows = np.flatnonzero(grid == g)
        place = (np.arange(side) + 0.5) / side * g
        for tile in range(g * g):
            row, column = divmod(tile, g)
            down, right = (
                np.flatnonzero(place.astype(int) == x) for x in (row, column)
            )
            left, top, size = window[rows, tile].T[..., None]  # [m, 1] each
            x = np.broadcast_to(place[right] - column, (len(rows), len(right)))
            x = np.where(mirror[rows, tile][:, None], 1 - x, x)
            at_x = ((left + x * size) * side).astype(np.int64)
            at_y = ((top + (place[down] - row) * size) * side).astype(np.int64)
            source = taken[rows, tile][:, None, None]
            seen = images[source, at_y[:, :, None], at_x[:, None, :]]
            out[rows[:, None, None], down[:, None], right] = seen
    return out
