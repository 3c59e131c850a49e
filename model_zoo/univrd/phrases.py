"""Label spaces as language: names, relation phrases, and the prompts made of them.

Data sets with different words are unified by embedding the words; nothing else says
that a man may be a person.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

OBJECTS, PREDICATES, SOURCE = "object_name", "relations", "source"
NO_INTERACTION = "no interaction"

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven prompts that Radford et al. (2021) found to be enough of their 80."""

BARE = ("{}",)
"""A name as it is, without a prompt around it."""

_PREPOSITIONS = (
    "above below under over inside outside within beside near behind around against at",
    "along across between beyond by for from in left right next of on onto through to",
    "with without and",
)
_UNCHANGED = frozenset(word for line in _PREPOSITIONS for word in line.split())
_DOUBLED = frozenset(
    ("cut", "get", "hit", "hop", "hug", "pet", "put", "run", "set", "sit", "stab")
    + ("stop", "swim")
)
_IRREGULAR = {"lie": "lying", "tie": "tying", "die": "dying"}


def gerund(verb: str) -> str:
    """A predicate as it stands between its two nouns.

    Verbs get their -ing form; prepositions, passives and what already ends in -ing stay
    as they are, and no interaction is the word `and`.

    Example:
        >>> [gerund(v) for v in ("ride", "look_at", "cut", "next to", "held by")]
        ['riding', 'looking at', 'cutting', 'next to', 'held by']
        >>> gerund("no interaction")
        'and'
    """
    words = verb.replace("_", " ").split()
    if words == NO_INTERACTION.split():
        return "and"
    first = words[0]
    passive = len(words) > 1 and words[-1] == "by" and words[0] != "stand"
    if first in _UNCHANGED or passive or (first.endswith("ing") and len(first) > 4):
        return " ".join(words)
    if first in _IRREGULAR:
        first = _IRREGULAR[first]
    elif first in _DOUBLED:
        first = f"{first}{first[-1]}ing"
    elif first.endswith("e") and not first.endswith(("ee", "oe", "ye")):
        first = f"{first[:-1]}ing"
    else:
        first += "ing"
    return " ".join([first, *words[1:]])


def phrase(subject: str, verb: str, target: str) -> str:
    """The one prompt of a relation, in training and at test.

    Example:
        >>> phrase("person", "ride", "elephant")
        'a person riding an elephant'
    """
    return f"{_article(subject)} {gerund(verb)} {_article(target)}"


def bare_phrase(subject: str, verb: str, target: str) -> str:
    """The three names of a relation, and nothing around them.

    Example:
        >>> bare_phrase("person", "look_at", "elephant")
        'person look at elephant'
    """
    return f"{subject} {verb} {target}".replace("_", " ")


def _article(noun: str) -> str:
    noun = noun.replace("_", " ")
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


@dataclass(frozen=True)
class Source:
    """The label space of one data set: numbers of names in the union.

    Attributes:
        name: of the data set.
        objects: names of things that it uses.
        predicates: names of relations that it uses; none for detection alone.
    """

    name: str
    objects: tuple[int, ...]
    predicates: tuple[int, ...]


@dataclass(frozen=True)
class LabelSpace:
    """The union of the label spaces of several data sets.

    Attributes:
        objects: names of things.
        predicates: names of relations.
        sources: who uses which of them.

    Raises:
        UserError: if there are no names.
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not (self.objects and self.predicates and self.sources):
            raise UserError(
                "relationships need names: the data set must give the vocabularies "
                f"{OBJECTS!r} and {PREDICATES!r}; use --dataset relation-scenes."
            )

    @staticmethod
    def of(vocabularies: Mapping[str, tuple[str, ...]]) -> "LabelSpace":
        """From the vocabularies of a data set.

        `object_name` and `relations` hold the union; where `source` names several data
        sets, `object_name/NAME` and `relations/NAME` hold what each of them uses.

        Raises:
            UserError: if names are missing, or a source uses an unknown one.
        """
        objects = tuple(vocabularies.get(OBJECTS, ()))
        predicates = tuple(vocabularies.get(PREDICATES, ()))
        sources = tuple(
            Source(
                name,
                _numbers(vocabularies.get(f"{OBJECTS}/{name}", objects), objects),
                _numbers(
                    vocabularies.get(f"{PREDICATES}/{name}", predicates), predicates
                ),
            )
            for name in vocabularies.get(SOURCE, ("all",))
        )
        return LabelSpace(objects, predicates, sources)

    @cached_property
    def triplets(self) -> NDArray[np.int64]:
        """Every (subject, predicate, object) that some source can say, `[R, 3]`."""
        found = [
            (s, p, o)
            for source in self.sources
            for s in source.objects
            for p in source.predicates
            for o in source.objects
        ]
        return np.unique(np.array(found, dtype=np.int64).reshape(-1, 3), axis=0)

    @cached_property
    def phrase_number(self) -> NDArray[np.int64]:
        """Row of `triplets` by subject, predicate and object; -1 if nobody says it."""
        k, p = len(self.objects), len(self.predicates)
        table = np.full((k, p, k), -1, dtype=np.int64)
        table[tuple(self.triplets.T)] = np.arange(len(self.triplets))
        return table

    def phrases(self, *, bare: bool = False) -> list[str]:
        """The prompts of `triplets`, in order; or bare, the three names in a row."""
        make = bare_phrase if bare else phrase
        return [
            make(self.objects[s], self.predicates[p], self.objects[o])
            for s, p, o in self.triplets
        ]

    def prompts(self, templates: tuple[str, ...]) -> list[str]:
        """Prompts of all names, `[names * templates]`, a name's own together."""
        return [
            template.format(name.replace("_", " "))
            for name in self.objects
            for template in templates
        ]

    def phrases_of(self, source: int) -> NDArray[np.int64]:
        """Rows of `triplets` that a source can say."""
        own = self.sources[source]
        inside = (
            np.isin(self.triplets[:, 0], own.objects)
            & np.isin(self.triplets[:, 1], own.predicates)
            & np.isin(self.triplets[:, 2], own.objects)
        )
        return np.flatnonzero(inside)

    @cached_property
    def mirrored(self) -> NDArray[np.int64]:
        """What each predicate is called in a mirror, `[predicates]`.

        Left and right change places; a predicate whose mirror image has no name is -1
        (a picture with it must not be flipped).
        """
        swap = {"left": "right", "right": "left"}
        place = {name: i for i, name in enumerate(self.predicates)}
        seen = [
            " ".join(swap.get(word, word) for word in name.split())
            for name in self.predicates
        ]
        return np.array([place.get(name, -1) for name in seen], dtype=np.int64)


def _numbers(own: tuple[str, ...], union: tuple[str, ...]) -> tuple[int, ...]:
    unknown = [name for name in own if name not in union]
    if unknown:
        raise UserError(f"{unknown[0]!r} is not in the union of names {union}.")
    return tuple(union.index(name) for name in own)
