"""Counter-based randomness: every draw is a function of (root key, purpose, counters).

Nothing is drawn from a global generator and nothing has to be replayed to resume: the
cohort of round 712 is `derive("cohort", 712)`, whoever asks and however often.

The stream is ChaCha20 (Bernstein 2008; RFC 8439), keyed by the operating system unless
the user asks for a seed. A seeded run is reproducible, and its noise is private only to
those who do not know the seed; `RootKey.seeded` lets the statement say so.
"""

import hashlib
import math
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from fedemb.cores import usable_cores

_BLOCK = 1 << 14  # normals drawn at a time: 128 KiB in, 128 KiB out, stays in cache
_THREADS = min(4, usable_cores())  # the numbers do not depend on it


@dataclass(frozen=True)
class RootKey:
    """The secret from which one run draws all its randomness.

    Attributes:
        secret: 32 bytes.
        seeded: whether the secret was derived from a user's seed.

    Raises:
        ValueError: if the secret is not 32 bytes long.

    Example:
        >>> key = RootKey.from_seed(7)
        >>> key.derive("noise", 1) == key.derive("noise", 1)
        True
        >>> key.derive("noise", 1) == key.derive("noise", 2)
        False
    """

    secret: bytes = field(repr=False)
    seeded: bool

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ValueError(f"the secret has {len(self.secret)} bytes, needs 32.")

    @staticmethod
    def from_system() -> "RootKey":
        """256 bits of entropy from the operating system."""
        return RootKey(secrets.token_bytes(32), seeded=False)

    @staticmethod
    def from_seed(seed: int) -> "RootKey":
        """A reproducible key; its noise is public to whoever knows the seed."""
        return RootKey(hashlib.sha256(f"fedemb seed {seed}".encode()).digest(), True)

    def derive(self, purpose: str, *counters: int) -> bytes:
        """A 32-byte key for one purpose; distinct arguments give independent keys.

        Keyed BLAKE2b (RFC 7693) is a pseudo-random function of its message.
        """
        message = "|".join([purpose, *map(str, counters)]).encode()
        return hashlib.blake2b(message, key=self.secret, digest_size=32).digest()

    def seeds(
        self, purpose: str, round_index: int, ids: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """One 64-bit seed per id, uint64 `[ids]`; seed i depends on id i alone."""
        prefix = hashlib.blake2b(key=self.derive(purpose, round_index), digest_size=8)
        return np.array([_extend(prefix, int(i)) for i in ids], dtype=np.uint64)


def _extend(prefix: "hashlib.blake2b", value: int) -> int:
    copy = prefix.copy()
    copy.update(value.to_bytes(8, "little"))
    return int.from_bytes(copy.digest(), "little")


class KeyStream:
    """A ChaCha20 stream of random words.

    Args:
        key: 32 bytes.
        skip: words to leave out at the start, fewer than 2^35; costs nothing.

    Example:
        >>> KeyStream(bytes(32)).words(2).tolist()
        [10393729187455219830, 2935650227004792128]
    """

    def __init__(self, key: bytes, skip: int = 0) -> None:
        # A derived key is used for one stream only, so a constant nonce is sound. The
        # block counter comes first; a block has 8 words.
        nonce = (skip // 8).to_bytes(4, "little") + bytes(12)
        self._cipher = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()
        self.words(skip % 8)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` uniform 64-bit words, uint64 `[count]`."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Uniform on the open interval (0, 1) at 53 bits, float64 `[count]`."""
        values = (self.words(count) >> np.uint64(11)).astype(np.float64)
        values += 0.5
        values *= 2.0**-53
        return values

    def normals(self, count: int) -> NDArray[np.float64]:
        """Standard normal variates, float64 `[count]`.

        Box and Muller (1958). With 53-bit uniforms the tails reach 8.6 standard
        deviations, beyond which lies a mass of 2^-54.
        """
        out = np.empty(count)
        for start in range(0, count, _BLOCK):
            part = out[start : start + _BLOCK]
            half = (len(part) + 1) // 2
            uniform = self.uniforms(2 * half)
            radius = np.log(uniform[:half])
            radius *= -2.0
            np.sqrt(radius, out=radius)
            angle = uniform[half:]
            angle *= 2.0 * math.pi
            part[:half] = radius * np.cos(angle)
            part[half:] = (radius * np.sin(angle))[: len(part) - half]
        return out


def lattice_normals(key: bytes, count: int, scale: float) -> NDArray[np.int64]:
    """Gaussian noise of standard deviation `scale`, rounded to integers, `[count]`.

    Rounding an exact sum's Gaussian noise is post-processing of the Gaussian mechanism,
    because the sum itself lies on the lattice: round(sum + N) = sum + round(N).
    """
    out = np.empty(count, dtype=np.int64)
    share = -(-count // _BLOCK // _THREADS) * _BLOCK or _BLOCK
    starts = range(0, count, share)
    if len(starts) < 2:
        _fill_normals(out, KeyStream(key), scale)
        return out
    # The words before a multiple of the block are as many as the normals.
    with ThreadPoolExecutor(len(starts)) as pool:
        done = [
            pool.submit(_fill_normals, out[at : at + share], KeyStream(key, at), scale)
            for at in starts
        ]
    for part in done:
        part.result()
    return out


def _fill_normals(out: NDArray[np.int64], stream: KeyStream, scale: float) -> None:
    for start in range(0, len(out), _BLOCK):
        part = out[start : start + _BLOCK]
        noise = stream.normals(len(part))
        noise *= scale
        np.rint(noise, out=noise)
        part[:] = noise
