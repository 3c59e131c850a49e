"""The same mechanisms in dp-accounting's vocabulary, for other tools to check ours.

An event alone does not fix epsilon: the neighbouring relation belongs to it, and
dp-accounting's accountants read the multiplier of `REPLACE_ONE` differently (privacy
loss distributions: noise over clip norm; Renyi divergences of sampling without
replacement: noise over sensitivity). The multipliers here fit the accountant that
supports the event.
"""

from typing import Any

from accounting.errors import UnsupportedMechanism
from accounting.mechanism import (
    ALLOCATED,
    EVERY_ROUND_OR_EPOCH,
    DominatingPair,
    SampledGaussian,
    Sampler,
)


def dp_event(mechanism: SampledGaussian, *, rounds: int) -> tuple[Any, Any]:
    """The (DpEvent, NeighboringRelation) of `rounds` rounds.

    Guarantee: dp-accounting's accountants, where they support the pair, bound the same
    mechanism.

    Args:
        mechanism: one round.
        rounds: number of rounds, at least 1.

    Raises:
        UnsupportedMechanism: for random allocation and balls-in-bins, which have no
            event.

    References:
        dp-accounting 0.6, `dp_event.py`.

    Example:
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_USERS, population=1000,
        ...                             users_per_round=10, noise_multiplier=1.0)
        >>> event, relation = dp_event(one_round, rounds=3)
        >>> event.count, relation.name
        (3, 'ADD_OR_REMOVE_ONE')
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting import dp_event as events

    if mechanism.sampler in ALLOCATED:
        raise UnsupportedMechanism(
            f"sampler={mechanism.sampler.value!r} has no event in dp-accounting; use "
            "accounting.epsilon."
        )
    gaussian = events.GaussianDpEvent(mechanism.accounted_noise_multiplier)
    u = mechanism.users_per_virtual_client
    q = mechanism.accounted_sampling_probability
    one: Any
    if mechanism.sampler is Sampler.FIXED_SIZE:
        cohort = int(mechanism.users_per_round)
        one = events.SampledWithoutReplacementDpEvent(
            mechanism.population, cohort, gaussian
        )
    elif mechanism.sampler in EVERY_ROUND_OR_EPOCH:
        one = gaussian
    elif mechanism.truncated_users_per_round is not None:
        one = events.TruncatedSubsampledGaussianDpEvent(
            dataset_size=-(-mechanism.population // u),
            sampling_probability=q,
            truncated_batch_size=mechanism.truncated_users_per_round // u,
            noise_multiplier=mechanism.accounted_noise_multiplier,
        )
    else:
        one = events.PoissonSampledDpEvent(q, gaussian)
    relation = (
        NeighboringRelation.REPLACE_ONE
        if mechanism.dominating_pair is DominatingPair.REPLACE_ONE
        else NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    return events.SelfComposedDpEvent(one, mechanism.periods(rounds)), relation
