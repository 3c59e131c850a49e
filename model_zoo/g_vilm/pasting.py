"""Cut and paste: a stretch of one clip inside another.

Both are of one virtual client, or the one around it is public: never another's.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

PASTE_SOURCES = ("same_virtual_client", "same_user", "public", "none")
"""Whose clips surround a pasted one. Never those of another virtual client."""


@dataclass(frozen=True)
class Pasted:
    """Which clip is where, in units of tubes.

    Attributes:
        host: int64 `[n]`, the row whose clip surrounds the row's own; the row itself
            where there was no other to paste into. Rows of public clips if those are
            the source.
        mask: bool `[n, N_t]`, true where the row's own clip shows.
    """

    host: NDArray[np.int64]
    mask: NDArray[np.bool_]


def plan_pasting(
    offsets: NDArray[np.int64], units: int, seeds: NDArray[np.uint64]
) -> Pasted:
    """Draw stretches, and hosts among the other rows of the same group.

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
    _refuse_single(units)
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
        mask[first:last] = _stretches(draw, units, count)
    return Pasted(host, mask)


def plan_public_pasting(
    offsets: NDArray[np.int64], units: int, seeds: NDArray[np.uint64], hosts: int
) -> Pasted:
    """Draw stretches, and hosts among so many public clips; single rows are cut, too.

    A row's drawing depends on its place in its group and on the group's seed alone, not
    on how many rows the group has.

    Args:
        offsets: int64 `[groups + 1]`; a group is a virtual client.
        units: N_t, tubes along a clip.
        seeds: one per group.
        hosts: number of public clips.

    Raises:
        UserError: clips of a single tube, which cannot be cut.

    Example:
        >>> drawn = plan_public_pasting(np.array([0, 3]), 4, np.ones(1, "u8"), 2)
        >>> bool((drawn.host < 2).all()), drawn.mask.shape
        (True, (3, 4))
    """
    _refuse_single(units)
    rows = int(offsets[-1])
    host = np.empty(rows, dtype=np.int64)
    mask = np.empty((rows, units), dtype=bool)
    for first, last, seed in zip(offsets, offsets[1:], seeds, strict=False):
        draw = np.random.Generator(np.random.Philox(int(seed)))
        for row in range(int(first), int(last)):
            host[row] = draw.integers(hosts)
            mask[row] = _stretches(draw, units, 1)[0]
    return Pasted(host, mask)


@lru_cache(maxsize=2)
def public_clips(path: str) -> NDArray[np.uint8]:
    """The clips of a `.npy` file, `[n, T, H, W, 3]`.

    Raises:
        UserError: no such file, or an array of something else.
    """
    try:
        found: NDArray[np.uint8] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"public_clips={path!r} cannot be read: {error}. Write the file with "
            "numpy.save."
        ) from error
    good = found.ndim == 5 and found.shape[-1] == 3 and len(found)
    if not good or found.dtype != np.uint8:
        raise UserError(
            f"public_clips={path!r} holds {found.dtype} {list(found.shape)} and must "
            "hold uint8 [n, frames, height, width, 3], n at least 1."
        )
    found.flags.writeable = False  # shared by all who ask for it
    return found


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
    clips: NDArray[np.generic],
    pasted: Pasted,
    frames_per_unit: int,
    hosts: NDArray[np.generic] | None = None,
) -> NDArray[np.generic]:
    """Clips `[n, T, ...]`: their own frames under the mask, their host's elsewhere.

    Args:
        clips: `[n, T, ...]`.
        pasted: which clip is where.
        frames_per_unit: frames of a tube.
        hosts: public clips `[m, T, ...]`; None is the clips themselves.

    Raises:
        UserError: public clips of another shape.
    """
    around = clips if hosts is None else hosts
    if around.shape[1:] != clips.shape[1:]:
        raise UserError(
            f"public clips {list(around.shape[1:])} must be shaped as the clips that "
            f"are trained on, {list(clips.shape[1:])} (frames, height, width, 3)."
        )
    frames = np.repeat(pasted.mask, frames_per_unit, axis=1)
    shape = (*frames.shape, *(1,) * (clips.ndim - 2))
    return np.where(frames.reshape(shape), clips, around[pasted.host])


def _stretches(draw: np.random.Generator, units: int, count: int) -> NDArray[np.bool_]:
    """At least half as long as a clip, and shorter than it, `[count, N_t]`."""
    lengths = draw.integers((units + 1) // 2, units, count)
    starts = draw.integers(0, units - lengths + 1)
    at = np.arange(units)[None, :]
    return (at >= starts[:, None]) & (at < (starts + lengths)[:, None])


def _refuse_single(units: int) -> None:
    if units < 2:
        raise UserError(f"clips of {units} tube cannot be cut; use shorter tubes.")
