"""Elo scores: P(i beats j) = 1 / (1 + 10^((s_j - s_i) / 400)).

Scores are the maximum-likelihood fit of this model (Bradley and Terry, 1952) to wins of
all pairs, moved to mean 1000. The report does not give its own update rule; on its
printed matrices this fit gives the same order and points within 25 of the printed ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from fedemb.errors import UserError

MEAN = 1000.0
_POINTS = 400 / math.log(10)


@dataclass(frozen=True)
class Rating:
    """One side-by-side comparison.

    Attributes:
        first: a model.
        second: the other one.
        share: of the win that goes to the first: 1, 0, or 0.5 if indifferent.
    """

    first: int
    second: int
    share: float


@dataclass(frozen=True)
class EloTable:
    """Scores of models, and where they lie with the stated confidence.

    Attributes:
        scores: `[models]`, mean 1000.
        low: `[models]`.
        high: `[models]`.
        confidence: of the intervals.
    """

    scores: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    confidence: float


def win_matrix(ratings: Sequence[Rating], models: int) -> NDArray[np.float64]:
    """How often row beats column, indifference counted as half a win to each.

    Raises:
        UserError: if a share is outside [0, 1], a model compared with itself, or one
            that there is not.

    Example:
        >>> win_matrix([Rating(0, 1, 1.0), Rating(1, 0, 0.5)], 2).tolist()
        [[0.0, 1.5], [0.5, 0.0]]
    """
    if models < 2:
        raise UserError(f"models={models} must be at least 2: one alone beats nobody.")
    wins = np.zeros((models, models))
    for rating in ratings:
        if not {rating.first, rating.second} <= set(range(models)):
            raise UserError(
                f"{rating} must compare two of models 0 to {models - 1}; give `models` "
                "the number of all models."
            )
        if not 0 <= rating.share <= 1 or rating.first == rating.second:
            raise UserError(f"{rating} must compare two models and share one win.")
        wins[rating.first, rating.second] += rating.share
        wins[rating.second, rating.first] += 1 - rating.share
    return wins


def elo(wins: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores `[models]` that make the wins `[models, models]` likeliest.

    Wins may be counts or shares of each pair. A pair that was never compared says
    nothing; a model that never won, or never lost, has its score held by a prior worth
    a thousandth of a win and of a loss against everybody. Without any win all scores
    are 1000.

    Raises:
        UserError: if the wins are not a square of two models or more, or one of them is
            negative or no number.

    Example:
        >>> elo(np.array([[0, 57.8], [42.2, 0]])).round(1).tolist()
        [1027.3, 972.7]
    """
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise UserError(
            f"wins of shape {wins.shape} must be [models, models], of two models or "
            "more; `win_matrix` makes them of ratings."
        )
    if not (np.isfinite(wins).all() and wins.min() >= 0):
        raise UserError("wins must be finite numbers of 0 or more: counts or shares.")
    count = len(wins)
    smooth = 1e-3 * (1 - np.eye(count)) * (wins.sum() > 0)
    lopsided = (wins.sum(0) == 0) | (wins.sum(1) == 0)
    wins = wins + smooth * (lopsided[:, None] | lopsided)

    def cost(skill: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        ahead = skill[:, None] - skill
        value = -(wins * log_expit(ahead)).sum() / total
        pull = wins * expit(-ahead)
        return value, (pull.sum(0) - pull.sum(1)) / total

    total = max(float(wins.sum()), 1e-12)
    found = minimize(cost, np.zeros(count), jac=True, method="BFGS", tol=1e-9)
    skill = cast(NDArray[np.float64], found.x)
    scores: NDArray[np.float64] = MEAN + _POINTS * (skill - skill.mean())
    return scores


def elo_table(
    ratings: Sequence[Rating],
    models: int,
    *,
    confidence: float = 0.99,
    draws: int = 500,
    seed: int = 0,
) -> EloTable:
    """Scores with bootstrap intervals over ratings (Efron, 1979).

    Args:
        ratings: of all pairs.
        models: how many there are.
        confidence: of the percentile intervals; the report gives 99 %.
        draws: resamplings of the ratings.
        seed: of the resampling.

    Raises:
        UserError: without ratings, as `win_matrix`, or for numbers out of range.
    """
    if not ratings:
        raise UserError("ratings are empty; scores need one comparison or more.")
    if not 0 < confidence < 1 or draws < 1:
        raise UserError(
            f"confidence={confidence} must be between 0 and 1, and draws={draws} at "
            "least 1."
        )
    draw = np.random.default_rng(seed)
    single = [win_matrix([rating], models) for rating in ratings]
    stack = np.stack(single)
    resampled = [
        elo(np.tensordot(counts, stack, 1))
        for counts in draw.multinomial(len(stack), [1 / len(stack)] * len(stack), draws)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return EloTable(elo(stack.sum(0)), low, high, confidence)


def expected_share(difference: float) -> float:
    """Share of wins of the model that is `difference` points ahead.

    Example:
        >>> round(expected_share(54.6), 3), expected_share(0.0)
        (0.578, 0.5)
    """
    return float(expit(difference / _POINTS))
