"""How VideoGLUE measures: top-1, and average precision of classes, times and boxes.

Where nothing is there to be found, precision is not defined: NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ACTIVITYNET_OVERLAPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Temporal overlaps that detections are scored at, 0.5 to 0.95."""


@dataclass(frozen=True)
class Found:
    """Detections or truths, each somewhere, of a class.

    Attributes:
        where: int `[n]`, the video or key frame.
        places: `[n, 2]` as (start, end), or `[n, 4]` as (ymin, xmin, ymax, xmax).
        classes: int `[n]`.
        scores: `[n]`; of truths they do not matter.
    """

    where: NDArray[np.int64]
    places: Floats
    classes: NDArray[np.int64]
    scores: Floats


def top_one(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Share of rows whose largest score is that of their class.

    A row with a score that is no number is wrong; without rows there is no share, NaN.

    Example:
        >>> top_one(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        0.5
    """
    if not len(labels):
        return math.nan
    told = ~np.isnan(scores).any(1)
    return float(((scores.argmax(1) == labels) & told).mean())


def mean_class_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Mean over classes of average precision; classes without a positive are ignored.

    Scores that are no number come last. NaN if no class has a positive.

    Args:
        scores: `[n, classes]`.
        truth: `[n, classes]`.

    Example:
        >>> truth = np.array([[1, 0], [0, 0]], bool)
        >>> mean_class_precision(np.array([[0.9, 0.3], [0.1, 0.2]]), truth)
        1.0
    """
    from sklearn.metrics import average_precision_score

    unknown = np.isnan(scores)
    if unknown.any():
        scores = np.where(unknown, np.nanmin(scores, initial=0.0) - 1, scores)
    shown = truth.any(0)
    if not shown.any():
        return math.nan
    return float(
        average_precision_score(truth[:, shown], scores[:, shown], average="macro")
    )


def detection_precision(
    detections: Found,
    truths: Found,
    overlap: float,
    classes: Sequence[int] | None = None,
) -> float:
    """Mean over classes of the area under the interpolated precision-recall curve.

    The detection of the highest score is matched first, to the truth of its class and
    place, of those not matched yet, that it overlaps most; a second detection of a
    truth is a false one. Classes without a truth are ignored, and so are detections
    whose score is no number: nobody vouches for them. (As in ActivityNet; PASCAL VOC,
    Everingham et al. 2010, lets a detection try its best truth alone.) NaN if no class
    that counts has a truth.

    Args:
        detections: with scores.
        truths: what is there.
        overlap: intersection over union that a match needs, at least.
        classes: those that count; None is all.
    """
    wanted = np.unique(truths.classes)
    if classes is not None:
        wanted = np.intersect1d(wanted, np.asarray(classes))
    if not len(wanted):
        return math.nan
    found = [_one_class(detections, truths, int(k), overlap) for k in wanted]
    return float(np.mean(found))


def temporal_precision(
    detections: Found,
    truths: Found,
    overlaps: Sequence[float] = ACTIVITYNET_OVERLAPS,
) -> float:
    """Mean of `detection_precision` over temporal overlaps."""
    return float(
        np.mean([detection_precision(detections, truths, t) for t in overlaps])
    )


def overlaps_of(place: Floats, others: Floats) -> Floats:
    """Intersection over union of one place with others `[n, 2]` or `[n, 4]`.

    Example:
        >>> overlaps_of(np.array([0.0, 2.0]), np.array([[1.0, 3.0]])).round(3).tolist()
        [0.333]
    """
    half = len(place) // 2
    low = np.maximum(place[:half], others[:, :half])
    high = np.minimum(place[half:], others[:, half:])
    shared = np.clip(high - low, 0, None).prod(1)
    sizes = np.clip(others[:, half:] - others[:, :half], 0, None).prod(1)
    union = np.clip(place[half:] - place[:half], 0, None).prod() + sizes - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0))


def _one_class(detections: Found, truths: Found, k: int, overlap: float) -> float:
    own = np.flatnonzero((detections.classes == k) & ~np.isnan(detections.scores))
    own = own[np.argsort(-detections.scores[own], kind="stable")]
    there = np.flatnonzero(truths.classes == k)
    taken = np.zeros(len(there), dtype=bool)
    hits = np.zeros(len(own), dtype=bool)
    by_place = {
        place: np.flatnonzero(truths.where[there] == place)
        for place in np.unique(truths.where[there]).tolist()
    }
    for i, row in enumerate(own):
        near = by_place.get(int(detections.where[row]))
        if near is None:
            continue
        values = overlaps_of(detections.places[row], truths.places[there[near]])
        values[taken[near]] = -1.0  # each answers for one detection only
        best = int(values.argmax())
        if values[best] >= overlap:
            hits[i] = taken[near[best]] = True
    return _area(hits, len(there))


def _area(hits: NDArray[np.bool_], truths: int) -> float:
    right = np.cumsum(hits)
    recall = right / truths
    precision = right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * best).sum())
