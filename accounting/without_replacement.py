"""RDP of the Gaussian mechanism on a cohort of fixed size, drawn without replacement.

The neighbouring relation is replace-one. The replaced user turns one clipped virtual
client into another, 2C apart, whatever u is, so the multiplier handed to the theorem,
noise over sensitivity, is z / 2. Cutting the cohort at random into virtual clients does
not matter: given the cut the release is Gaussian, and every quantity in the theorem is
jointly convex in the distributions it compares.
"""

from functools import lru_cache

import numpy as np

from accounting.renyi import ORDERS, Floats, gaussian_rdp

_ORDERS = [*range(2, 24), *(int(a) for a in np.geomspace(24, 256, 10))]


@lru_cache(maxsize=64)
def without_replacement_rdp(
    population: int, cohort: int, noise_multiplier: float
) -> Floats:
    """RDP of one round at `ORDERS`, under replace-one.

    Guarantee: an upper bound at every order. Beyond order 256, where the theorem is
    slow to evaluate, it is that of the unsampled release, so epsilons below some
    log(1 / delta) / 255 are proved only with far more noise than they need.

    Args:
        population: N [users].
        cohort: m <= N, users in a round.
        noise_multiplier: noise over sensitivity, that is z / 2.

    References:
        Wang, Balle and Kasiviswanathan (2019), "Subsampled Renyi differential privacy
        and analytical moments accountant", arXiv:1808.00087, Theorem 27, as computed by
        dp-accounting at whole orders; between them the cumulant generating function
        (alpha - 1) * rdp is convex, so its chord is an upper bound (Corollary 10).

    Example:
        >>> rdp = without_replacement_rdp(1000, 10, 1.0)
        >>> bool(rdp[0] < 0.01 < rdp[110])
        True
    """
    if noise_multiplier == 0:
        return np.full_like(ORDERS, np.inf)
    if cohort == population:
        return ORDERS / (2 * noise_multiplier**2)
    from dp_accounting import (
        GaussianDpEvent,
        NeighboringRelation,
        SampledWithoutReplacementDpEvent,
    )
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(_ORDERS, NeighboringRelation.REPLACE_ONE)
    event = GaussianDpEvent(noise_multiplier)
    accountant.compose(SampledWithoutReplacementDpEvent(population, cohort, event))
    orders = np.array([1, *_ORDERS], dtype=float)
    cumulant = np.append(0.0, accountant._rdp) * (orders - 1)
    rdp = np.interp(ORDERS, orders, cumulant, right=np.inf) / (ORDERS - 1)
    # Sampling never costs: the release is a mixture, and the divergence quasi-convex.
    rdp = np.minimum(rdp, gaussian_rdp(noise_multiplier))
    rdp.flags.writeable = False
    return np.asarray(rdp)
