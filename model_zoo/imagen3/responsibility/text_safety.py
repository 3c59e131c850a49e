"""Rules for captions and prompts: what is unsafe, and what tells who somebody is.

A small stand-in for the report's classifiers: lists of words by policy, and patterns of
e-mail addresses, telephone numbers and names. Good enough to measure a pipeline with,
not to run a service on.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fedemb.errors import UserError

UNSAFE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "violence": (
            *("gore", "gory", "beheading", "beheaded", "massacre", "torture"),
            *("mutilated", "bloodbath", "stabbing", "shooting", "corpse", "murder"),
        ),
        "sexual": (
            "nude",
            "naked",
            "porn",
            "pornographic",
            "erotic",
            "nsfw",
            "topless",
        ),
        "hate": ("nazi", "swastika", "lynching", "supremacist", "genocide"),
        "harassment": ("humiliating", "bullying", "degrading", "stalking"),
    }
)
"""Words by policy; a text with one of them is unsafe."""

_DISGUISES = str.maketrans("013457@$!", "oieastasi")
_PERSONAL = (
    ("e-mail", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("phone", r"(?<![\w.])\+?\(?\d{2,4}\)?(?:[ ./-]?\d{2,4}){2,5}(?![\w.])"),
    (
        "name",
        r"\b(?:Mr|Mrs|Ms|Dr|Prof)\.? [A-Z][a-z]+(?: [A-Z][a-z]+)?"
        r"|(?<=named )[A-Z][a-z]+(?: [A-Z][a-z]+)?",
    ),
)


def violations(
    text: str, words: Mapping[str, Sequence[str]] = UNSAFE
) -> tuple[str, ...]:
    """Policies that a text violates, also where digits stand for letters.

    Example:
        >>> violations("a g0ry scene"), violations("a ball of yarn")
        (('violence',), ())
    """
    plain = text.lower()
    read = set(re.findall(r"[a-z]+", plain))
    read |= set(re.findall(r"[a-z]+", plain.translate(_DISGUISES)))
    return tuple(policy for policy, bad in words.items() if read & set(bad))


def personal(text: str) -> tuple[str, ...]:
    """Kinds of personal information in a text: `e-mail`, `phone`, `name`.

    Example:
        >>> personal("write to ann@example.org or +44 20 7946 0018")
        ('e-mail', 'phone')
    """
    return tuple(kind for kind, pattern in _PERSONAL if re.search(pattern, text))


def redacted(text: str) -> str:
    """The text with every piece of personal information replaced by its kind.

    Example:
        >>> redacted("a portrait of Dr. Jane Roe, jane@example.org")
        'a portrait of [name], [e-mail]'
    """
    for kind, pattern in _PERSONAL:
        text = re.sub(pattern, f"[{kind}]", text)
    return text


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """How a filter did on prompts that are known to be bad or good.

    Attributes:
        precision: share of bad ones among the blocked; 1 if nothing was blocked.
        recall: share of bad ones that were blocked.
        adherence: share of good ones that were let through; refusing all has 0.
        violations_without: share of bad ones among all, without the filter.
        violations_with: share of bad ones among those let through.
    """

    precision: float
    recall: float
    adherence: float
    violations_without: float
    violations_with: float


def judge_filter(
    blocked: Callable[[str], bool], red_team: Iterable[str], benign: Iterable[str]
) -> FilterReport:
    """Run a filter over a red team's prompts and benign ones.

    Raises:
        UserError: if either list is empty.

    Example:
        >>> judge_filter(lambda t: bool(violations(t)), ["a corpse"], ["a cat"]).recall
        1.0
    """
    bad, good = [blocked(t) for t in red_team], [blocked(t) for t in benign]
    if not bad or not good:
        raise UserError("a filter is judged on red-team and benign prompts; give both.")
    hits, misses = sum(bad), len(bad) - sum(bad)
    passed = misses + len(good) - sum(good)
    return FilterReport(
        precision=hits / (hits + sum(good)) if hits + sum(good) else 1.0,
        recall=hits / len(bad),
        adherence=1 - sum(good) / len(good),
        violations_without=len(bad) / (len(bad) + len(good)),
        violations_with=misses / passed if passed else 0.0,
    )
