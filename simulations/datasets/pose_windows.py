"""Windows of recorded motions: which frames they hold, and gaps that are filled.

A recording is cut into windows of T frames that do not overlap; what is left over at
its end belongs to none. Nothing is padded: training draws any pose of a window, and a
pose of zeros would be drawn like the others.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FRAMES = 16
"""Frames of a window, unless another number is asked for."""

LEAST_SEEN = 0.5
"""Share of a window's frames in which a joint must have been seen."""


def starts(frames: int, length: int) -> range:
    """First frames of the windows of a recording.

    Example:
        >>> list(starts(40, 16))
        [0, 16]
    """
    return range(0, frames - length + 1, length)


def whole_windows(
    values: NDArray[np.floating], length: int
) -> list[NDArray[np.float64]]:
    """Windows of a recording in which every joint was seen often enough.

    Guarantees: all values are finite; those of joints that were seen are unchanged. A
    joint that was not seen in a frame moves evenly between the frames that saw it, and
    rests before the first and after the last of them.

    Args:
        values: `[T, J, D]`; a joint that is not finite was not seen.
        length: frames of a window.

    Returns:
        Of the windows, in order, those in which every joint was seen in at least half
        of the frames, `[length, J, D]` each.

    Example:
        >>> x = np.array([0.0, np.nan, 4.0, np.nan, np.nan, 7.0]).reshape(6, 1, 1)
        >>> [w.ravel().tolist() for w in whole_windows(x, 3)]
        [[0.0, 2.0, 4.0]]
    """
    seen = np.isfinite(values).all(-1)
    found = []
    for start in starts(len(values), length):
        frames = slice(start, start + length)
        if (seen[frames].mean(0) >= LEAST_SEEN).all():
            found.append(_filled(values[frames], seen[frames]))
    return found


def _filled(
    values: NDArray[np.floating], seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    filled = np.array(values, dtype=np.float64)
    time = np.arange(len(values))
    for joint in np.flatnonzero(~seen.all(0)):
        known = np.flatnonzero(seen[:, joint])
        for axis in range(values.shape[-1]):
            filled[:, joint, axis] = np.interp(time, known, values[known, joint, axis])
    return filled


def used_windows(
    counts: Sequence[int], held_out: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which windows of recordings become rows: all in training, else the middle one.

    Classifiers that are judged learn from some held-out rows and are tried on others;
    with one window of each recording, none is on both sides.

    Args:
        counts: windows of each recording, `[R]`, at least one.
        held_out: whether it is for evaluation, bool `[R]`.

    Returns:
        Of each row the recording, and its place among all windows, `[n]` each.

    Example:
        >>> used_windows([2, 3], np.array([False, True]))
        (array([0, 0, 1]), array([0, 1, 3]))
    """
    sizes = np.array(counts, dtype=np.int64)
    recording = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(recording))
    middle = np.cumsum(sizes) - sizes + (sizes - 1) // 2
    used = ~held_out[recording] | (place == middle[recording])
    return recording[used], place[used]
