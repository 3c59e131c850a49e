"""Noun phrases of captions: by spaCy where asked and installed, by rules otherwise."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import NotAvailable

Reader = Callable[[str], list[str]]
"""Noun phrases of a caption, in order, without determiners."""

_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_OPENS_ONE = _set("a an this that each every another one")
_OPENS_MANY = _set(
    "two three four five six seven eight nine ten many several some few both these "
    "those"
)
_OPENS = _set("the his her its their my our your no more")
_CLOSES = _set(  # pronouns, prepositions, conjunctions, auxiliaries, common adverbs
    "i you he she it we they him them who which what there here and or but while then "
    "before after as when where because if of in on at to from with without by for "
    "into onto over under above below behind beside beneath near next inside outside "
    "around across through along toward towards against between among up down left "
    "right away back off out very also not is are was were be been being has have had "
    "do does did can could will would may might must again together slowly quickly "
    "first last about like than so per via held seen made shown"
)
_VERBS = _set(
    "move rise fall grow shrink spin circle bounce enter leave turn stay wait shake "
    "stop cross hold ride look walk run jump sit stand play eat drink throw catch kick "
    "push pull roll swim fly dance sing talk make take put cut open close go come show "
    "hit swing lift drop drive climb slide float touch"
)
_ALSO_NOUNS = _set("cross crosses circle circles")
_ALSO_ADJECTIVES = _set("left right back open close first last")


def by_rules(caption: str) -> list[str]:
    """Noun phrases by a few rules of English.

    A phrase begins after a determiner or anywhere outside a verb, and ends before a
    preposition, conjunction, verb or punctuation mark. After `a` or `an`, a later word
    with the ending of a third person is a verb; after `two` or `these` the first plural
    closes the phrase.

    Example:
        >>> by_rules("a red square moves left and a blue ball spins")
        ['red square', 'blue ball']
        >>> by_rules("Two old men ride the horse near an orange ring, slowly.")
        ['old men', 'horse', 'orange ring']
    """
    found: list[str] = []
    phrase: list[str] = []
    opener = ""

    def close() -> None:
        nonlocal opener
        if phrase:
            found.append(" ".join(phrase))
        phrase.clear()
        opener = ""

    for word in _TOKEN.findall(caption.lower()):
        if word in _OPENS_ONE or word in _OPENS_MANY or word in _OPENS:
            close()
            opener = "one" if word in _OPENS_ONE else ""
            opener = "many" if word in _OPENS_MANY else opener or "some"
        elif _ends(word, phrase, opener):
            close()
        else:
            phrase.append(word)
            if opener == "many" and _third_person(word):
                close()
    close()
    return found


def by_spacy(model: str = "en_core_web_sm") -> Reader:
    """A reader that asks spaCy for noun chunks.

    Raises:
        NotAvailable: spaCy or its model is not installed.
    """
    try:
        import spacy

        language = spacy.load(model)
    except (ImportError, OSError) as error:
        raise NotAvailable(
            f"spaCy with its model {model} is not installed; install both "
            f"(`pip install spacy`, `python -m spacy download {model}`), or read noun "
            "phrases by rules."
        ) from error

    def read(caption: str) -> list[str]:
        chunks = []
        for chunk in language(caption).noun_chunks:
            kept = [t.lower_ for t in chunk if t.pos_ not in ("DET", "PRON", "NUM")]
            if kept:
                chunks.append(" ".join(kept))
        return chunks

    return read


def noun_prompts(
    captions: Sequence[str] | NDArray[np.str_],
    count: int = 2,
    template: str = "a video of {noun}",
    reader: Reader = by_rules,
) -> tuple[list[list[str]], NDArray[np.bool_]]:
    """The first noun phrases of each caption in prompts.

    Args:
        captions: n texts.
        count: K, phrases taken of each.
        template: with `{noun}` where a phrase goes.
        reader: finds the phrases.

    Returns:
        Prompts `[n][K]`, empty where a caption has fewer phrases, and whether each is
        one, bool `[n, K]`.

    Example:
        >>> prompts, valid = noun_prompts(["a red ball spins"])
        >>> prompts, valid.tolist()
        ([['a video of red ball', '']], [[True, False]])
    """
    prompts: list[list[str]] = []
    known: dict[str, list[str]] = {}
    for caption in map(str, captions):
        if caption not in known:
            nouns = reader(caption)[:count]
            known[caption] = [template.format(noun=noun) for noun in nouns]
        prompts.append(known[caption] + [""] * (count - len(known[caption])))
    valid = np.array([[bool(p) for p in row] for row in prompts], dtype=bool)
    return prompts, valid.reshape(len(prompts), count)


def _ends(word: str, phrase: Sequence[str], opener: str) -> bool:
    """Whether a word ends the phrase, or belongs to none."""
    if not word[0].isalnum():
        return True
    if word in _ALSO_ADJECTIVES:
        return not opener or bool(phrase)
    noun = word in _ALSO_NOUNS and bool(opener)
    if not noun and (word in _CLOSES or _is_verb(word)):
        return True
    if len(word) > 4 and word.endswith(("ing", "ly")):
        return not opener or bool(phrase)
    return opener == "one" and bool(phrase) and _third_person(word)


def _third_person(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _is_verb(word: str) -> bool:
    """Whether this is one of the verbs, or its third person."""
    bases = {word, word.removesuffix("s"), word.removesuffix("es")}
    return not bases.isdisjoint(_VERBS) or word == "flies"
