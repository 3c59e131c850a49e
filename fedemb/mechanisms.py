"""Noise mechanisms: how the noise of a round relates to the noise of other rounds.

One small class each. Like a sampler, it draws *and* says what to account for, so what
is drawn and what is accounted cannot disagree. The noise of a round is a function of
(key, round) alone: an interrupted run repeats it bit for bit.

**Rounding correlated noise is post-processing.** A round adds integers: the exact sum
x_t of clipped lattice vectors, and the noise in lattice units, rounded. With S the
strategy and N its Gaussian noise, what is private is S x + N (`accounting.matrices`).
Tree: x and every node sum are integers, so node + round(N) = round(node + N), and the
released differences of prefix sums are integer combinations of rounded nodes. Bands:
S^-1 (S x + N) = x + n with n = S^-1 N, and x_t + round(n_t) = round(x_t + n_t). Either
is a function of S x + N that looks at no data, hence as private. Only rounded values
meet the sum, so the low-order bits of floats say nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accounting import Noise, SampledGaussian
from accounting.banded import BandedStrategy, optimise_banded
from accounting.correlated import participation
from accounting.matrices import Participation
from fedemb.errors import UserError
from fedemb.randomness import KeyStream, RootKey, lattice_normals

MOST_BANDS = 32
"""Bands by default, at most: as many copies of the parameters are held in memory."""


class Mechanism(Protocol):
    """Draws the noise of a round and names what was run."""

    @property
    def headroom(self) -> float:
        """A bound of a round's noise, in units of the largest single draw."""
        ...

    def accounted(self, sampled: SampledGaussian) -> SampledGaussian:
        """The record of `sampled` with this noise.

        Raises:
            UserError: if nothing is proved for the two together.
        """
        ...

    def draw(
        self, key: RootKey, round_index: int, count: int, scale: float
    ) -> NDArray[np.int64]:
        """Lattice noise of a round `[count]`; a single draw has deviation `scale`."""
        ...

    def gain(self, round_index: int) -> float:
        """Standard deviation of a round's noise over that of a single draw."""
        ...


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Independent noise in every round (the default)."""

    @property
    def headroom(self) -> float:
        """One draw a round."""
        return 1.0

    def accounted(self, sampled: SampledGaussian) -> SampledGaussian:
        """As it is."""
        return sampled

    def draw(
        self, key: RootKey, round_index: int, count: int, scale: float
    ) -> NDArray[np.int64]:
        """From a key of this round alone; no two rounds share noise."""
        return lattice_normals(key.derive("noise", round_index), count, scale)

    def gain(self, round_index: int) -> float:
        """1."""
        del round_index
        return 1.0


@dataclass(frozen=True, kw_only=True)
class TreeNoise:
    """Tree aggregation, DP-FTRL (Kairouz et al. 2021, arXiv:2103.00039).

    The rounds until a restart are the leaves of binary trees. Every complete node has
    noise of its own, keyed by its level and place. The noisy sum of the first n rounds
    is that of the nodes that n is written with in binary; a round releases its change.
    So the noise on a running sum of n rounds has variance at most log2(n) + 1 draws,
    not n, and no sampling needs to be random.

    Attributes:
        restart_every: rounds of a tree; the whole run for a single one.

    Example:
        >>> tree, key = TreeNoise(restart_every=8), RootKey.from_seed(0)
        >>> rounds = [tree.draw(key, t, 4, 1e6) for t in range(8)]
        >>> bool((sum(rounds) == tree.node(key, 0, 3, 0, 4, 1e6)).all())
        True
    """

    restart_every: int

    def __post_init__(self) -> None:
        if self.restart_every < 1:
            raise UserError(f"restart_every={self.restart_every} must be at least 1.")

    @property
    def headroom(self) -> float:
        """A round adds one node and takes away the nodes below it."""
        return float(self.restart_every.bit_length())

    def accounted(self, sampled: SampledGaussian) -> SampledGaussian:
        """One Gaussian release for every tree."""
        return _with_noise(
            sampled, noise=Noise.TREE, rounds_per_period=self.restart_every
        )

    def draw(
        self, key: RootKey, round_index: int, count: int, scale: float
    ) -> NDArray[np.int64]:
        """The new node's noise, less that of the nodes it takes the place of."""
        tree, place = divmod(round_index, self.restart_every)
        (level, index), *gone = _change(place + 1)
        noise = self.node(key, tree, level, index, count, scale)
        for below, there in gone:
            noise -= self.node(key, tree, below, there, count, scale)
        return noise

    @staticmethod
    def node(
        key: RootKey, tree: int, level: int, index: int, count: int, scale: float
    ) -> NDArray[np.int64]:
        """Noise of the node over rounds [index 2^level, (index + 1) 2^level)."""
        return lattice_normals(key.derive("node", tree, level, index), count, scale)

    def gain(self, round_index: int) -> float:
        """Root of the number of nodes that change."""
        place = round_index % self.restart_every
        return math.sqrt(sum(1 for _ in _change(place + 1)))


