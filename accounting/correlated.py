"""Which samplers correlated noise can be combined with, and what a period then costs.

A *period* is a stretch of rounds whose noise is independent of all other periods: the
whole run, or what lies between two restarts. Within one the release is post-processing
of S x + noise (`accounting.matrices`), so a period is one Gaussian mechanism with noise
multiplier z / sensitivity(S), whatever the rounds release. Periods compose.

The sensitivity needs to know how often and how soon a user returns:

====================== ============================== ===========================
sampler                a user takes part              allowed with
====================== ============================== ===========================
cyclic                 every floor(N / m) rounds      tree, banded
full participation     in every round                 tree; one band
shuffled               once an epoch, anywhere        tree of whole epochs; one band
Poisson, by clients    anywhere                       banded, amplified
====================== ============================== ===========================

The last row is block-cyclic Poisson sampling: clients belong to one of b groups for
ever, round i draws from group i mod b with probability b q. A client's rounds are then
at least b apart, so its columns of a b-banded S share no row. Given everything else, b
rounds are one Gaussian release of dimension b P in which its contribution s (x) d, with
|d| <= 1 and s the column of S, appears with probability b q: one Poisson-sampled
Gaussian of multiplier z / |s|, add-or-remove or antipodal as without bands. The other
clients' contributions to those rows may depend on what the rows before released; they
do so alike under both hypotheses, and cancel in the likelihood ratio.

References: Kairouz et al. (2021), arXiv:2103.00039; Denisov et al. (2022),
arXiv:2202.08312, Theorem 2.1; Choquette-Choo et al. (2023), arXiv:2306.08153, Theorems
2 and 4.
"""

from typing import TYPE_CHECKING

import numpy as np

from accounting import _validate
from accounting.errors import UnsupportedMechanism
from accounting.matrices import Participation, banded_sensitivity, tree_sensitivity

if TYPE_CHECKING:
    from accounting.mechanism import SampledGaussian

_TREE = "tree"
_BANDED = "banded"
_POISSON = "poisson-virtual-clients"
_PERIODIC = ("cyclic", "shuffled", "full-participation")


def check(mechanism: "SampledGaussian") -> None:
    """Refuse correlated noise where nothing is proved, and say why.

    Raises:
        ValueError: if a number is missing or out of range.
        UnsupportedMechanism: if the sampler and the noise do not go together.
    """
    noise, sampler = mechanism.noise.value, mechanism.sampler.value
    if (noise == _BANDED) != (mechanism.bands is not None):
        raise ValueError(
            f"bands={mechanism.bands} must be given for noise='banded' and for no "
            "other."
        )
    if sampler == _POISSON and noise == _BANDED:
        _check_amplified(mechanism)
        return
    if sampler not in _PERIODIC:
        raise UnsupportedMechanism(
            f"noise={noise!r} cannot be combined with sampler={sampler!r}: nothing "
            "bounds how often a user returns within correlated noise. Use cyclic, or "
            f"{_POISSON} with banded noise."
        )
    if mechanism.rounds_per_period is None:
        raise ValueError(
            f"rounds_per_period=None must be given for noise={noise!r}: the rounds "
            "between two restarts, or of the whole run."
        )
    _validate.whole_at_least("rounds_per_period", mechanism.rounds_per_period, 1)
    sensitivity(mechanism)  # refuses users who return too soon


def _check_amplified(mechanism: "SampledGaussian") -> None:
    if mechanism.rounds_per_period is not None:
        raise ValueError(
            f"rounds_per_period={mechanism.rounds_per_period} must be left out for "
            "Poisson sampling with bands: any number of rounds composes."
        )
    bands = len(mechanism.bands or ())
    if bands * mechanism.sampling_probability > 1:
        raise UnsupportedMechanism(
            f"bands={bands} times the sampling probability of "
            f"{mechanism.sampling_probability:g} must be at most 1, as a round draws "
            "from one of that many groups; use fewer bands or a smaller cohort."
        )


def participation(mechanism: "SampledGaussian") -> Participation:
    """How often a user takes part in a period, and how far apart.

    Raises:
        UnsupportedMechanism: for a shuffled sampler whose periods cut an epoch.

    Example:
        >>> from accounting.mechanism import Noise, SampledGaussian, Sampler
        >>> tree = SampledGaussian(sampler=Sampler.CYCLIC, population=1000,
        ...     users_per_round=100, noise_multiplier=4.0, noise=Noise.TREE,
        ...     rounds_per_period=64)
        >>> participation(tree).most, participation(tree).separation
        (7, 10)
    """
    from accounting.mechanism import rounds_per_epoch

    rounds, sampler = mechanism.period, mechanism.sampler.value
    epoch = rounds_per_epoch(mechanism.population, mechanism.users_per_round)
    if sampler == "cyclic":
        most = -(-rounds // epoch)
        return Participation(rounds=rounds, most=most, separation=epoch)
    if sampler == "full-participation":
        return Participation(rounds=rounds, most=rounds)
    if rounds % epoch:
        raise UnsupportedMechanism(
            f"rounds_per_period={rounds} must be a multiple of the {epoch} rounds of "
            "an epoch for sampler='shuffled', as users return at any time in the next "
            "epoch; use sampler='cyclic'."
        )
    return Participation(rounds=rounds, most=rounds // epoch)


def sensitivity(mechanism: "SampledGaussian") -> float:
    """Of a period, in clip norms of a single user; 1 for independent noise.

    Raises:
        UnsupportedMechanism: if users return within the bands of the strategy.
    """
    bands = np.array(mechanism.bands or (1.0,))
    if mechanism.noise.value == _TREE:
        return tree_sensitivity(participation(mechanism))
    if mechanism.noise.value == _BANDED:
        if mechanism.sampler.value == _POISSON:
            return float(np.sqrt(np.sum(bands**2)))
        return banded_sensitivity(bands, participation(mechanism))
    return 1.0
