"""What a run promises: sampler, noise and claim, from the configuration's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from accounting import (
    SampledGaussian,
    Sampler,
    calibrate_noise_multiplier,
    default_delta,
)
from accounting.mechanism import ALLOCATED
from fedemb.clipping import AdaptiveClipping
from fedemb.errors import UserError
from fedemb.mechanisms import make_noise
from fedemb.plan import PrivacyPlan
from fedemb.samplers import AnySampler, groups_for, make_sampler, usual_sampler
from simulations.config import Configuration, PrivacyConfig
from simulations.kept_heads import refuse_unproved_heads

_LARGEST_DEFAULT_COHORT = 2048


@dataclass(frozen=True)
class Promise:
    """The plan that runs, and the claim that is made of it.

    Attributes:
        plan: what really runs.
        claimed: one round of the claim; the plan's own mechanism unless extrapolated.
        delta: of the claim.
        target_epsilon: None if the noise was given.
    """

    plan: PrivacyPlan
    claimed: SampledGaussian
    delta: float
    target_epsilon: float | None

    @property
    def extrapolated(self) -> bool:
        """Whether the claim is about a larger population than was sampled."""
        return self.claimed.population != self.plan.mechanism.population


def make_promise(configuration: Configuration, num_users: int) -> Promise:
    """The plan for a population of `num_users`, and the claim made of it.

    With a larger `privacy.population` the claim is extrapolated: cohort and noise are
    both larger by the same factor there, which leaves the noise on the mean as it is.

    Raises:
        UserError: if the numbers do not fit together, or nothing is proved for them.
    """
    configuration = completed(configuration, num_users)
    refuse_unproved_heads(configuration)
    privacy, run = configuration.privacy, configuration.run
    population = privacy.population or num_users
    if population < 2:
        raise UserError(
            f"population={population}: nobody is hidden among one user alone; use data "
            "of two users or more, or --users and --user-column to make more of it."
        )
    if population < num_users:
        raise UserError(
            f"population={population} is smaller than the {num_users} users of the "
            "data; leave it out, or use data with fewer users."
        )
    factor = population / num_users
    groups = _groups(privacy, num_users, run.rounds)
    sampler = _sampler(privacy, num_users, groups)
    noise = make_noise(
        privacy.mechanism,
        sampler.mechanism(1.0),
        rounds=run.rounds,
        restart_every=privacy.restart_every,
        bands=privacy.bands,
    )
    larger = _sampler(privacy, population, groups, factor)
    claimed = noise.accounted(larger.mechanism(1.0))
    delta = privacy.delta if privacy.delta is not None else default_delta(population)
    if privacy.noise_multiplier is not None:
        claimed = claimed.with_noise_multiplier(privacy.noise_multiplier * factor)
    else:
        claimed = calibrate_noise_multiplier(
            claimed,
            rounds=run.rounds,
            target_epsilon=privacy.epsilon or 0.0,
            delta=delta,
            accountant=privacy.accountant,
        )
    plan = PrivacyPlan(
        sampler=sampler,
        rounds=run.rounds,
        clip_norm=privacy.clip_norm,
        noise_multiplier=claimed.noise_multiplier / factor,
        delta=delta if factor == 1 else default_delta(num_users),
        adaptive_clipping=AdaptiveClipping() if privacy.adaptive_clipping else None,
        noise=noise,
    )
    return Promise(plan, claimed, delta, privacy.epsilon)


def completed(configuration: Configuration, num_users: int) -> Configuration:
    """The configuration with every default that follows from the population.

    All of them are public functions of public numbers. Without a sampler, tree noise
    gets the cyclic one and everything else Poisson sampling of virtual clients.
    """
    privacy, local = configuration.privacy, configuration.local
    u, meeting = privacy.users_per_virtual_client, privacy.users_meeting
    name = privacy.sampler or usual_sampler(privacy.mechanism)
    cohort = privacy.users_per_round
    if cohort is None and name is Sampler.FULL_PARTICIPATION:
        cohort = float(num_users)
    if cohort is None and (privacy.preferred_users_per_round or inf) <= num_users:
        cohort = privacy.preferred_users_per_round
    if cohort is None:
        most = _LARGEST_DEFAULT_COHORT if u or meeting == 1 else 3 * meeting
        wanted = min(most, max(num_users // 4, 1))
        cohort = float(min(num_users, -(-wanted // (u or 1)) * (u or 1)))
    if u is None:
        u = max(1, min(meeting, int(cohort) // 3))
        local = replace(local, batch_size=local.batch_size * u)
    privacy = replace(
        privacy, sampler=name, users_per_round=cohort, users_per_virtual_client=u
    )
    if name in ALLOCATED and num_users >= cohort:
        drawn = _sampler(privacy, num_users)
        privacy = replace(
            privacy,
            users_per_round=drawn.users_per_round,
            rounds_per_period=drawn.mechanism(1.0).period,
        )
    groups = _groups(privacy, num_users, configuration.run.rounds)
    if groups > 1:
        privacy = replace(privacy, bands=groups)
    return replace(configuration, privacy=privacy, local=local)


def whole_periods(plan: PrivacyPlan, rounds: Sequence[int]) -> None:
    """Refuse stages that would break off a period: each stage starts a new one.

    Raises:
        UserError: if a stage before the last has a part of a period.
    """
    period = plan.mechanism.period
    for number, length in enumerate(rounds[:-1], start=1):
        if length % period:
            raise UserError(
                f"stage {number} has {length} rounds, which must be a multiple of the "
                f"{period} rounds that are paid for together; change --rounds, or set "
                "privacy.restart_every for correlated noise."
            )


def _sampler(
    privacy: PrivacyConfig, population: int, groups: int = 1, factor: float = 1.0
) -> AnySampler:
    """The sampler at `factor` times the cohort."""
    most = privacy.truncated_users_per_round
    return make_sampler(
        privacy.sampler or usual_sampler(privacy.mechanism),
        population=population,
        users_per_round=(privacy.users_per_round or 0.0) * factor,
        users_per_virtual_client=privacy.users_per_virtual_client or 1,
        truncated_users_per_round=None if most is None else int(most * factor),
        rounds_per_period=privacy.rounds_per_period,
        groups=groups,
    )


def _groups(privacy: PrivacyConfig, population: int, rounds: int) -> int:
    return groups_for(
        privacy.mechanism,
        privacy.sampler or usual_sampler(privacy.mechanism),
        population=population,
        users_per_round=privacy.users_per_round or 1.0,
        rounds=rounds,
        bands=privacy.bands,
    )
