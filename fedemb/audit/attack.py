"""Scores of the attack: the more, the likelier the canary took part."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedemb.audit.canaries import antipodal
from fedemb.plan import PrivacyPlan

Floats = NDArray[np.float64]


def aligned(releases: Tensor) -> Floats:
    """Releases `[..., T, P]` with the alternating sign of canaries taken out."""
    signs = (-1.0) ** np.arange(releases.shape[-2])
    return np.asarray(releases.numpy() * signs[:, None], dtype=np.float64)


def log_likelihood_ratio(x: Floats, plan: PrivacyPlan) -> Floats:
    """Log of how much likelier the observations are with the canary, `[...]`.

    Optimal where rounds and their noise are independent and the canary is alone in its
    direction (Neyman and Pearson): (1-q) N(0, z^2) + q N(1, z^2) against N(0, z^2), or
    against its mirror image where the canary is antipodal.

    Args:
        x: aligned observations in the canary's direction, `[..., T]`.
        plan: public numbers.
    """
    z = np.array([plan.noise_of_round(t) for t in range(x.shape[-1])])
    q = plan.mechanism.sampling_probability
    with np.errstate(divide="ignore"):
        log_out, log_in = np.log1p(-q), np.log(q)

    def log_density(at: float) -> Floats:
        return np.asarray(
            np.logaddexp(
                log_out - x**2 / (2 * z**2), log_in - (x - at) ** 2 / (2 * z**2)
            )
        )

    other = log_density(-1.0) if antipodal(plan) else -(x**2) / (2 * z**2)
    return np.asarray((log_density(1.0) - other).sum(axis=-1))


def scores(x: Floats, plan: PrivacyPlan) -> Floats:
    """Three scores of single-canary runs `[R, T, P]`, `[R, 3]`.

    The likelihood ratio; the plain sum, in which noise that rounds share cancels; and
    what the bystanders tell of their grouping. Which one is used is chosen on runs that
    are used for nothing else.
    """
    return np.stack(
        [
            log_likelihood_ratio(x[:, :, 0], plan),
            x[:, :, 0].sum(axis=1),
            x[:, :, 1].sum(axis=1),
        ],
        axis=1,
    )
