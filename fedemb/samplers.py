"""Every sampler by the name it is accounted under, built from public numbers."""

from accounting import Sampler
from fedemb.cohort import (
    FixedSize,
    FullParticipation,
    PoissonUsers,
    PoissonVirtualClients,
    Seats,
    TruncatedPoisson,
    refuse_cohort,
)
from fedemb.periods import (
    BallsInBins,
    Cyclic,
    GroupedPoisson,
    RandomAllocation,
    Shuffled,
)

AnySampler = (
    PoissonVirtualClients
    | PoissonUsers
    | FixedSize
    | FullParticipation
    | TruncatedPoisson
    | Shuffled
    | GroupedPoisson
    | BallsInBins
)

_PLAIN: dict[
    Sampler,
    type[PoissonVirtualClients | PoissonUsers | FixedSize | FullParticipation]
    | type[Shuffled],
] = {
    kind.accounted_as: kind
    for kind in (
        PoissonVirtualClients,
        PoissonUsers,
        FixedSize,
        FullParticipation,
        Shuffled,
        Cyclic,
    )
}
_ALLOCATED = {kind.accounted_as: kind for kind in (BallsInBins, RandomAllocation)}


def make_sampler(
    name: Sampler,
    *,
    population: int,
    users_per_round: float,
    users_per_virtual_client: int = 1,
    truncated_users_per_round: int | None = None,
    rounds_per_period: int | None = None,
    groups: int = 1,
) -> AnySampler:
    """The sampler that is accounted as `name`.

    Args:
        name: as in `fedemb simulate --sampler`.
        population: N, seats in the public id universe.
        users_per_round: expected users in a round.
        users_per_virtual_client: u.
        truncated_users_per_round: truncated Poisson only; six standard deviations above
            the expected number by default.
        rounds_per_period: random allocation and balls-in-bins only; the rounds of an
            epoch by default, and the cohort becomes population * k / rounds_per_period.
        groups: Poisson over virtual clients only; more than one is block-cyclic.

    Raises:
        UserError: if a number is out of range for the sampler.

    Example:
        >>> make_sampler(Sampler.BALLS_IN_BINS, population=1000,
        ...              users_per_round=90).users_per_round
        90.9090909090909
    """
    u = users_per_virtual_client
    if name in _ALLOCATED:
        refuse_cohort(population, users_per_round, u)  # as given, before it is rounded
        period = rounds_per_period or max(1, round(population / users_per_round))
        times = max(1, round(users_per_round * period / population))
        return _ALLOCATED[name](
            population=population,
            users_per_round=population * times / period,
            users_per_virtual_client=u,
            rounds_per_period=period,
        )
    if name is Sampler.TRUNCATED_POISSON:
        spread = 6 * (users_per_round * u) ** 0.5
        most = truncated_users_per_round or int(users_per_round + spread) + u
        return TruncatedPoisson(
            population=population,
            users_per_round=users_per_round,
            users_per_virtual_client=u,
            most=most,
        )
    if groups > 1:
        return GroupedPoisson(
            population=population,
            users_per_round=users_per_round,
            users_per_virtual_client=u,
            groups=groups,
        )
    return _PLAIN[name](
        population=population,
        users_per_round=users_per_round,
        users_per_virtual_client=u,
    )


def usual_sampler(mechanism: str) -> Sampler:
    """The sampler that a noise mechanism gets if none is asked for.

    Tree noise needs users to keep apart; everything else is amplified by sampling.
    """
    return Sampler.CYCLIC if mechanism == "tree" else Sampler.POISSON_VIRTUAL_CLIENTS


def groups_for(
    mechanism: str,
    name: Sampler,
    *,
    population: int,
    users_per_round: float,
    rounds: int,
    bands: int | None,
) -> int:
    """Groups that Poisson sampling draws from in turn: as many as the noise has bands.

    One unless the noise is banded. By default `USUAL_GROUPS`, or what still fits.
    """
    if mechanism != "banded" or name is not Sampler.POISSON_VIRTUAL_CLIENTS:
        return 1
    fit = min(USUAL_GROUPS, int(population / users_per_round), rounds)
    return bands or max(1, fit)


USUAL_GROUPS = 8
"""More groups correlate more noise away, fewer are amplified better."""

SAMPLERS: tuple[type[Seats], ...] = (
    PoissonVirtualClients,
    PoissonUsers,
    FixedSize,
    FullParticipation,
    TruncatedPoisson,
    Shuffled,
    Cyclic,
    BallsInBins,
    RandomAllocation,
)
"""Every sampler that can be run by name; block-cyclic Poisson comes with its bands."""
