"""Numbers for generators: every draw is a hash of (seed, purpose, counter).

Not for privacy: the generators' seeds are public. What matters here is that a draw
depends on nothing but its own counter, and that a whole cohort is drawn at once.
"""

import numpy as np
from numpy.typing import NDArray

from fedemb.permutation import mix64


def mix_seed(
    counters: NDArray[np.uint64], seed: int, purpose: int
) -> NDArray[np.uint64]:
    """One word per counter, uint64, same shape.

    Example:
        >>> both = mix_seed(np.array([4, 9], dtype=np.uint64), 0, 1)
        >>> bool(both[1] == mix_seed(np.array([9], dtype=np.uint64), 0, 1)[0])
        True
    """
    salt = mix64(np.array([(seed * 1_000_003 + purpose) % 2**64], dtype=np.uint64))
    return mix64(mix64(counters ^ salt) + np.uint64(purpose))


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform on [0, 1), float64, same shape."""
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def signed(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform on [-1, 1), float64, same shape."""
    return 2.0 * uniform(words) - 1.0


def integers(words: NDArray[np.uint64], below: int) -> NDArray[np.int64]:
    """Integers in `range(below)`, int64, same shape."""
    return (words % np.uint64(below)).astype(np.int64)
