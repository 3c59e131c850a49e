"""Panoptic quality and mean intersection over union.

Kirillov et al. (2019), Panoptic Segmentation, arXiv:1801.00868.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.integer]


@dataclass
class PanopticQuality:
    """Accumulates PQ over pictures.

    A prediction and a truth of the same category match if their intersection is more
    than half of their union, where void pixels of the truth do not count. A crowd is
    neither matched nor missed. An unmatched prediction is no mistake if more than half
    of it lies in void or in a crowd of its own category.

    Attributes:
        num_classes: categories, from 0.
        ignored: the category that is void.
        divisor: maps are `category * divisor + instance`.
        crowded: categories whose instance 0 is a crowd in truth; none by default.
    """

    num_classes: int
    ignored: int
    divisor: int
    crowded: Sequence[int] = ()
    iou: NDArray[np.float64] = field(init=False)
    tp: NDArray[np.float64] = field(init=False)
    fn: NDArray[np.float64] = field(init=False)
    fp: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("iou", "tp", "fn", "fp"):
            setattr(self, name, np.zeros(self.num_classes))

    def update(self, truth: Map, predicted: Map) -> None:
        """Count the segments of one picture, two maps `[H, W]`."""
        truths, truth_of, truth_area = _segments(truth)
        guesses, guess_of, guess_area = _segments(predicted)
        pairs, shared = np.unique(
            truth_of * len(guesses) + guess_of, return_counts=True
        )
        t, g = pairs // len(guesses), pairs % len(guesses)
        void = np.zeros(len(guesses))
        in_void = truths[t] == self.ignored * self.divisor
        void[g[in_void]] = shared[in_void]
        kind, guessed = truths // self.divisor, guesses // self.divisor
        same = (kind[t] == guessed[g]) & (guessed[g] != self.ignored)
        union = truth_area[t] + guess_area[g] - shared - void[g]
        iou = np.divide(shared, union, np.zeros(len(union)), where=union > 0)
        crowd = np.isin(kind, self.crowded) & (truths % self.divisor == 0)
        excused = void.copy()
        np.add.at(excused, g[same & crowd[t]], shared[same & crowd[t]])
        hit = same & (iou > 0.5) & ~crowd[t]
        np.add.at(self.tp, kind[t[hit]], 1)
        np.add.at(self.iou, kind[t[hit]], iou[hit])
        missed = np.ones(len(truths), bool)
        missed[t[hit]] = False
        np.add.at(self.fn, kind[missed & (kind != self.ignored) & ~crowd], 1)
        wrong = (guessed != self.ignored) & (excused / guess_area <= 0.5)
        wrong[g[hit]] = False
        np.add.at(self.fp, guessed[wrong], 1)

    def per_class(self) -> dict[str, NDArray[np.float64]]:
        """`pq`, `sq`, `rq`, `tp`, `fn`, `fp`, `[classes]` each; 0 where undefined."""
        errors = self.tp + 0.5 * self.fn + 0.5 * self.fp
        sq = np.divide(self.iou, self.tp, np.zeros_like(self.iou), where=self.tp > 0)
        rq = np.divide(self.tp, errors, np.zeros_like(self.tp), where=errors > 0)
        return {
            "pq": sq * rq,
            "sq": sq,
            "rq": rq,
            "tp": self.tp,
            "fn": self.fn,
            "fp": self.fp,
        }

    def result(self) -> dict[str, float]:
        """Means over the categories that occur in truth or prediction; 0 if none."""
        occurs = self.tp + self.fn + self.fp > 0
        return {
            name: float(values[occurs].mean()) if occurs.any() else 0.0
            for name, values in self.per_class().items()
        }


def _segments(
    values: Map,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct values, which of them each pixel has, and their areas."""
    found, place, area = np.unique(
        values.astype(np.int64).ravel(), return_inverse=True, return_counts=True
    )
    return found, place.ravel(), area


@dataclass
class MeanIoU:
    """Accumulates the mean intersection over union of classes.

    Void is no class of the mean, and void pixels of the truth do not count; a true
    class that is predicted void is missed.

    Attributes:
        num_classes: classes, from 0.
        ignored: the class that is void.
    """

    num_classes: int
    ignored: int
    confusion: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, truth: Map, predicted: Map) -> None:
        """Count the pixels of one picture, two maps of classes `[H, W]`."""
        counted = truth != self.ignored
        pairs = truth[counted] * self.num_classes + predicted[counted]
        found = np.bincount(pairs, minlength=self.num_classes**2)
        self.confusion += found.reshape(self.confusion.shape)

    def result(self) -> float:
        """The mean over classes that occur in truth or prediction; 0 if none does."""
        hit = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        occurs = (union > 0) & (np.arange(self.num_classes) != self.ignored)
        return float((hit[occurs] / union[occurs]).mean()) if occurs.any() else 0.0
