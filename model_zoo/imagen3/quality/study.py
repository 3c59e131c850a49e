"""The human study: who compares what, and how answers are put together.

Every aspect is judged alone, in pairs of anonymous pictures whose sides are shuffled
for each rating; 2,500 ratings a pair, spread evenly over the prompts.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from fedemb.errors import UserError
from model_zoo.imagen3.checks import Numbers, paired
from model_zoo.imagen3.quality.elo import Rating

SIDE_BY_SIDE = (
    "overall preference",
    "prompt-image alignment",
    "visual appeal",
    "detailed prompt-image alignment",
)
NUMERICAL = "numerical reasoning"
"""The fifth aspect: one model at a time, right or wrong."""
RATINGS = 2_500
_ANSWERS = {"left": 1.0, "right": 0.0, "indifferent": 0.5}


@dataclass(frozen=True)
class Question:
    """One question to a rater, who sees neither names nor numbers of models.

    Attributes:
        aspect: one of `SIDE_BY_SIDE`.
        prompt: number of the prompt.
        left: model of the picture on the left.
        right: model of the picture on the right.
    """

    aspect: str
    prompt: int
    left: int
    right: int


def plan(
    models: int, prompts: int, *, ratings: int = RATINGS, seed: int = 0
) -> list[Question]:
    """All questions of a study, in random order.

    Every pair of models gets `ratings` questions in every aspect, no prompt more than
    one more than another, and sides by a coin.

    Raises:
        UserError: with fewer than two models or no prompt.

    Example:
        >>> len(plan(3, 7, ratings=10))
        120
    """
    if models < 2 or prompts < 1 or ratings < 1:
        raise UserError(
            f"a study needs two models or more, a prompt and a rating, not {models}, "
            f"{prompts} and {ratings}."
        )
    draw = np.random.default_rng(seed)
    questions = []
    for aspect in SIDE_BY_SIDE:
        for one, two in combinations(range(models), 2):
            rounds = -(-ratings // prompts)
            order = np.concatenate([draw.permutation(prompts) for _ in range(rounds)])
            swaps = draw.random(ratings) < 0.5
            for prompt, swap in zip(order[:ratings].tolist(), swaps, strict=True):
                left, right = (two, one) if swap else (one, two)
                questions.append(Question(aspect, prompt, left, right))
    return [questions[k] for k in draw.permutation(len(questions))]


def rating(question: Question, answer: str) -> Rating:
    """What an answer says about the two models.

    Args:
        question: that was asked.
        answer: `left`, `right`, or `indifferent`, which is half a win to each.

    Raises:
        UserError: for any other answer.
    """
    if answer not in _ANSWERS:
        raise UserError(f"answer={answer!r} must be one of {', '.join(_ANSWERS)}.")
    return Rating(question.left, question.right, _ANSWERS[answer])


def significant(
    first: NDArray[np.floating], second: NDArray[np.floating], level: float = 0.05
) -> bool:
    """Whether paired scores differ, by Wilcoxon's signed-rank test.

    Args:
        first: `[n]`, one score per prompt.
        second: `[n]`, the other model's.
        level: p must be below it.

    Raises:
        UserError: without a prompt, for different lengths, or values that are not
            finite.
    """
    one, two = paired(("first", "second"), first, second)
    if np.array_equal(one, two):
        return False
    return bool(wilcoxon(one, two).pvalue < level)


def agreement(automatic: Numbers, human: Numbers) -> float:
    """Share of pairs of models that a metric orders as people do; ties agree never.

    Raises:
        UserError: for fewer than two models, different lengths, or values that are not
            finite.

    Example:
        >>> agreement([0.9, 0.5, 0.7], [1100, 1000, 900])
        0.6666666666666666
    """
    a, b = paired(("automatic", "human"), automatic, human, least=2)
    pairs = list(combinations(range(len(a)), 2))
    same = [(a[i] - a[j]) * (b[i] - b[j]) > 0 for i, j in pairs]
    return float(np.mean(same))