@dataclass(frozen=True, kw_only=True)
class BandedNoise:
    """Banded matrix factorisation (Choquette-Choo et al. 2023, arXiv:2306.08153).

    With fresh draws N_t and a strategy whose bands are s, the noise of a round is
    n_t = (N_t - s_1 n_(t-1) - ... - s_(b-1) n_(t-b+1)) / s_0: it takes back part of the
    noise of the rounds before.

    It remembers the noise of the last b - 1 rounds, in memory only and never in a
    checkpoint, as whoever knows it can subtract it. Forgetting changes nothing but the
    time: it is recomputed from the keys of the rounds.

    Attributes:
        strategy: its bands and the rounds until it starts afresh, or of the whole run.

    Example:
        >>> noise = BandedNoise(strategy=BandedStrategy(bands=(1.0, 0.5), rounds=9))
        >>> key = RootKey.from_seed(0)
        >>> later = noise.draw(key, 3, 2, 1e6)
        >>> bool((noise.draw(key, 3, 2, 1e6) == later).all()), round(noise.gain(1), 3)
        (True, 1.118)
    """

    strategy: BandedStrategy
    _recent: dict[bytes, tuple[int, list[NDArray[np.float64]]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def _coefficients(self) -> NDArray[np.float64]:
        return self.strategy.noise_coefficients

    @property
    def headroom(self) -> float:
        """Sum of the weights of all draws in a round."""
        return float(np.abs(self._coefficients).sum())

    def accounted(self, sampled: SampledGaussian) -> SampledGaussian:
        """One Gaussian release for all rounds, or one for every b under sampling."""
        bands = self.strategy.bands
        if sampled.bands is None:
            return _with_noise(
                sampled,
                noise=Noise.BANDED,
                bands=bands,
                rounds_per_period=self.strategy.rounds,
            )
        if len(sampled.bands) != len(bands):
            raise UserError(
                f"bands={len(bands)} of the noise must equal the {len(sampled.bands)} "
                "groups that are drawn from in turn."
            )
        return _with_noise(sampled, bands=bands)

    def draw(
        self, key: RootKey, round_index: int, count: int, scale: float
    ) -> NDArray[np.int64]:
        """The round's noise, rounded once."""
        run, place = divmod(round_index, self.strategy.rounds)
        whose = key.derive(f"bands of {count} at {scale!r}", run)
        known, recent = self._recent.get(whose, (0, []))
        if known > place:
            known, recent = 0, []
        first, *rest = self.strategy.bands
        noise = np.zeros(count)
        for t in range(known, place + 1):
            noise = KeyStream(key.derive("band", run, t)).normals(count)
            noise *= scale
            for weight, earlier in zip(rest, recent, strict=False):
                noise -= weight * earlier
            noise /= first
            recent = [noise, *recent][: len(rest)]
        self._recent.clear()
        self._recent[whose] = (place + 1, recent)
        return np.rint(noise).astype(np.int64)

    def gain(self, round_index: int) -> float:
        """Norm of the weights of the draws so far."""
        place = round_index % self.strategy.rounds
        return float(np.linalg.norm(self._coefficients[: place + 1]))


def banded_noise(
    sampled: SampledGaussian, *, rounds: int, bands: int | None
) -> BandedNoise:
    """Banded noise with a strategy optimised for a sampler and a number of rounds.

    Args:
        sampled: the sampler's record; several bands in it mean that as many groups are
            drawn from in turn.
        rounds: until the noise starts afresh, or of the whole run.
        bands: of the strategy; as many as the sampler allows, at most `MOST_BANDS`, by
            default.

    Raises:
        UserError: if users return within the bands.
    """
    if sampled.bands is not None:  # amplified: a user's rounds share no row
        part, most = Participation(rounds=rounds), len(sampled.bands)
    else:
        tried = _with_noise(
            sampled, noise=Noise.BANDED, bands=(1.0,), rounds_per_period=rounds
        )
        part = participation(tried)
        most = part.separation if part.possible > 1 else rounds
    wanted = min(most, rounds, MOST_BANDS) if bands is None else bands
    try:
        best = optimise_banded(part, bands=wanted)
    except ValueError as error:
        raise UserError(f"{error} Use a smaller cohort, or fewer bands.") from error
    # Rounded, so that the record in a ledger does not hang on the last digit.
    weights = [round(weight, 9) for weight in best.bands]
    groups = len(sampled.bands or ())
    weights += [0.0] * (groups - len(weights))
    return BandedNoise(strategy=BandedStrategy(bands=tuple(weights), rounds=rounds))


def make_noise(
    name: str,
    sampled: SampledGaussian,
    *,
    rounds: int,
    restart_every: int | None = None,
    bands: int | None = None,
) -> Mechanism:
    """The noise mechanism called `name`: gaussian, tree or banded.

    Args:
        name: as in `fedemb simulate --mechanism`.
        sampled: the sampler's record; its noise multiplier does not matter.
        rounds: of the whole run.
        restart_every: rounds until correlated noise starts afresh; None is never.
        bands: of banded noise; None takes what sampler and rounds allow.

    Raises:
        UserError: if there is no such noise, or nothing is proved for the two together.
    """
    length = restart_every or rounds
    if name == "tree":
        return TreeNoise(restart_every=length)
    if name == "banded":
        return banded_noise(sampled, rounds=length, bands=bands)
    if name == "gaussian":
        return GaussianNoise()
    raise UserError(f"mechanism={name!r} must be gaussian, tree or banded.")


def _with_noise(sampled: SampledGaussian, **numbers: object) -> SampledGaussian:
    try:
        return replace(sampled, **numbers)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(str(error)) from error


def _change(rounds: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the node that `rounds` completes, then of those it replaces."""
    level = (rounds & -rounds).bit_length() - 1
    yield level, (rounds >> level) - 1
    for below in range(level):
        yield below, ((rounds - 1) >> below) - 1
