"""Per-virtual-client sensitivity control, in the one place where it happens.

Every virtual client contributes to the released sum one vector on the integer lattice,
of norm at most C exactly, whatever it computed. That is the only fact about local
training that the privacy proof uses.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedemb.devices import received

_BITS = 20
_EXACT = 16  # lattice vectors whose sum float32 holds exactly: 16 * 2^20 = 2^24
_LEAST_CLIP_NORM = 1e-300
_FLOAT32_EPS = 2.0**-23
_BLOCK = 1024  # squares that are added in the floating-point type of a row
_LEAST_FLOAT32 = 2.0**-32  # smaller clip norms would have squares that underflow
# Float rounding moves a norm by a factor below 1 + 2^-14: 2^-14.9 at most in
# `row_norms`, and 2^-22 in scaling.
_ROUNDING_MARGIN = 2.0**-14


@dataclass(frozen=True)
class Lattice:
    """The grid on which clipped vectors and noise are added exactly, as integers.

    The spacing is g = C * 2^-20. Rounding moves a vector of dimension d by at most
    g * sqrt(d) / 2, so vectors are first clipped to C less that much.

    Attributes:
        clip_norm: C, in parameter units.
        dimension: d, the number of trained parameters.

    Raises:
        ValueError: if the clip norm is not positive and finite (or below 1e-300), or
            the dimension is so large that rounding would eat a tenth of the clip norm.

    Example:
        >>> lattice = Lattice(1.0, 100)
        >>> round(lattice.target_norm, 6)
        0.999934
    """

    clip_norm: float
    dimension: int

    def __post_init__(self) -> None:
        if not _LEAST_CLIP_NORM <= self.clip_norm < float("inf"):
            raise ValueError(
                f"clip_norm={self.clip_norm} must be finite and at least "
                f"{_LEAST_CLIP_NORM:g}, below which its lattice has no float spacing."
            )
        if self.target_norm < 0.9 * self.clip_norm:
            raise ValueError(
                f"{self.dimension} parameters are too many for a lattice of {_BITS} "
                "bits: rounding would take more than a tenth of the clip norm."
            )

    @property
    def spacing(self) -> float:
        """g, in parameter units."""
        return self.clip_norm * 2.0**-_BITS

    @property
    def target_norm(self) -> float:
        """The norm to clip to before rounding; the rounded norm is then at most C."""
        rounding = self.spacing * math.sqrt(self.dimension) / 2
        return (self.clip_norm - rounding) * (1 - _ROUNDING_MARGIN)

    def decode(self, total: Tensor) -> Tensor:
        """A lattice sum in parameter units, float64."""
        return total.to(torch.float64) * self.spacing


@dataclass(frozen=True)
class ClippedSum:
    """What leaves a worker: an exact sum over its virtual clients.

    Attributes:
        total: int64 `[P]`, the sum of clipped vectors in lattice units.
        unclipped: twice the number of clients whose norm was within the clip, less the
            number of clients: the sum of +1 (within) and -1 (clipped) votes.
        clients: number of virtual clients added; public only for fixed-size cohorts,
            so it is never used as a divisor.
        diagnostics: *not private*: raw norms and losses, for the operator's eyes.
    """

    total: Tensor
    unclipped: int
    clients: int
    diagnostics: "Diagnostics"

    def __add__(self, other: "ClippedSum") -> "ClippedSum":
        """Exact and associative, hence independent of the number of workers."""
        return ClippedSum(
            self.total + other.total,
            self.unclipped + other.unclipped,
            self.clients + other.clients,
            self.diagnostics + other.diagnostics,
        )

    @staticmethod
    def zero(dimension: int) -> "ClippedSum":
        """The sum over no virtual clients."""
        total = torch.zeros(dimension, dtype=torch.int64)
        return ClippedSum(total, 0, 0, Diagnostics())


@dataclass(frozen=True)
class Diagnostics:
    """Sums over raw, *non-private* quantities; never released, never used for training.

    Attributes:
        clients: finite virtual clients.
        non_finite: virtual clients whose delta was not finite and counted as zero.
        norm_sum: sum of the norms before clipping, in parameter units.
        clipped: virtual clients whose norm exceeded the clip.
        examples: training examples processed, counted once per local step.
    """

    clients: int = 0
    non_finite: int = 0
    norm_sum: float = 0.0
    clipped: int = 0
    examples: int = 0

    def __add__(self, other: "Diagnostics") -> "Diagnostics":
        return Diagnostics(
            self.clients + other.clients,
            self.non_finite + other.non_finite,
            self.norm_sum + other.norm_sum,
            self.clipped + other.clipped,
            self.examples + other.examples,
        )


def clip_to_lattice(deltas: Tensor, lattice: Lattice, examples: int = 0) -> ClippedSum:
    """Clip each row to the lattice and add the rows exactly.

    The guarantees are those of `LatticeSum`.

    Args:
        deltas: float `[clients, P]`; may be overwritten.
        lattice: clip norm and dimension.
        examples: training examples these rows come from, for the diagnostics.

    Example:
        >>> rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 0.0]])
        >>> result = clip_to_lattice(rows, Lattice(1.0, 2))
        >>> [round(x, 3) for x in Lattice(1.0, 2).decode(result.total).tolist()]
        [0.9, 1.2]
        >>> result.unclipped, result.diagnostics.non_finite
        (-1, 1)
    """
    total = LatticeSum(lattice, deltas.device)
    total.add(deltas, examples)
    return total.result()


class LatticeSum:
    """Clips vectors to the lattice and adds them up, in place.

    Formal guarantees, for every input whatsoever:

    - each row contributes an integer vector v with ||v|| * g <= C;
    - a row with any NaN or infinity contributes zeros, and the vote -1;
    - the sum is exact, so its order and grouping do not matter.

    | row | contributes |
    |---|---|
    | norm 0 | zeros, vote +1 |
    | norm <= C' | itself, rounded to the lattice, vote +1 |
    | norm > C' | itself scaled to norm C', rounded, vote -1 |
    | NaN, inf, or an overflowing norm | zeros, vote -1 |

    where C' = `lattice.target_norm`, a hair below C.

    Coordinates of a row are integers up to 2^20, which float32 holds exactly, and so it
    does sums of 16 of them. Rows are first added in their own floating-point type and
    carried into 64-bit integers in time. All of it stays on `device`, where the rows
    are, and only `result` waits for it.
    """

    def __init__(self, lattice: Lattice, device: torch.device) -> None:
        self._lattice = lattice
        self._total = torch.zeros(lattice.dimension, dtype=torch.int64, device=device)
        # finite rows, rows within the clip, and the sum of the finite rows' norms
        self._seen = torch.zeros(3, dtype=torch.float64, device=device)
        self._carry: Tensor | None = None
        self._held = 0
        self._clients = 0
        self._examples = 0

    def add(self, deltas: Tensor, examples: int = 0) -> None:
        """Add the rows of `deltas` `[clients, P]`, which may be overwritten.

        `examples` were used to train them; for the diagnostics.
        """
        lattice = self._lattice
        kind = torch.finfo(deltas.dtype)
        if kind.eps > _FLOAT32_EPS or lattice.clip_norm < _LEAST_FLOAT32:
            deltas = deltas.to(torch.float64)  # half precision, or a minute clip norm
        norms = row_norms(deltas)
        finite = torch.isfinite(norms)
        within = finite & (norms <= lattice.target_norm)
        # Written so that NaN cannot pass: rows are zeroed by mask, never by arithmetic.
        scale = torch.where(within, 1.0, lattice.target_norm / norms) / lattice.spacing
        scale = torch.where(finite, scale, 0.0)
        deltas.mul_(scale.to(deltas.dtype)[:, None]).round_()
        # On a processor it costs less to ask than to go over all rows once more.
        if deltas.device.type != "cpu" or not bool(finite.all()):
            deltas.masked_fill_(~finite[:, None], 0.0)
        for start in range(0, len(deltas), _EXACT):
            self._add_integers(deltas[start : start + _EXACT])
        self._seen += torch.stack(
            [
                finite.sum(dtype=torch.float64),
                within.sum(dtype=torch.float64),
                torch.where(finite, norms, 0.0).sum(),
            ]
        )
        self._clients += len(deltas)
        self._examples += examples

    def result(self) -> ClippedSum:
        """The sum so far, on the host."""
        self._flush()
        finite, within, norm_sum = self._seen.tolist()
        good, unclipped = int(finite), int(within)
        diagnostics = Diagnostics(
            clients=good,
            non_finite=self._clients - good,
            norm_sum=norm_sum,
            clipped=good - unclipped,
            examples=self._examples,
        )
        votes = 2 * unclipped - self._clients
        total = received(self._total)
        return ClippedSum(total, votes, self._clients, diagnostics)

    def _add_integers(self, rows: Tensor) -> None:
        carry = self._carry
        if (
            carry is None
            or carry.dtype != rows.dtype
            or self._held + len(rows) > _EXACT
        ):
            self._flush()
            carry = self._carry = None
        if carry is None:
            self._carry = rows[0].clone() if len(rows) == 1 else rows.sum(dim=0)
        elif len(rows) == 1:
            carry.add_(rows[0])
        else:
            carry.add_(rows.sum(dim=0))
        self._held += len(rows)

    def _flush(self) -> None:
        if self._carry is not None:
            self._total.add_(self._carry.to(torch.int64))
        self._carry, self._held = None, 0


def row_norms(rows: Tensor) -> Tensor:
    """Norms `[n]`, float64, of rows `[n, P]`, off by a factor below 1 + 2^-14.9.

    Squares are added in the rows' own type in blocks of k = 1024, and the blocks in
    float64. In whichever order a block is added, its sum is off by at most the factor
    1 + k u / (1 - k u) (Higham 2002, Accuracy and Stability of Numerical Algorithms,
    section 3.1), which is below 1 + 2^-13.9 for float32, where u = 2^-24; taking the
    root halves that. What underflows is below 2^-126 for each of P squares, and counts
    for nothing against norms of 2^-32 and more. A block whose squares overflow makes
    the norm infinite.

    Example:
        >>> row_norms(torch.tensor([[3.0, 4.0], [0.0, float("inf")]])).tolist()
        [5.0, inf]
    """
    count = rows.shape[1] // _BLOCK
    blocks, rest = rows[:, : count * _BLOCK], rows[:, count * _BLOCK :]
    of_blocks = torch.linalg.vector_norm(
        torch.unflatten(blocks, 1, (count, _BLOCK)), dim=2
    )
    parts = torch.cat([of_blocks, rest], dim=1)
    norms: Tensor = torch.linalg.vector_norm(parts, dim=1, dtype=torch.float64)
    return norms


def check_headroom(clients: int, noise_multiplier: float) -> None:
    """Refuse a sum that could overflow int64.

    A coordinate of one client is at most 2^20 lattice units, and noise at most
    9 z 2^20, so the sum of m clients stays below (m + 9 z + 1) 2^20.

    Raises:
        ValueError: if that bound reaches 2^62.
    """
    if (clients + 9 * noise_multiplier + 1) * 2**_BITS >= 2**62:
        raise ValueError(
            f"{clients} virtual clients and noise multiplier {noise_multiplier:g} "
            "could overflow the 64-bit sum; use fewer clients per round."
        )


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """Quantile-based adaptive clipping (Andrew et al. 2021, arXiv:1905.03871).

    The clip norm follows the `quantile` of the clients' norms by geometric steps,
    C <- C * exp(-learning_rate * (b - quantile)), where b is the noisy fraction of
    clients within the clip. The noisy count shares the round's budget: with the vote
    centred at +-1/2, one client moves (delta / z_value C, vote / s_b) by at most 1 / z
    when z_value = (z^-2 - (2 s_b)^-2)^-1/2. The argument bounds a client's *joint*
    vector, so it holds for the antipodal pair of several users per client as well.

    Attributes:
        quantile: target fraction of clients within the clip, in [0, 1].
        learning_rate: step of log C per round.
        count_stddev: s_b, standard deviation of the noise on the count of clients;
            None is a twentieth of the expected number of clients.
    """

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile={self.quantile} must be in [0, 1].")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        if self.count_stddev is not None and self.count_stddev <= 0:
            raise ValueError(f"count_stddev={self.count_stddev} must be positive.")

    def stddev(self, expected_clients: float) -> float:
        """s_b for this many expected clients."""
        return self.count_stddev or expected_clients / 20

    def value_noise_multiplier(
        self, noise_multiplier: float, expected_clients: float
    ) -> float:
        """The noise multiplier to add to the sum so that the accounted one is kept.

        Raises:
            ValueError: if z >= 2 s_b, where no noise on the sum could be enough.

        Example:
            >>> round(AdaptiveClipping().value_noise_multiplier(1.0, 100), 4)
            1.005
        """
        if noise_multiplier == 0:
            return 0.0
        twice = 2 * self.stddev(expected_clients)
        if noise_multiplier >= twice:
            raise ValueError(
                f"noise_multiplier={noise_multiplier:g} must be below twice the "
                "count's "
                f"standard deviation, {twice:g}; raise count_stddev or the cohort."
            )
        return float((noise_multiplier**-2 - twice**-2) ** -0.5)

    def next_clip_norm(
        self, clip_norm: float, votes: float, expected_clients: float
    ) -> float:
        """C for the next round, from noisy votes (sum of +-1/2 per client).

        The fraction is clamped to [0, 1], so |ln(C' / C)| <= learning_rate.
        """
        fraction = min(max(votes / expected_clients + 0.5, 0.0), 1.0)
        return clip_norm * math.exp(-self.learning_rate * (fraction - self.quantile))
