"""The audit of a plan: many short runs with one canary, and one run with many.

Every bound is valid at its own confidence, and their errors add up to what the report
states (union bound). What has to be chosen (scores, thresholds, the number of guesses)
is chosen on runs of the same pipeline that are used for nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from accounting import SampledGaussian, epsilon
from fedemb.audit.many_runs import BOUNDS, many_runs
from fedemb.audit.one_run import one_run
from fedemb.audit.releases import Pipeline, release
from fedemb.audit.report import AuditReport
from fedemb.audit.sensitivity import sensitivity
from fedemb.errors import UserError
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey

_ROUNDS_A_MINUTE = 60_000
_FEWEST_RUNS = 400
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How hard to look.

    Attributes:
        runs: independent runs with one canary, half of them without it on average.
        canaries: in the one run with many, at most; fewer in a small population.
        rounds: audited rounds, at most; the claim is that of so many rounds.
        confidence: of all bounds together.

    Raises:
        UserError: if a number is out of range.
    """

    runs: int = 4000
    canaries: int = 512
    rounds: int = 100
    confidence: float = 0.999

    @staticmethod
    def for_plan(plan: PrivacyPlan, *, training: bool = False) -> "AuditSettings":
        """Settings with which an audit of `plan` takes about a minute.

        Args:
            plan: what is audited.
            training: whether virtual clients are really trained.

        Example:
            >>> from fedemb.cohort import PoissonVirtualClients
            >>> sampler = PoissonVirtualClients(population=10**6, users_per_round=2000)
            >>> plan = PrivacyPlan(sampler=sampler, rounds=1000, clip_norm=1.0,
            ...                    noise_multiplier=1.0, delta=1e-8)
            >>> settings = AuditSettings.for_plan(plan)
            >>> settings.runs, settings.rounds
            (400, 75)
        """
        # Drawing a cohort costs as much as the rest of a round at some 2,000 users.
        cost = 1 + plan.sampler.users_per_round / 2000
        if training:
            cost += plan.expected_clients / 50
        affordable = _ROUNDS_A_MINUTE / cost
        rounds = max(1, min(plan.rounds, 100, int(affordable / _FEWEST_RUNS)))
        runs = int(min(4000, max(_FEWEST_RUNS, affordable / rounds)))
        return AuditSettings(runs=runs, rounds=rounds)

    def __post_init__(self) -> None:
        for name, least in (("runs", 100), ("canaries", 16), ("rounds", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name}={getattr(self, name)} must be at least {least}; fewer "
                    "show nothing."
                )
        if not 0.5 <= self.confidence < 1:
            raise UserError(
                f"confidence={self.confidence} must be at least 0.5 and below 1, such "
                "as 0.999."
            )


def audit(
    plan: PrivacyPlan,
    key: RootKey,
    *,
    settings: AuditSettings | None = None,
    claim: SampledGaussian | None = None,
    stated_epsilon: float = math.inf,
    pipeline: Pipeline = release,
    progress: Progress = lambda done, total: None,
) -> AuditReport:
    """Attack what `pipeline` runs, and compare with what is claimed.

    Args:
        plan: what runs.
        key: root of all randomness of the audit.
        settings: how hard to look; by default for about a minute.
        claim: one round as it was accounted; by default as the plan does.
        stated_epsilon: what was said of all rounds, if that is to be tested instead of
            what `claim` adds up to.
        pipeline: from a plan and canaries to releases.
        progress: called with the runs that are done, and their number.

    Raises:
        UserError: if there is no noise, or nobody to be a canary.

    References:
        Nasr et al. (2021), arXiv:2101.04535 (gradient canaries, adversaries that choose
        the data); Steinke, Nasr and Jagielski (2023), arXiv:2305.08846 (one run);
        Andrew et al. (2023), arXiv:2302.03098 (cosines of canaries in federated
        learning); Nasr et al. (2023), arXiv:2302.07956 (bounds by trade-off curves).

    Example:
        >>> from fedemb.cohort import PoissonVirtualClients
        >>> sampler = PoissonVirtualClients(population=64, users_per_round=64)
        >>> plan = PrivacyPlan(sampler=sampler, rounds=1, clip_norm=1.0,
        ...                    noise_multiplier=1.0, delta=1e-5)
        >>> quick = AuditSettings(runs=200, canaries=32)
        >>> audit(plan, RootKey.from_seed(0), settings=quick).violated
        False
    """
    settings = settings or AuditSettings.for_plan(plan)
    _check(plan)
    rounds = min(plan.rounds, settings.rounds)
    audited = replace(plan, rounds=rounds)
    claimed = epsilon(claim or plan.mechanism, rounds=rounds, delta=plan.delta)
    if stated_epsilon < claimed.epsilon or (
        rounds == plan.rounds and math.isfinite(stated_epsilon)
    ):
        claimed = replace(claimed, epsilon=stated_epsilon)
    each = 1 - (1 - settings.confidence) / (BOUNDS + 1)
    canaries = min(settings.canaries, plan.sampler.population // 2)
    bound, estimates = one_run(
        audited, key, canaries, confidence=each, pipeline=pipeline
    )
    bounds = many_runs(
        audited,
        key,
        settings.runs,
        claimed,
        confidence=each,
        pipeline=pipeline,
        progress=progress,
    )
    return AuditReport(
        claimed=claimed,
        bounds=(*bounds, bound),
        estimates=estimates,
        premises=(sensitivity(audited, key, claimed.mechanism, pipeline),),
        confidence=settings.confidence,
        rounds_of_plan=plan.rounds,
        runs=settings.runs,
        canaries=canaries,
        seeded=key.seeded,
    )


def _check(plan: PrivacyPlan) -> None:
    if plan.noise_multiplier == 0:
        raise UserError(
            "noise_multiplier=0 promises nothing, so there is nothing to audit; give "
            "an epsilon or some noise."
        )
    if plan.sampler.population < 32:
        raise UserError(
            f"population={plan.sampler.population} must be at least 32: half of the "
            "users become canaries."
        )
