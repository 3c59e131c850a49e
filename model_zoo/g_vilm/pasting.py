"""Cut and paste: a stretch of one clip inside another, both of one virtual client."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

PASTE_SOURCES = ("same_virtual_client", "same_user", "none")
"""Whose clips surround a pasted one. Never those of another virtual client."""


@dataclass(frozen=True)
class Pasted:
    """Which clip is where, in units of tubes.

    Attributes:
        host: int64 `[n]`, the row whose clip surrounds the row's own; the row itself
            where there was no other to paste into.
        mask: bool `[n, N_t]`, true where the row's own clip shows.
    """

    host: NDArray[np.int64]
    mask: NDArray[np.bool_]


def plan_pasting(
    offsets: NDArray[np.int64], units: int, seeds: NDArray[np.uint64]
) -> Pasted:
    """Draw hosts and stretches; hosts are other rows of the same group.

    The hosts of a group are a permutation without a fixed point. A stretch is at least
    half as long as a clip and shorter than it; a group of one row stays whole.

    Args:
        offsets: int64 `[groups + 1]`; a group is a virtual client.
        units: N_t, tubes along a clip.
        seeds: one per group; a group's drawing depends on nothing else.

    Raises:
        UserError: clips of a single tube, which cannot be cut.

    Example:
        >>> drawn = plan_pasting(np.array([0, 3, 4]), 4, np.array([1, 2], np.uint64))
        >>> sorted(drawn.host[:3].tolist()), int(drawn.host[3])
        ([0, 1, 2], 3)
    """
    if units < 2:
        raise UserError(f"clips of {units} tube cannot be cut; use shorter tubes.")
    rows = int(offsets[-1])
    host = np.arange(rows, dtype=np.int64)
    mask = np.ones((rows, units), dtype=bool)
    for first, last, seed in zip(offsets, offsets[1:], seeds, strict=False):
        count = int(last - first)
        if count < 2:
            continue
        draw = np.random.Generator(np.random.Philox(int(seed)))
        order = draw.permutation(count)
        shift = int(draw.integers(1, count))
        host[first + order] = first + np.roll(order, shift)
        lengths = draw.integers((units + 1) // 2, units, count)
        starts = draw.integers(0, units - lengths + 1)
        at = np.arange(units)[None, :]
        mask[first:last] = (at >= starts[:, None]) & (at < (starts + lengths)[:, None])
    return Pasted(host, mask)


def by_owner(
    owners: NDArray[np.int64], offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Groups cut further into those of one user each; their offsets and seeds.

    Rows of one user must stand together, as they do in a virtual client.

    Example:
        >>> ends, _ = by_owner(np.array([0, 0, 1]), np.array([0, 3]), np.ones(1, "u8"))
        >>> ends.tolist()
        [0, 2, 3]
    """
    inner, own = [0], []
    for first, last, seed in zip(offsets, offsets[1:], seeds, strict=False):
        cuts = np.flatnonzero(np.diff(owners[first:last])) + 1 + first
        for number, end in enumerate([*cuts.tolist(), int(last)]):
            sequence = np.random.SeedSequence([int(seed), number])
            inner.append(end)
            own.append(int(sequence.generate_state(1, np.uint64)[0]))
    return np.array(inner, np.int64), np.array(own, np.uint64)


def paste(
    clips: NDArray[np.generic], pasted: Pasted, frames_per_unit: int
) -> NDArray[np.generic]:
    """Clips `[n, T, ...]`: their own frames under the mask, their host's elsewhere."""
    frames = np.repeat(pasted.mask, frames_per_unit, axis=1)
    shape = (*frames.shape, *(1,) * (clips.ndim - 2))
    return np.where(frames.reshape(shape), clips, clips[pasted.host])
