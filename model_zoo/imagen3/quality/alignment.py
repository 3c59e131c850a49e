"""Whether pictures show what prompts say, in the eyes of any judge of similarity.

CLIPScore (Hessel et al., 2021, arXiv:2104.08718), VQAScore (Lin et al., 2024,
arXiv:2404.01291) and questions made from the prompt as Gecko asks them (Wiles et al.,
2024, arXiv:2404.16820). The published judges are large models; offline, the public eye
of this system, or an oracle that knows a generated scene, takes their place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from model_zoo.imagen3.checks import numbers_of

VQA_TEMPLATE = 'Does this figure show "{text}"? Please answer yes or no.'

Judge: TypeAlias = Callable[[int, Sequence[str]], NDArray[np.floating]]
"""(picture's number, texts) to one similarity per text, as logits."""

WORDS: tuple[tuple[str, ...], ...] = (
    ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan"),
    ("square", "ball", "triangle", "cross", "ring", "diamond"),
    ("left of", "right of", "above", "below", "inside", "around", "holding", "next to"),
    ("sky", "water", "grass", "sand"),
)
"""Words that exclude each other: colours, shapes, relations and grounds of scenes."""


def clip_score(cosine: float, *, original: bool = False) -> float:
    """100 max(cos, 0), or 2.5 max(cos, 0) as first published.

    Raises:
        UserError: for what is no cosine.

    Example:
        >>> clip_score(0.31), clip_score(-0.2), clip_score(0.4, original=True)
        (31.0, 0.0, 1.0)
    """
    if not abs(cosine) <= 1 + 1e-5:
        raise UserError(
            f"cosine={cosine} must be in [-1, 1]; divide both vectors by their lengths."
        )
    return (2.5 if original else 100.0) * max(cosine, 0.0)


def vqa_question(text: str) -> str:
    """What a visual question answerer is asked about a prompt.

    Example:
        >>> vqa_question("a cat")
        'Does this figure show "a cat"? Please answer yes or no.'
    """
    return VQA_TEMPLATE.format(text=text)


def vqa_score(answer_losses: Sequence[float]) -> float:
    """P("Yes") = exp(-mean cross-entropy of the answer's tokens).

    Raises:
        UserError: without a token, or for losses that are negative or no numbers.

    Example:
        >>> round(vqa_score([math.log(2)]), 3)
        0.5
    """
    losses = list(answer_losses)
    if not losses or not all(loss >= 0 for loss in losses):
        raise UserError(
            f"answer_losses={losses} must be one cross-entropy per token, each 0 or "
            "more; give -log of the probability of every token of the answer."
        )
    return math.exp(-sum(losses) / len(losses))


@dataclass(frozen=True)
class Choice:
    """A question with one right answer.

    Attributes:
        right: the prompt.
        wrong: the prompt with one word exchanged for each that excludes it.
    """

    right: str
    wrong: tuple[str, ...]


def questions(
    prompt: str, words: Sequence[Sequence[str]] = WORDS
) -> tuple[Choice, ...]:
    """One question for every place where the prompt has a word of a group.

    Example:
        >>> [len(q.wrong) for q in questions("a red ball above a ring")]
        [7, 5, 7, 5]
        >>> questions("a red ball")[0].wrong[0]
        'a green ball'
    """
    padded = f" {prompt} "
    found = []
    for group in words:
        for word in group:
            start = padded.find(f" {word} ")
            while start >= 0:
                rest = padded[start + len(word) + 2 :]
                before = padded[: start + 1]
                wrong = tuple(
                    f"{before}{other} {rest}".strip()
                    for other in group
                    if other != word
                )
                found.append((start, Choice(prompt, wrong)))
                start = padded.find(f" {word} ", start + 1)
    return tuple(choice for _, choice in sorted(found, key=lambda pair: pair[0]))


def choice_probability(judge: Judge, picture: int, choice: Choice) -> float:
    """Probability that the judge gives the right answer, in [0, 1].

    Raises:
        UserError: if the judge does not give one finite logit per text.
    """
    texts = (choice.right, *choice.wrong)
    logits = numbers_of("the judge's answer", judge(picture, texts))
    if len(logits) != len(texts):
        raise UserError(
            f"the judge gave {len(logits)} logits for {len(texts)} texts; it must give "
            "one per text, in their order."
        )
    shares = np.exp(logits - logits.max())
    return float(shares[0] / shares.sum())


def question_score(judge: Judge, prompts: Sequence[str]) -> float:
    """Mean share of right answers of pictures 0, 1, ... to their prompts' questions.

    Pictures whose prompts ask nothing do not count; nan if none does.
    """
    shares = []
    for picture, prompt in enumerate(prompts):
        asked = questions(prompt)
        if asked:
            right = [choice_probability(judge, picture, q) > 0.5 for q in asked]
            shares.append(float(np.mean(right)))
    return float(np.mean(shares)) if shares else math.nan
