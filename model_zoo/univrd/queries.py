"""Which texts a picture is asked for: what is in it, and sampled negatives.

Every picture has a label space of its own, T' within the union T. Negatives come from
the names that the picture's source uses, so that a synonym of another source is never
called wrong; what is not asked for costs nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.protocols import Batch
from model_zoo.univrd.augment import Annotated
from model_zoo.univrd.phrases import LabelSpace

Integers = NDArray[np.int64]


def ask(
    space: LabelSpace,
    rows: Annotated,
    draws: NDArray[np.float64],
    names: int,
    phrases: int,
    templates: int,
) -> Batch:
    """Queries of every picture; -1 is padding.

    Args:
        space: the union of names and phrases.
        rows: annotated pictures.
        draws: uniform numbers `[n, 2 * objects + phrases]`.
        names: negatives among names, at most.
        phrases: negatives among phrases, at most.
        templates: prompts of each name; one is drawn per name and picture.

    Returns:
        `name_query` and `template` `[n, Q]`, `phrase` `[n, R]` (what the relations
        are called) and `phrase_query` `[n, R + phrases]`.
    """
    n, things = len(rows.names), len(space.objects)
    by_name, by_template, by_phrase = np.split(draws, [things, 2 * things], axis=1)
    seen = np.zeros((n, things + 1), dtype=bool)
    np.put_along_axis(seen, rows.names, True, axis=1)  # -1 falls into the last column
    seen = seen[:, :-1]
    own = np.zeros((len(space.sources), things), dtype=bool)
    for number, source in enumerate(space.sources):
        own[number, list(source.objects)] = True
    order = np.where(own[rows.source], by_name, 2.0)
    order = np.where(seen, by_name - 1.0, order)
    asked = np.argsort(order, axis=1)
    kept = np.take_along_axis(order, asked, axis=1) < 1.0
    shown = seen.sum(axis=1, keepdims=True)
    kept &= np.arange(things) < shown + names
    asked = np.where(kept, asked, -1)
    phrase = _phrases(space, rows)
    to_ask = _phrase_queries(space, rows, phrase, by_phrase)
    return {
        "name_query": torch.from_numpy(asked),
        "template": torch.from_numpy((by_template * templates).astype(np.int64)),
        "phrase": torch.from_numpy(phrase),
        "phrase_query": torch.from_numpy(to_ask),
    }


def asked_for(queries: Tensor) -> Tensor:
    """Which queries are no padding, bool."""
    return queries >= 0


def _phrases(space: LabelSpace, rows: Annotated) -> Integers:
    """What each relation is called, `[n, R]`; -1 is none."""
    subject, predicate, target = np.moveaxis(rows.relations, -1, 0)
    nouns = [
        np.take_along_axis(rows.names, np.maximum(end, 0), axis=1)
        for end in (subject, target)
    ]
    found = space.phrase_number[nouns[0], predicate, nouns[1]]
    some = (subject >= 0) & (target >= 0) & (nouns[0] >= 0) & (nouns[1] >= 0)
    return np.where(some, found, -1)


def _phrase_queries(
    space: LabelSpace,
    rows: Annotated,
    phrase: Integers,
    draws: NDArray[np.float64],
) -> Integers:
    """The picture's own phrases and negatives of its source, each once."""
    n, k = draws.shape
    negative = np.full((n, k), -1, dtype=np.int64)
    for source in range(len(space.sources)):
        own = space.phrases_of(source)
        here = rows.source == source
        if len(own):
            negative[here] = own[(draws[here] * len(own)).astype(np.int64)]
    queries = np.concatenate([phrase, negative], axis=1)
    again = (queries[:, :, None] == queries[:, None, :]) & np.tri(
        queries.shape[1], k=-1, dtype=bool
    )
    return np.where(again.any(axis=2), -1, queries)
