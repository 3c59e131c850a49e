"""Questions and answers about a clip, made from its caption.

The paper has a large language model write them from captions, asking for causes and for
order in time. This is a reader of rules in its place: no model is asked and no text
leaves the client. Captions that it cannot take apart still give a description and a
short answer.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_zoo.text.nouns import by_rules

PROMPT = "describe it"
"""The instruction under which captions are written; its answer is the caption."""

DESCRIBE, SHORT, TEMPORAL, CAUSAL = "describe", "short", "temporal", "causal"
KINDS = (DESCRIBE, SHORT, TEMPORAL, CAUSAL)

PLACES = ("further left", "further right", "further up", "further down")
SIZES = ("smaller", "larger")
_WAY = {  # verb: what it was before, and what it is after
    "moves left": (PLACES[1], PLACES[0]),
    "moves right": (PLACES[0], PLACES[1]),
    "rises": (PLACES[3], PLACES[2]),
    "falls": (PLACES[2], PLACES[3]),
    "grows": SIZES,
    "shrinks": SIZES[::-1],
    "enters": ("out of sight", "in sight"),
    "leaves": ("in sight", "out of sight"),
}
_OF_LOOKS = frozenset({"grows", "shrinks", "spins", "changes"})
_STANDS = frozenset({"waits", "stays", "rests", "stands", "sits"})


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A question about a clip, and its answer.

    Attributes:
        kind: one of `KINDS`.
        instruction: what is asked.
        answer: what is to be said; it never stands in the instruction.
    """

    kind: str
    instruction: str
    answer: str


@dataclass(frozen=True)
class Clause:
    """A thing and what it does, in a scene counted from 0."""

    thing: str
    verb: str
    scene: int


def clauses(caption: str) -> list[Clause]:
    """The things of a caption that do something.

    Example:
        >>> [c.verb for c in clauses("a ball rises while spinning, then a cat sits")]
        ['rises', 'sits']
    """
    found = []
    for scene, part in enumerate(re.split(r",\s*then\s+", caption.lower().strip())):
        for text in re.split(r",?\s+and\s+(?=an?\s|the\s)", part):
            named = by_rules(text)
            if not named:
                continue
            _, _, rest = text.partition(named[0])
            verb = re.split(r"\s+while\s+", rest.strip(" ,."))[0]
            if verb:
                found.append(Clause(named[0], verb, scene))
    return found


def instructions(caption: str) -> list[Instruction]:
    """All questions that a caption answers; the first is `PROMPT`, always.

    Example:
        >>> for found in instructions("a red ball rises"):
        ...     print(found.kind, "|", found.instruction, "|", found.answer)
        describe | describe it | a red ball rises
        short | what does the red ball do | rises
        short | what rises | a red ball
        temporal | where is the red ball before | further down
        temporal | where is the red ball after | further up
        causal | why is the red ball elsewhere | because it rises
    """
    whole = Instruction(kind=DESCRIBE, instruction=PROMPT, answer=caption)
    told: list[Instruction] = []
    found = clauses(caption)
    things = [clause.thing for clause in found]
    verbs = [clause.verb for clause in found]
    for clause in found:
        if things.count(clause.thing) == 1:
            told += _of_thing(clause)
        if verbs.count(clause.verb) == 1:
            told.append(_ask(SHORT, f"what {clause.verb}", _named(clause.thing)))
    scenes = [clause.scene for clause in found]
    if scenes and scenes[-1] > scenes[0] and things.count(things[0]) == 1:
        told.append(_ask(TEMPORAL, "what comes first", _named(things[0])))
        told.append(_ask(TEMPORAL, "what comes last", _named(things[-1])))
    if not found:
        told += [
            _ask(SHORT, "what is it about", name) for name in by_rules(caption)[:1]
        ]
    order = {kind: i for i, kind in enumerate(KINDS)}
    told = [one for one in told if one.answer not in one.instruction]
    return [whole, *sorted(told, key=lambda one: order[one.kind])]


def drawn(
    captions: NDArray[np.str_], offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> list[Instruction]:
    """One instruction per caption, of a kind drawn evenly among those it has.

    Args:
        captions: `[n]`.
        offsets: of groups; each has a seed of its own.
        seeds: `[groups]`.
    """
    chosen = []
    for g, seed in enumerate(seeds.tolist()):
        rows = captions[offsets[g] : offsets[g + 1]].tolist()
        luck = np.random.Generator(np.random.Philox([seed, 2])).random((len(rows), 2))
        for caption, (first, second) in zip(rows, luck.tolist(), strict=True):
            known = instructions(caption)
            kinds = [kind for kind in KINDS if any(one.kind == kind for one in known)]
            kind = kinds[int(first * len(kinds))]
            of_kind = [one for one in known if one.kind == kind]
            chosen.append(of_kind[int(second * len(of_kind))])
    return chosen


def _of_thing(clause: Clause) -> list[Instruction]:
    thing, verb = clause.thing, clause.verb
    told = [_ask(SHORT, f"what does the {thing} do", verb)]
    if verb in _WAY:
        asked = "how large" if _WAY[verb][0] in SIZES else "where"
        before, after = _WAY[verb]
        told.append(_ask(TEMPORAL, f"{asked} is the {thing} before", before))
        told.append(_ask(TEMPORAL, f"{asked} is the {thing} after", after))
    if verb.split()[0] not in _STANDS:
        seen = "of another look" if verb in _OF_LOOKS else "elsewhere"
        told.append(_ask(CAUSAL, f"why is the {thing} {seen}", f"because it {verb}"))
    return told


def _ask(kind: str, instruction: str, answer: str) -> Instruction:
    return Instruction(kind=kind, instruction=instruction, answer=answer)


def _named(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
