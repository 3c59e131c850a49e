"""Audit a plan, then a pipeline that is broken on purpose.

Run with: python examples/audit.py
"""

from dataclasses import replace

from torch import Tensor

from fedemb.audit import AuditReport, AuditSettings, Canaries, audit, release
from fedemb.cohort import PoissonVirtualClients
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey


def half_the_noise(
    plan: PrivacyPlan, canaries: Canaries, key: RootKey, dimension: int
) -> Tensor:
    """The real pipeline, but for the noise."""
    quiet = replace(plan, noise_multiplier=plan.noise_multiplier / 2)
    return release(quiet, canaries, key, dimension)


def show(title: str, report: AuditReport) -> None:
    print(f"{title}: claimed epsilon {report.claimed.epsilon:.2f}")
    for bound in report.bounds:
        print(f"  {bound.method:<16} >= {bound.epsilon:.2f}  ({bound.detail})")
    for premise in report.premises:
        print(f"  {premise.name:<16} {premise.detail}")
    print(f"  {'violated' if report.violated else 'nothing found'}")


plan = PrivacyPlan(
    sampler=PoissonVirtualClients(
        population=256, users_per_round=128, users_per_virtual_client=2
    ),
    rounds=2,
    clip_norm=1.0,
    noise_multiplier=1.0,
    delta=1e-5,
).calibrate(target_epsilon=4.0)
settings = AuditSettings(runs=1000, canaries=128)

show("the pipeline", audit(plan, RootKey.from_system(), settings=settings))
show(
    "half the noise",
    audit(plan, RootKey.from_system(), settings=settings, pipeline=half_the_noise),
)

# A claim that takes virtual clients for single users is caught as well.
single = replace(plan.sampler, users_per_virtual_client=1)
claim = single.mechanism(plan.noise_multiplier)
show(
    "accounted as single users",
    audit(plan, RootKey.from_system(), settings=settings, claim=claim),
)
