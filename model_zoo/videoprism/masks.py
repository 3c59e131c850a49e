"""Which tokens are dropped, masked and shuffled, drawn on the client from its seed.

Sizes are fixed, so that every clip gives tensors of one shape.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCKS = 24  # candidates per clip; far more than cover any share


def tube_places(
    count: int, kept: int, offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Places of a frame that are kept, the same in every frame; int64 `[n, kept]`.

    Args:
        count: places of a frame.
        kept: of them.
        offsets: int64 `[groups + 1]`, the rows of each virtual client.
        seeds: one per group; a group's drawing depends on nothing else.

    Example:
        >>> tube_places(4, 2, np.array([0, 2]), np.array([1], np.uint64)).shape
        (2, 2)
    """
    scores = _uniform((count,), offsets, seeds, stream=1)
    return np.sort(np.argsort(scores, axis=1)[:, :kept], axis=1)


def block_masks(
    grid: tuple[int, int, int],
    masked: int,
    offsets: NDArray[np.int64],
    seeds: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Masks of blocks through spans of frames, exactly `masked` tokens each.

    After BEVT (Wang et al. 2022, arXiv:2112.01529): blocks of a random shape, extended
    as tubes over at least half of the frames, until enough is covered. Which tokens of
    the last block are masked is drawn, so that the number comes out.

    Args:
        grid: tokens along (time, height, width).
        masked: tokens of a clip that are masked.
        offsets: int64 `[groups + 1]`.
        seeds: one per group.

    Returns:
        bool `[n, T * H * W]`, true where masked.

    Example:
        >>> masks = block_masks((8, 4, 4), 83, np.array([0, 3]), np.ones(1, np.uint64))
        >>> masks.sum(1).tolist()
        [83, 83, 83]
    """
    frames, height, width = grid
    drawn = _uniform((_BLOCKS, 6), offsets, seeds, stream=2)
    ties = _uniform((frames * height * width,), offsets, seeds, stream=3)
    lows = (-(-frames // 2), max(1, height // 4), max(1, width // 4))
    highs = (frames, -(-3 * height // 4), -(-3 * width // 4))
    inside = []
    for axis, (size, low, high) in enumerate(zip(grid, lows, highs, strict=True)):
        length = low + np.floor(drawn[..., axis] * (high - low + 1))
        start = np.floor(drawn[..., axis + 3] * (size - length + 1))
        at = np.arange(size)
        inside.append(
            (at >= start[..., None]) & (at < start[..., None] + length[..., None])
        )
    t, h, w = inside  # [n, blocks, size] each
    covered = t[..., :, None, None] & h[..., None, :, None] & w[..., None, None, :]
    covered = covered.reshape(len(ties), _BLOCKS, ties.shape[1])
    ever = covered.any(1)
    first = np.where(ever, covered.argmax(1), _BLOCKS)
    order = np.argsort(first + ties, axis=1)
    mask = np.zeros(ties.shape, dtype=bool)
    np.put_along_axis(mask, order[:, :masked], True, axis=1)
    return mask


def visible_tokens(masks: NDArray[np.bool_], masked: int) -> NDArray[np.int64]:
    """Tokens that are not masked, ascending; int64 `[n, tokens - masked]`."""
    tokens = masks.shape[1]
    found: NDArray[np.int64] = np.argsort(masks, axis=1, kind="stable")
    return found[:, : tokens - masked]


def shuffles(
    tokens: int, offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """A permutation of the tokens for every row, int64 `[n, tokens]`."""
    found: NDArray[np.int64] = np.argsort(
        _uniform((tokens,), offsets, seeds, stream=4), axis=1
    )
    return found


def in_place(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The order that puts every token at its own place: nothing is shuffled.

    Contents are the visible tokens, then as many mask tokens as are masked.
    """
    tokens = np.argsort(masks, axis=1, kind="stable")
    found: NDArray[np.int64] = np.argsort(tokens, axis=1)
    return found


def _uniform(
    shape: tuple[int, ...],
    offsets: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    stream: int,
) -> NDArray[np.float64]:
    """Uniform numbers `[n, *shape]`, those of a group from its own seed."""
    out = np.empty((int(offsets[-1]), *shape))
    for rows, seed in _groups(offsets, seeds):
        draw = np.random.Generator(np.random.Philox(key=[int(seed), stream]))
        out[rows] = draw.random((rows.stop - rows.start, *shape))
    return out


def _groups(
    offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> Iterator[tuple[slice, np.uint64]]:
    for first, last, seed in zip(offsets, offsets[1:], seeds, strict=False):
        yield slice(int(first), int(last)), seed
