"""Planning: which population, cohort and noise reach epsilon at equal training noise.

The mean update of a round is (sum + N(0, (zC)^2 I)) / m for m expected virtual clients,
so its noise is z C / m per coordinate. Enlarging cohort and noise together, (k m, k z),
leaves it unchanged, while epsilon falls with k: it grows slowly with the sampling
probability and shrinks fast with the noise. This is how this line of work reports
results
for millions of users from a run on thousands.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accounting import _validate, composition
from accounting.account import default_delta, epsilon
from accounting.mechanism import SampledGaussian

ASSUMPTION = (
    "Extrapolated: the run at scale did not happen. It is assumed to train at least as "
    "well as today's run, because the noise on the mean update is the same and the "
    "mean is over more clients of the same kind."
)
"""What a reader of extrapolated numbers must be told."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One way to run, and what it costs.

    Attributes:
        scale: k; cohort and noise are k times today's.
        population: N [users].
        users_per_round: expected users in a round.
        expected_virtual_clients: terms in the mean.
        users_per_virtual_client: u.
        noise_multiplier: z.
        sampling_probability: q.
        noise_on_mean: z / m, per coordinate, in clip norms; equal in every row.
        rounds: T.
        delta: at which epsilon holds.
        epsilon: of the mechanism's dominating pair.
        epsilon_rdp: the same by Renyi divergences; None where none is proved.
        epsilon_if_u_were_ignored: what accounting virtual clients as single users would
            claim, wrongly; equal to epsilon for u = 1.
        reaches_target: whether epsilon is within the target; None without one.
    """

    scale: float
    population: int
    users_per_round: float
    expected_virtual_clients: float
    users_per_virtual_client: int
    noise_multiplier: float
    sampling_probability: float
    noise_on_mean: float
    rounds: int
    delta: float
    epsilon: float
    epsilon_rdp: float | None
    epsilon_if_u_were_ignored: float
    reaches_target: bool | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite epsilon is null."""
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in asdict(self).items()
        }


def extrapolate(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    populations: Sequence[int],
    scales: Sequence[float] = (1, 2, 5, 10, 20, 50, 100),
    delta: float | None = None,
    target_epsilon: float | None = None,
    accountant: str = "pld",
) -> list[PlanRow]:
    """What today's run would cost at scale, at the same noise on the mean.

    Guarantee: every epsilon is an upper bound for the mechanism of its row. That the
    run at scale trains as well as today's is an assumption (`ASSUMPTION`).

    Args:
        mechanism: one round of today's run.
        rounds: number of rounds, at least 1.
        populations: N to consider [users]; rows that would draw more users than there
            are, are left out.
        scales: k to consider; each positive.
        delta: at which to account; population ** -1.1 of each row by default.
        target_epsilon: marks the rows that reach it.
        accountant: 'pld' or 'rdp'.

    Returns:
        A row for each population and scale, in that order.

    Raises:
        ValueError: if an argument is out of range.

    References:
        McMahan et al. (2018), "Learning differentially private recurrent language
        models", arXiv:1710.06963, section 4 (scaling cohort and noise together).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> today = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=6800, users_per_round=256, noise_multiplier=0.62,
        ...     users_per_virtual_client=8)
        >>> rows = extrapolate(today, rounds=200, populations=[34_000], scales=[1, 10])
        >>> [round(row.epsilon_if_u_were_ignored, 2) for row in rows]
        [3.36, 0.63]
    """
    _validate.whole_at_least("rounds", rounds, 1)
    rows = []
    for population in populations:
        for scale in scales:
            _validate.positive("scale", scale)
            if scale * mechanism.users_per_round > population:
                continue
            scaled = _scaled(mechanism, scale, population)
            there = default_delta(population) if delta is None else delta
            rows.append(_row(scaled, scale, rounds, there, target_epsilon, accountant))
    return rows


def scale_for_epsilon(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    population: int,
    target_epsilon: float,
    delta: float | None = None,
    accountant: str = "pld",
    relative_tolerance: float = 1e-2,
) -> PlanRow:
    """The least scale k at which a population reaches `target_epsilon`.

    Args:
        mechanism: one round of today's run.
        rounds: number of rounds, at least 1.
        population: N at scale [users].
        target_epsilon: positive, natural log.
        delta: at which to account; population ** -1.1 by default.
        accountant: 'pld' or 'rdp'.
        relative_tolerance: of k.

    Raises:
        ValueError: if even drawing everybody is not enough; the message says what
            epsilon that would give.

    References:
        As `extrapolate`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> today = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=6800, users_per_round=256, noise_multiplier=0.62,
        ...     users_per_virtual_client=8)
        >>> row = scale_for_epsilon(today, rounds=200, population=10**6,
        ...                         target_epsilon=0.5, delta=1e-7)
        >>> bool(row.epsilon <= 0.5 and 1 < row.scale < 5)
        True
    """
    _validate.positive("target_epsilon", target_epsilon)

    there = default_delta(population) if delta is None else delta

    def cost(scale: float) -> float:
        scaled = _scaled(mechanism, scale, population)
        return composition.quick_epsilon(scaled, rounds, there, accountant)

    most = population / mechanism.users_per_round
    _validate.finite_at_least("population / users_per_round", most, 1)
    low, high = 1e-3, 1.0
    while (value := cost(high)) > target_epsilon:
        if high >= most:
            raise ValueError(
                f"target_epsilon={target_epsilon:g} must be reachable with "
                f"{population} users; drawing all of them in every round still costs "
                f"epsilon={value:.3g}. Use fewer rounds, more users, or more epsilon."
            )
        low, high = high, min(2 * high, most)
    while high / low > 1 + relative_tolerance:
        middle = math.sqrt(low * high)
        if cost(middle) <= target_epsilon:
            high = middle
        else:
            low = middle
    scaled = _scaled(mechanism, high, population)
    return _row(scaled, high, rounds, there, target_epsilon, accountant)


