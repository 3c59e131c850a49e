"""Composition: what several mechanisms, each run for some rounds, cost together.

A spend is a pair (mechanism, rounds). Renyi divergences add up (Mironov, 2017,
arXiv:1702.07476, Proposition 1); privacy loss distributions convolve (Dong, Roth and
Su, 2019, arXiv:1905.02383; Zhu, Dong and Wang, 2022, arXiv:2106.08567, Theorem 10).
Both hold when each round depends on what earlier rounds released.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from accounting import pld
from accounting.allocation import random_allocation_rdp
from accounting.errors import UnsupportedMechanism
from accounting.mechanism import (
    ALLOCATED,
    Adjacency,
    SampledGaussian,
    Sampler,
)
from accounting.renyi import (
    ORDERS,
    Floats,
    epsilon_from_rdp,
    sampled_gaussian_rdp,
)
from accounting.without_replacement import without_replacement_rdp

Spend = tuple[SampledGaussian, int]


def common_adjacencies(spends: Sequence[Spend]) -> frozenset[Adjacency]:
    """Neighbouring relations for which every one of the spends is proved.

    Raises:
        UnsupportedMechanism: if there is none, so that no sum has a meaning.
    """
    common = frozenset(Adjacency)
    for mechanism, _ in spends:
        common &= mechanism.adjacencies
    if not common:
        samplers = sorted({mechanism.sampler.value for mechanism, _ in spends})
        raise UnsupportedMechanism(
            f"samplers {', '.join(samplers)} must share a neighbouring relation to be "
            "composed: fixed-size is proved for replace-one only. Use a population's "
            "ledger for one kind of sampler, or users_per_virtual_client > 1."
        )
    return common


def non_private(spends: Sequence[Spend]) -> bool:
    """Whether any round ran without noise, so that epsilon is infinite."""
    return any(rounds > 0 and m.noise_multiplier == 0 for m, rounds in spends)


def rdp_supports(spends: Sequence[Spend]) -> bool:
    """Whether Renyi divergences are known for every spend."""
    return all(m.sampler is not Sampler.TRUNCATED_POISSON for m, _ in spends)


def pld_supports(spends: Sequence[Spend]) -> bool:
    """Whether privacy loss distributions are known for every spend."""
    without = (Sampler.FIXED_SIZE, *ALLOCATED)
    return all(m.sampler not in without for m, _ in spends)


def round_rdp(mechanism: SampledGaussian) -> Floats:
    """RDP at `ORDERS` of one round, or of one period for samplers that have periods.

    Raises:
        UnsupportedMechanism: if no Renyi divergence is proved for the sampler.
    """
    z = mechanism.accounted_noise_multiplier
    sampler, pair = mechanism.sampler, mechanism.dominating_pair
    if sampler is Sampler.FIXED_SIZE:
        cohort = int(mechanism.users_per_round)
        return without_replacement_rdp(mechanism.population, cohort, z)
    if sampler is Sampler.TRUNCATED_POISSON:
        raise UnsupportedMechanism(
            "sampler='truncated-poisson' has no Renyi bound; use accountant='pld'."
        )
    if sampler in ALLOCATED:
        times = round(mechanism.sampling_probability * mechanism.period)
        # k of t is no worse than k independent blocks of floor(t / k) rounds.
        return times * random_allocation_rdp(mechanism.period // times, z)
    return sampled_gaussian_rdp(mechanism.accounted_sampling_probability, z, pair)


def total_rdp(spends: Sequence[Spend]) -> Floats:
    """RDP at `ORDERS` of everything together."""
    total = np.zeros_like(ORDERS)
    for mechanism, rounds in spends:
        if rounds:
            total = total + mechanism.periods(rounds) * round_rdp(mechanism)
    return total


def total_pld(
    spends: Sequence[Spend],
    *,
    pessimistic: bool = True,
    relative_width: float | None = None,
) -> Any:
    """The privacy loss distribution of everything together (a dp-accounting object).

    Raises:
        UnsupportedMechanism: if a spend's sampler has no privacy loss distribution.
    """
    if not pld_supports(spends):
        raise UnsupportedMechanism(
            "fixed-size, random-allocation and balls-in-bins sampling have no privacy "
            "loss distribution here; use accountant='rdp'."
        )
    steps = [_step(mechanism, rounds) for mechanism, rounds in spends if rounds]
    return pld.compose(steps, pessimistic=pessimistic, relative_width=relative_width)


def rdp_epsilon(spends: Sequence[Spend], delta: float) -> float:
    """Epsilon by Renyi divergences; infinite without noise."""
    if non_private(spends):
        return math.inf
    return epsilon_from_rdp(total_rdp(spends), delta)


def pld_epsilon(
    spends: Sequence[Spend], delta: float, relative_width: float | None = None
) -> float:
    """Epsilon by privacy loss distributions; infinite without noise.

    A relative grid width beyond the default is quicker, and still an upper bound.
    """
    return _pld_epsilon(tuple(spends), delta, relative_width)


def quick_epsilon(
    mechanism: SampledGaussian, rounds: int, delta: float, accountant: str
) -> float:
    """Epsilon by one accountant only: the one asked for, or else the one that can."""
    spends = ((mechanism, rounds),)
    by_pld = pld_supports(spends) and delta >= pld.SMALLEST_DELTA
    if by_pld and (accountant == "pld" or not rdp_supports(spends)):
        return pld_epsilon(spends, delta)
    return rdp_epsilon(spends, delta)


@lru_cache(maxsize=1024)
def _pld_epsilon(
    spends: tuple[Spend, ...], delta: float, relative_width: float | None
) -> float:
    pld.check_delta(delta)
    if non_private(spends):
        return math.inf
    if not any(rounds for _, rounds in spends):
        return 0.0
    if not pld.resolves([_step(m, rounds) for m, rounds in spends if rounds]):
        # Losses in the thousands: a grid gains nothing over this upper bound.
        return rdp_epsilon(spends, delta) if rdp_supports(spends) else math.inf
    return float(_total_pld(spends, relative_width).get_epsilon_for_delta(delta))


@lru_cache(maxsize=4)  # megabytes each; a statement asks one for several deltas
def _total_pld(spends: tuple[Spend, ...], relative_width: float | None) -> Any:
    return total_pld(spends, relative_width=relative_width)


def _step(mechanism: SampledGaussian, rounds: int) -> pld.Step:
    truncation = None
    if mechanism.truncated_users_per_round is not None:
        # Virtual clients are drawn and truncated as units.
        u = mechanism.users_per_virtual_client
        universe = -(-mechanism.population // u)
        truncation = (universe, mechanism.truncated_users_per_round // u)
    return pld.Step(
        sampling_probability=mechanism.accounted_sampling_probability,
        noise_multiplier=mechanism.accounted_noise_multiplier,
        pair=mechanism.dominating_pair,
        count=mechanism.periods(rounds),
        truncation=truncation,
    )
