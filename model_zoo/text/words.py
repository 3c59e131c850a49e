"""From text to words, and from counted words to byte-pair merges."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

SPACE = "\u2581"
"""Stands for the space before a word, as in SentencePiece."""

_WORD = re.compile(rf"{SPACE}?(?:[^\W\d_]+|\d|[^\w\s]|_)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def canonical(text: str) -> str:
    """Lower case, no punctuation, single spaces, one final period.

    As VideoPrism prepares its captions (Zhao et al., 2024, arXiv:2402.13217).

    Example:
        >>> canonical("Hello,  World!")
        'hello world.'
    """
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split()) + "."


def words(text: str) -> list[str]:
    """Words of normalised text, each with the mark of the space before it.

    Text is put into the compatible form of Unicode, lower case, and single spaces;
    merges never cross the ends of these words.

    Example:
        >>> words("A red  ball, twice")
        ['▁a', '▁red', '▁ball', ',', '▁twice']
    """
    plain = unicodedata.normalize("NFKC", text).lower().split()
    return _WORD.findall("".join(SPACE + word for word in plain))


def learn_merges(counts: Mapping[str, int], number: int) -> list[tuple[str, str]]:
    """The most frequent pairs of neighbours, merged greedily.

    Byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909); ties go to the pair
    that sorts first, so that the same counts give the same merges everywhere.

    Args:
        counts: how often each word occurs.
        number: merges wanted; fewer are returned when no pair occurs twice.

    Example:
        >>> learn_merges({"aba": 3, "ab": 2}, 2)
        [('a', 'b'), ('ab', 'a')]
    """
    split = {word: tuple(word) for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best, often = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if often < 2:
            break
        merges.append(best)
        joined = "".join(best)
        for word, parts in split.items():
            if joined in word:
                split[word] = merged(parts, best)
    return merges


def merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The parts with every occurrence of a pair of neighbours joined, from the left.

    Example:
        >>> merged(("a", "b", "a", "b"), ("a", "b"))
        ('ab', 'ab')
    """
    out: list[str] = []
    at = 0
    while at < len(parts):
        if parts[at : at + 2] == pair:
            out.append(parts[at] + parts[at + 1])
            at += 2
        else:
            out.append(parts[at])
            at += 1
    return tuple(out)
