"""Many short runs with one canary, present by the toss of a coin.

The runs are independent, so counting is all the statistics that is needed, and nothing
has to be assumed of the pipeline.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from accounting import EpsilonReport
from accounting.audit_profile import choose_rules, noise_epsilon, profile_epsilon
from accounting.mechanism import Noise
from fedemb.audit.attack import Floats, aligned, scores
from fedemb.audit.canaries import Canaries, coins
from fedemb.audit.releases import Pipeline
from fedemb.audit.report import LowerBound
from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey

_DIMENSION = 16  # the canary's direction, the bystanders', and noise alone
_COUNTED = 3  # runs that are counted, for each that chooses the rule
BOUNDS = 3
"""How many bounds come out of it."""


def many_runs(
    plan: PrivacyPlan,
    key: RootKey,
    runs: int,
    claimed: EpsilonReport,
    *,
    confidence: float,
    pipeline: Pipeline,
    progress: Callable[[int, int], None],
) -> tuple[LowerBound, ...]:
    """Three bounds, each with `confidence`: by (epsilon, delta), by the whole trade-off
    curve, and by the scale of the noise.

    A quarter of the runs chooses score and threshold and is not counted.
    """
    present = coins(key, "one canary", runs)
    seen = np.empty((runs, plan.rounds, _DIMENSION))
    for i, coin in enumerate(present):
        canary = Canaries.for_plan(plan, np.array([coin]))
        own = RootKey(key.derive("one canary", i), key.seeded)
        seen[i] = aligned(pipeline(plan, canary, own, _DIMENSION))
        progress(i + 1, runs)
    found = scores(seen, plan)
    # Correlated noise has independent values within a round only.
    alone = seen if plan.mechanism.noise is Noise.INDEPENDENT else seen[:, :1]
    noise = alone[:, :, 2:] / plan.noise_of_round(0)
    return (
        *_by_membership(found, present, claimed, confidence),
        _by_noise(noise, claimed, confidence),
    )


def _by_membership(
    found: Floats, present: NDArray[np.bool_], claimed: EpsilonReport, confidence: float
) -> tuple[LowerBound, LowerBound]:
    pilot = np.arange(len(found)) % (1 + _COUNTED) == 0
    claim, rounds, delta = claimed.mechanism, claimed.rounds, claimed.delta
    by_delta, by_curve = (
        rule.count(found[~pilot & present], found[~pilot & ~present])
        for rule in choose_rules(
            found[pilot & present],
            found[pilot & ~present],
            claim,
            rounds=rounds,
            delta=delta,
            confidence=confidence,
            fresh=_COUNTED,
        )
    )
    return (
        LowerBound(
            method="clopper-pearson",
            epsilon=by_delta.epsilon(delta=delta, confidence=confidence),
            confidence=confidence,
            detail=f"{by_delta}; assumes nothing",
        ),
        LowerBound(
            method="trade-off",
            epsilon=profile_epsilon(
                by_curve, claim, rounds=rounds, delta=delta, confidence=confidence
            ),
            confidence=confidence,
            detail=f"{by_curve}; refutes every smaller epsilon of this mechanism",
        ),
    )


def _by_noise(noise: Floats, claimed: EpsilonReport, confidence: float) -> LowerBound:
    squares = float((noise**2).sum())
    return LowerBound(
        method="noise-scale",
        epsilon=noise_epsilon(
            squares,
            noise.size,
            claimed.mechanism,
            rounds=claimed.rounds,
            delta=claimed.delta,
            confidence=confidence,
        ),
        confidence=confidence,
        detail=f"{noise.size:,} values without any user have "
        f"{(squares / noise.size) ** 0.5:.4f} of the promised noise; assumes it is "
        "Gaussian",
    )
