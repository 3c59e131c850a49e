"""The premise of the proof: one user moves one virtual client, by a bounded vector.

Two runs from the same keys, with and without the canary, share cohort and noise. What
is left of the difference of their releases is what the user's presence changed. This
shows no epsilon, but a claim whose premise fails is a claim without a proof.
"""

import math

import numpy as np

from accounting import Adjacency, SampledGaussian
from fedemb.audit.canaries import Canaries
from fedemb.audit.releases import Pipeline
from fedemb.audit.report import Premise
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey

_DIMENSION = 4
_WANTED, _MOST_PAIRS = 30, 100  # participations of the canary; pairs of runs
_ROUNDING = 1e-4


def sensitivity(
    plan: PrivacyPlan, key: RootKey, claim: SampledGaussian, pipeline: Pipeline
) -> Premise:
    """How far one user moved a release, against what the accounting allows.

    Example:
        >>> from fedemb.audit.releases import release
        >>> from fedemb.cohort import PoissonVirtualClients
        >>> sampler = PoissonVirtualClients(population=64, users_per_round=32,
        ...                                 users_per_virtual_client=2)
        >>> plan = PrivacyPlan(sampler=sampler, rounds=4, clip_norm=1.0,
        ...                    noise_multiplier=1.0, delta=1e-5)
        >>> premise = sensitivity(plan, RootKey.from_seed(0), plan.mechanism, release)
        >>> premise.holds, round(premise.observed, 3), premise.allowed
        (True, 2.0, 2.0)
    """
    expected = plan.mechanism.sampling_probability * plan.rounds
    pairs = min(_MOST_PAIRS, max(8, math.ceil(_WANTED / expected)))
    distances = []
    for i in range(pairs):
        own = RootKey(key.derive("sensitivity", i), key.seeded)
        with_it, without = (
            pipeline(plan, Canaries.for_plan(plan, np.array([there])), own, _DIMENSION)
            for there in (True, False)
        )
        distances.append((with_it - without).norm(dim=1).numpy())
    found = np.concatenate(distances)
    moved = found[found > _ROUNDING]
    allowed = _allowed(claim)
    observed = float(moved.max(initial=0.0))
    return Premise(
        name="sensitivity",
        observed=observed,
        allowed=allowed,
        holds=observed <= allowed + _ROUNDING,
        detail=f"one user moved {len(moved)} of {len(found)} releases, by up to "
        f"{observed:.4g} clip norms; {allowed:g} is accounted for",
    )


def _allowed(claim: SampledGaussian) -> float:
    """How far one user may move a round, in clip norms."""
    replaced = claim.adjacency is Adjacency.REPLACE_ONE
    return 2.0 if replaced or claim.users_per_virtual_client > 1 else 1.0
