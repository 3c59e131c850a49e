"""Nearest neighbours of a few held-out queries, and a map of all: numpy alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.report.content import Gallery

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Neighbours:
    """One query and its nearest other rows, nearest first.

    Attributes:
        query: row of the query.
        before: rows `[k]` nearest to it for the initial backbone.
        after: rows `[k]` nearest to it for the trained one.
    """

    query: int
    before: NDArray[np.int64]
    after: NDArray[np.int64]


def shown_classes(gallery: Gallery, count: int) -> list[int]:
    """At most `count` classes with two rows or more, evenly spaced over the labels.

    The rule looks at labels alone, never at embeddings: no result is picked.
    """
    labels, sizes = np.unique(gallery.labels, return_counts=True)
    usable = labels[sizes > 1]
    if len(usable) > count:
        usable = usable[np.linspace(0, len(usable) - 1, count).round().astype(int)]
    return [int(label) for label in usable]


def nearest_neighbours(gallery: Gallery, queries: int, k: int) -> list[Neighbours]:
    """For the first row of each shown class, its k nearest rows before and after.

    Rows at the same similarity come in the order of the data.
    """
    rows = [
        int(np.flatnonzero(gallery.labels == label)[0])
        for label in shown_classes(gallery, queries)
    ]
    before = _nearest(gallery.before, rows, k)
    after = _nearest(gallery.after, rows, k)
    return [Neighbours(*parts) for parts in zip(rows, before, after, strict=True)]


def principal_plane(embeddings: Floats) -> Floats:
    """Unit-length rows on their two principal axes, `[n, D]` -> `[n, 2]`.

    Pearson (1901). The sign of each axis is fixed by its largest loading.
    """
    unit = _unit(embeddings)
    centred = unit - unit.mean(0, keepdims=True)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    largest = np.abs(axes).argmax(0)
    plane = centred @ (axes * np.sign(axes[largest, np.arange(axes.shape[1])]))
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def _nearest(embeddings: Floats, rows: list[int], k: int) -> list[NDArray[np.int64]]:
    unit = _unit(embeddings)
    similarity = unit[rows] @ unit.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    order = np.argsort(-similarity.round(6), axis=1, kind="stable")
    return list(order[:, : min(k, len(unit) - 1)])


def _unit(embeddings: Floats) -> Floats:
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: Floats = embeddings / np.where(norm > 0, norm, 1.0)
    return unit
