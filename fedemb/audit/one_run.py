"""One run with many canaries, each present by the toss of its own coin."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from accounting.audit import OneRunResult, observed_cosine_epsilon, one_run_audit
from fedemb.audit.attack import Floats, aligned, log_likelihood_ratio
from fedemb.audit.canaries import Canaries, coins
from fedemb.audit.releases import Pipeline
from fedemb.audit.report import Estimate, LowerBound
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey

_DIRECTIONS_PER_CANARY = 8
_FEWEST_COSINES = 64  # to fit a spread within a tenth or so


def one_run(
    plan: PrivacyPlan,
    key: RootKey,
    canaries: int,
    *,
    confidence: float,
    pipeline: Pipeline,
) -> tuple[LowerBound, tuple[Estimate, ...]]:
    """A bound with `confidence`, and the estimate from cosines if there are enough.

    The number of guesses is chosen on a run of its own.

    References:
        Steinke, Nasr and Jagielski (2023), arXiv:2305.08846; Andrew et al. (2023),
        arXiv:2302.03098.
    """

    def guess(scores: Floats, present: NDArray[np.bool_], count: int) -> OneRunResult:
        return one_run_audit(
            scores.tolist(),
            present.tolist(),
            guesses=count,
            delta=plan.delta,
            confidence=confidence,
        )

    pilot, tossed, _ = _attack(plan, key, canaries, "pilot", pipeline)
    choices = [max(8, canaries // k) for k in (1, 2, 3, 4, 6, 8, 16)]
    guesses = max(choices, key=lambda r: (guess(pilot, tossed, r).epsilon, r))
    scores, present, total = _attack(plan, key, canaries, "audit", pipeline)
    result = guess(scores, present, guesses)
    bound = LowerBound(
        method="one-run",
        epsilon=result.epsilon,
        confidence=confidence,
        detail=f"{result.correct} of {result.guesses} guesses about "
        f"{result.canaries} canaries right; assumes nothing",
    )
    return bound, _cosine_estimates(total, present, plan)


def _attack(
    plan: PrivacyPlan, key: RootKey, count: int, name: str, pipeline: Pipeline
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Scores and coins of the canaries `[m]`, and the sum of all releases `[P]`."""
    present = coins(key, name, count)
    canaries = replace(Canaries.for_plan(plan, present), bystanders=0)
    own = RootKey(key.derive(name, count), key.seeded)
    seen = aligned(pipeline(plan, canaries, own, _DIRECTIONS_PER_CANARY * count))
    mine = np.ascontiguousarray(seen[:, :count].T)
    return log_likelihood_ratio(mine, plan), present, seen.sum(axis=0)


def _cosine_estimates(
    total: Floats, present: NDArray[np.bool_], plan: PrivacyPlan
) -> tuple[Estimate, ...]:
    if min(present.sum(), (~present).sum()) < _FEWEST_COSINES:
        return ()
    cosines = total[: len(present)] / np.linalg.norm(total)
    # Absent canaries tell where cosines lie without: at zero, or at the antipode.
    shifted = cosines[present] - cosines[~present].mean()
    estimate = Estimate(
        method="observed-cosine",
        epsilon=observed_cosine_epsilon(shifted, len(total), delta=plan.delta),
        detail=f"a Gaussian fitted to {len(shifted)} cosines of canaries with the sum "
        "of all releases; decides nothing",
    )
    return (estimate,)
