"""Privacy loss distributions: the tight bound.

The grid adapts to the mechanism. Its spacing is a small fraction of the standard
deviation of one round's loss: coarser grids would blow up the bound after thousands of
rounds, and finer ones the memory.
"""

import math
from collections.abc import Sequence
from typing import Any

from accounting.mechanism import SampledGaussian
from accounting.vocabulary import DominatingPair, Sampler, UnsupportedMechanism

_FRACTION = 0.05  # of one round's standard deviation
_MAX_POINTS = 1_000_000  # of one round's grid; bounds memory
_MAX_INTERVAL = 1e-3
_REACH = 10.0  # standard deviations of the noise whose loss the grid must reach


def epsilon_pld(
    rounds: Sequence[tuple[SampledGaussian, int]], delta: float, *, scale: float = 1.0
) -> float:
    """An upper bound of epsilon at `delta` for a composition of rounds.

    Koskela, Jalko and Honkela (2020), arXiv:1906.03049; pessimistic grid of Doroshenko
    et al. (2022), arXiv:2207.04380, as implemented by dp-accounting.

    Args:
        rounds: mechanisms and how often each ran.
        delta: of (epsilon, delta).
        scale: multiplies the grid spacing; 2 is coarser and faster, and still a bound.

    Raises:
        UnsupportedMechanism: if a mechanism has no loss distribution here.
    """
    private = [(m, count) for m, count in rounds if count > 0]
    if any(m.noise_multiplier == 0 for m, _ in private):
        return math.inf
    if not private:
        return 0.0
    interval = min(grid_interval(m) for m, _ in private) * scale
    composed = None
    for mechanism, count in private:
        own = _round_pld(mechanism, interval).self_compose(count)
        composed = own if composed is None else composed.compose(own)
    value = float(composed.get_epsilon_for_delta(delta))  # type: ignore[union-attr]
    return max(value, 0.0)


def supports(mechanism: SampledGaussian) -> bool:
    """Whether a loss distribution of the mechanism is known here."""
    return mechanism.sampler is not Sampler.FIXED_SIZE


def grid_interval(mechanism: SampledGaussian) -> float:
    """Spacing of the loss grid for one round of this mechanism, natural log units."""
    q, z = mechanism.sampling_probability, mechanism.add_or_remove_multiplier
    distance = 2.0 if mechanism.dominating_pair is DominatingPair.REPLACE_ONE else 1.0
    mu = distance / z
    # Standard deviation of the loss of a sampled Gaussian: q sqrt(exp(1/z^2) - 1) while
    # small, and never more than that of the Gaussian itself.
    spread = min(q * distance * math.sqrt(math.expm1(min(1 / z**2, 50.0))), mu)
    reach = (
        mu * (mu / 2 + _REACH)
        if q == 1
        else math.log1p(q * math.expm1(min(mu * (mu / 2 + _REACH), 700.0)))
    )
    return max(min(_FRACTION * spread, _MAX_INTERVAL), 2 * reach / _MAX_POINTS)


def _round_pld(mechanism: SampledGaussian, interval: float) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    if not supports(mechanism):
        raise UnsupportedMechanism(
            f"sampler={mechanism.sampler.value} has no privacy loss distribution with a "
            "proof; use accountant rdp, or the sampler poisson-virtual-clients."
        )
    antipodal = mechanism.dominating_pair is DominatingPair.REPLACE_ONE
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=mechanism.add_or_remove_multiplier,
        value_discretization_interval=interval,
        sampling_prob=mechanism.sampling_probability,
        neighboring_relation=(
            NeighboringRelation.REPLACE_ONE
            if antipodal
            else NeighboringRelation.ADD_OR_REMOVE_ONE
        ),
    )
