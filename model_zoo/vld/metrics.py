"""Metrics of written text: CIDEr, WUPS, and choosing among five."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from fedemb.errors import UserError

Taxonomy = Mapping[str, str]
"""The parent of every word; a word without one is a root."""


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr (Vedantam et al. 2015, arXiv:1411.5726), mean over all clips, from 0 to 10.

    Ten times the cosine of TF-IDF vectors, mean over n-grams of 1 to 4 words and over
    the references of a clip. Words are lower-case and not stemmed; n-grams are weighed
    by the number of clips whose references hold them. (Not CIDEr-D of caption servers,
    which clips counts and punishes lengths.)

    Two corners of the definition: what every clip's references hold weighs nothing, so
    that a corpus of one clip, or of equal captions, scores 0; and a text of fewer than
    n words has no n-grams, so that equal captions of two words score 5.

    Raises:
        UserError: lists of different length, nothing to score, or a clip without
            references.

    Example:
        >>> texts = ["a red ball rises slowly", "two grey cats sit still"]
        >>> round(cider(texts, [[t] for t in texts]), 6)
        10.0
    """
    if not candidates or len(candidates) != len(references):
        raise UserError(
            f"{len(candidates)} candidates need as many lists of references, not "
            f"{len(references)}, and at least one."
        )
    for clip, own in enumerate(references):
        if isinstance(own, str) or not own:
            raise UserError(
                f"clip {clip} has references {own!r}; it needs a list of one text or "
                "more. Leave clips without references out."
            )
    total = 0.0
    for n in range(1, 5):
        told = [[_grams(text, n) for text in texts] for texts in references]
        seen = Counter(g for texts in told for g in set().union(*texts))
        for candidate, texts in zip(candidates, told, strict=True):
            mine = _weighed(_grams(candidate, n), seen, len(told))
            scores = [_cosine(mine, _weighed(t, seen, len(told))) for t in texts]
            total += sum(scores) / len(scores)
    return 10.0 * total / 4 / len(candidates)


def wu_palmer(first: str, second: str, taxonomy: Taxonomy) -> float:
    """2 depth(lcs) / (depth(a) + depth(b)), where a root has depth 1; 1 if equal.

    Wu and Palmer (1994). Words without a common ancestor have similarity 0.

    Example:
        >>> tree = {"cat": "animal", "dog": "animal", "animal": "thing"}
        >>> round(wu_palmer("cat", "dog", tree), 4)
        0.6667
    """
    if first == second:
        return 1.0
    ours, theirs = _line(first, taxonomy), _line(second, taxonomy)
    common = next((word for word in ours if word in theirs), None)
    if common is None:
        return 0.0
    return 2 * len(_line(common, taxonomy)) / (len(ours) + len(theirs))


def wups(
    answer: str, reference: str, taxonomy: Taxonomy, threshold: float = 0.0
) -> float:
    """WUPS of two answers (Malinowski and Fritz 2014, arXiv:1410.0210).

    The answers are sets of words; case and punctuation do not matter. No words are like
    no words alone.

    Args:
        answer: of a model.
        reference: of a person.
        taxonomy: of words.
        threshold: similarities below it count a tenth; 0 is the plain form.

    Example:
        >>> wups("a red ball", "a red ball", {})
        1.0
    """
    ours, theirs = set(_words(answer)), set(_words(reference))
    if not ours or not theirs:
        return float(ours == theirs)

    def best(word: str, others: set[str]) -> float:
        found = max(wu_palmer(word, other, taxonomy) for other in others)
        return found if found >= threshold else 0.1 * found

    return min(
        math.prod(best(word, theirs) for word in ours),
        math.prod(best(word, ours) for word in theirs),
    )


def choice_accuracy(scores: Tensor, right: Tensor) -> float:
    """Share of questions whose right option scores highest.

    Ties are wrong, and so is a question with a score that is no number.

    Args:
        scores: `[n, options]`, log-likelihoods or cosines.
        right: the right option of each, `[n]`.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.1, 0.9, 0.0, 0.2, 0.3]])
        >>> choice_accuracy(scores, torch.tensor([1]))
        1.0
    """
    own = scores.gather(1, right[:, None])
    ahead = (~(scores < own)).sum(1)
    return float((ahead == 1).float().mean())


def _line(word: str, taxonomy: Taxonomy) -> list[str]:
    line = [word]
    while line[-1] in taxonomy:
        line.append(taxonomy[line[-1]])
        if len(line) > len(taxonomy) + 1:
            raise UserError(f"the taxonomy has a circle above {word!r}.")
    return line


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _words(text)
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _weighed(
    grams: Counter[tuple[str, ...]], seen: Counter[tuple[str, ...]], clips: int
) -> dict[tuple[str, ...], float]:
    return {g: c * math.log(clips / max(seen[g], 1)) for g, c in grams.items()}


def _cosine(
    first: Mapping[tuple[str, ...], float], second: Mapping[tuple[str, ...], float]
) -> float:
    size = math.hypot(*first.values()) * math.hypot(*second.values())
    return sum(v * second.get(g, 0.0) for g, v in first.items()) / size if size else 0.0
