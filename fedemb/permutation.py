"""A keyed permutation of 0..size-1 that is evaluated only where it is needed.

The round's virtual clients are cuts of a shuffled user universe. Shuffling ten million
users to look up two thousand would cost O(population) every round; a format-preserving
permutation (Black and Rogaway 2002) answers "who sits in seat p?" in O(1).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), a mixing bijection."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class SeatPermutation:
    """Seat -> user, a bijection of `range(size)` chosen by `key`.

    A generalised Feistel network over residues a x b >= size with cycle walking. The
    privacy analysis holds for *every* fixed permutation, because the coins that draw
    the virtual clients are independent of it; only the mixing of users rests on its
    quality, so a fast round function is enough.

    Args:
        size: number of seats, at least 1.
        key: 32 bytes.

    Raises:
        ValueError: if size is not positive.

    Example:
        >>> users = SeatPermutation(10, bytes(32))(np.arange(10))
        >>> sorted(users.tolist()) == list(range(10))
        True
    """

    size: int
    key: bytes

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1.")

    def __call__(self, seats: NDArray[np.int64]) -> NDArray[np.int64]:
        """The users in `seats`, int64, same shape; seats must lie in range(size)."""
        out = self._encrypt(seats.astype(np.uint64))
        outside = out >= self.size
        while outside.any():  # fewer than one value in sqrt(size) leaves the range
            out[outside] = self._encrypt(out[outside])
            outside = out >= self.size
        return out.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows = math.isqrt(self.size - 1) + 1
        a, b = np.uint64(rows), np.uint64(-(-self.size // rows))
        left, right = values // b, values % b
        for k in range(0, _ROUNDS, 2):
            left = (left + mix64(right ^ self._round_key(k)) % a) % a
            right = (right + mix64(left ^ self._round_key(k + 1)) % b) % b
        return left * b + right

    def _round_key(self, index: int) -> np.uint64:
        words = np.frombuffer(self.key, dtype="<u8")
        return np.uint64(mix64(words[index % 4 : index % 4 + 1] + np.uint64(index))[0])
