"""Privacy loss distributions of compositions, through dp-accounting.

Guarantee: with `pessimistic=True` the discretised distribution dominates the true one
("connect the dots", Doroshenko et al., 2022, arXiv:2207.04380), so every epsilon read
from it is an upper bound whatever the grid. The grid only decides how tight it is.

Choosing the grid. Splitting a loss onto a grid of width h adds a variance of h^2/6 on
average to each of T steps and keeps E[exp(-loss)], hence it inflates the variance of
the sum, and with it epsilon, by about h^2 / (6 v), where v is the second moment of one
step's loss. The width is therefore taken relative to sqrt(v), which makes time and
memory independent of epsilon: the sum spreads over a few sqrt(T v), that is sqrt(T)
cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accounting.errors import UnsupportedMechanism
from accounting.mechanism import DominatingPair

RELATIVE_WIDTH = 0.03
"""Grid width over the root mean square loss: inflates epsilon by about 1e-4."""

MOST_CELLS = 1 << 16
"""Cells of one step's distribution, at most: bounds memory to a few megabytes."""

SMALLEST_DELTA = 1e-12
"""Below it the rounding of fast Fourier transforms is no longer negligible."""

_LARGEST_WIDTH = 0.05
_LEAST_NOISE = 0.02


@dataclass(frozen=True, kw_only=True)
class Step:
    """`count` Poisson-sampled Gaussian releases, as their dominating pair.

    Attributes:
        sampling_probability: q in (0, 1].
        noise_multiplier: z > 0 of the pair.
        pair: which pair.
        count: how many releases.
        truncation: (size of the universe, most units drawn) under truncated Poisson
            sampling, in the units that are drawn.
    """

    sampling_probability: float
    noise_multiplier: float
    pair: DominatingPair
    count: int
    truncation: tuple[int, int] | None = None

    @property
    def merged(self) -> "Step":
        """Unsampled releases merge into one: k of them are one with z / sqrt(k)."""
        if self.sampling_probability < 1 or self.truncation is not None:
            return self
        z = self.noise_multiplier / math.sqrt(self.count)
        return Step(
            sampling_probability=1.0, noise_multiplier=z, pair=self.pair, count=1
        )

    @property
    def second_moment(self) -> float:
        """E[loss^2] of one release to leading order in q; sets the grid only."""
        q, z = self.sampling_probability, self.noise_multiplier
        if q == 1:
            return (4 if self.pair is DominatingPair.REPLACE_ONE else 1) / z**2
        w = min(1 / z**2, 30.0)
        if self.pair is DominatingPair.REPLACE_ONE:
            return 2 * q * q * (math.exp(w) - math.exp(-w))
        return q * q * math.expm1(w)

    @property
    def largest_loss(self) -> float:
        """Loss ten standard deviations out; what a grid must at least span."""
        q, z = self.sampling_probability, self.noise_multiplier
        top = (20 * z + 1) / (2 * z * z)
        return top + math.log(q + (1 - q) * math.exp(-top)) if q < 1 else 2 * top


def compose(
    steps: Sequence[Step],
    *,
    pessimistic: bool = True,
    relative_width: float | None = None,
) -> Any:
    """The privacy loss distribution of all steps together (a dp-accounting object).

    Args:
        steps: what was released; adaptively is fine (Dong, Roth and Su, 2019,
            arXiv:1905.02383: compositions of dominating pairs dominate).
        pessimistic: True for upper bounds of epsilon, False for lower bounds.
        relative_width: of the grid; `RELATIVE_WIDTH` by default.

    Raises:
        UnsupportedMechanism: for lower bounds of truncated Poisson sampling, whose pair
            is itself an upper bound.
    """
    from dp_accounting.pld import privacy_loss_distribution

    parts = [step.merged for step in steps if step.count > 0]
    width = _width(parts, RELATIVE_WIDTH if relative_width is None else relative_width)
    total: Any = privacy_loss_distribution.identity(width, pessimistic)
    for part in parts:
        one = _single(part, width, pessimistic)
        many = one.self_compose(part.count) if part.count > 1 else one
        total = many if len(parts) == 1 else total.compose(many)
    return total


def resolves(steps: Sequence[Step]) -> bool:
    """Whether losses are small enough for a grid; they are up to epsilon ~ 1000."""
    return all(step.merged.noise_multiplier >= _LEAST_NOISE for step in steps)


def check_delta(delta: float) -> None:
    """Refuse a delta that double-precision convolutions cannot resolve."""
    if delta < SMALLEST_DELTA:
        raise UnsupportedMechanism(
            f"delta={delta:g} must be at least {SMALLEST_DELTA:g} for accountant="
            "'pld', whose convolutions round at that level; use accountant='rdp'."
        )


def _width(parts: Sequence[Step], relative: float) -> float:
    """Grid width for a composition: relative to the mean square loss, within bounds."""
    count = sum(part.count for part in parts)
    if count == 0:
        return _LARGEST_WIDTH
    mean_square = sum(part.count * part.second_moment for part in parts) / count
    widest = max(2 * part.largest_loss for part in parts)
    fine = min(relative * math.sqrt(mean_square), _LARGEST_WIDTH)
    return max(fine, widest / MOST_CELLS)


def _single(part: Step, width: float, pessimistic: bool) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    relation = (
        NeighboringRelation.REPLACE_ONE
        if part.pair is DominatingPair.REPLACE_ONE
        else NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    if part.truncation is None:
        return privacy_loss_distribution.from_gaussian_mechanism(
            part.noise_multiplier,
            pessimistic_estimate=pessimistic,
            value_discretization_interval=width,
            sampling_prob=part.sampling_probability,
            neighboring_relation=relation,
            use_connect_dots=pessimistic,
        )
    if not pessimistic:
        raise UnsupportedMechanism(
            "sampler='truncated-poisson' has no lower bound; ask for the upper one."
        )
    universe, most = part.truncation
    return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=universe,
        sampling_probability=part.sampling_probability,
        truncated_batch_size=most,
        noise_multiplier=part.noise_multiplier,
        value_discretization_interval=width,
        neighboring_relation=relation,
    )