def compare_users_per_virtual_client(
    mechanism: SampledGaussian,
    *,
    rounds: int,
    choices: Sequence[int] = (1, 2, 4, 8, 16, 32),
    delta: float | None = None,
    accountant: str = "pld",
) -> list[PlanRow]:
    """What u costs, at equal users, noise and rounds.

    The pair costs little when clients are drawn as units; that the mean has u times
    fewer terms, hence u times the noise, costs most. Compare `noise_on_mean`: a larger
    u pays off only if a client of u users gives a better update by more than that.

    Args:
        mechanism: one round; its u is ignored.
        rounds: number of rounds, at least 1.
        choices: values of u; those above the cohort are left out.
        delta: population ** -1.1 by default.
        accountant: 'pld' or 'rdp'.

    References:
        Ponomareva et al. (2023), arXiv:2303.00654, section 5.6 (microbatches).

    Example:
        >>> from accounting.mechanism import Sampler
        >>> today = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=10**6, users_per_round=2048, noise_multiplier=1.5)
        >>> rows = compare_users_per_virtual_client(today, rounds=200, choices=[1, 8])
        >>> [round(row.epsilon, 3) for row in rows]
        [0.097, 0.161]
    """
    there = default_delta(mechanism.population) if delta is None else delta
    return [
        _row(
            replace(mechanism, users_per_virtual_client=u),
            1.0,
            rounds,
            there,
            None,
            accountant,
        )
        for u in choices
        if u <= mechanism.users_per_round
    ]


def advice_on_users_per_client(rows: Sequence[PlanRow]) -> str:
    """When u = 1 is better, from the rows of `compare_users_per_virtual_client`.

    Example:
        >>> from accounting.mechanism import Sampler
        >>> today = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=10**6, users_per_round=2048, noise_multiplier=1.5)
        >>> rows = compare_users_per_virtual_client(today, rounds=200, choices=[1, 8])
        >>> print(advice_on_users_per_client(rows))
        8 users per virtual client instead of 1: 8 times the noise on the mean, and
        epsilon 0.161 instead of 0.0972. Better only if an update of 8 users together
        is worth more than 8 times the update of one.
    """
    first, last = rows[0], rows[-1]
    u, noise = last.users_per_virtual_client, last.noise_on_mean / first.noise_on_mean
    if u == first.users_per_virtual_client:
        return f"{u} users per virtual client is the only choice for this cohort."
    together = f"{u} users together"
    return (
        f"{u} users per virtual client instead of {first.users_per_virtual_client}: "
        f"{noise:.3g} times the noise on the mean, and\nepsilon {last.epsilon:.3g} "
        f"instead of {first.epsilon:.3g}. Better only if an update of {together}\n"
        f"is worth more than {noise:.3g} times the update of one."
    )


def _scaled(
    mechanism: SampledGaussian, scale: float, population: int
) -> SampledGaussian:
    return replace(
        mechanism,
        population=population,
        users_per_round=min(scale * mechanism.users_per_round, population),
        noise_multiplier=scale * mechanism.noise_multiplier,
    )


def _row(
    mechanism: SampledGaussian,
    scale: float,
    rounds: int,
    delta: float,
    target: float | None,
    accountant: str,
) -> PlanRow:
    def cost(m: SampledGaussian) -> Any:
        return epsilon(m, rounds=rounds, delta=delta, accountant=accountant)

    report = cost(mechanism)
    u = mechanism.users_per_virtual_client
    single = report if u == 1 else cost(replace(mechanism, users_per_virtual_client=1))
    terms = mechanism.expected_virtual_clients
    return PlanRow(
        scale=scale,
        population=mechanism.population,
        users_per_round=mechanism.users_per_round,
        expected_virtual_clients=terms,
        users_per_virtual_client=u,
        noise_multiplier=mechanism.noise_multiplier,
        sampling_probability=mechanism.sampling_probability,
        noise_on_mean=mechanism.noise_multiplier / terms,
        rounds=rounds,
        delta=delta,
        epsilon=report.epsilon,
        epsilon_rdp=report.epsilon_rdp,
        epsilon_if_u_were_ignored=single.epsilon,
        reaches_target=None if target is None else report.epsilon <= target,
    )
