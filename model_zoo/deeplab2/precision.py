"""COCO's average precision of instance masks (Lin et al. 2014, arXiv:1405.0312).

The twelve numbers of the official evaluation, from panoptic maps: an instance's score
is the mean probability of its class times the mean score of its centre, over its
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "ap",
    "ap_50",
    "ap_75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
_MOST = 100


@dataclass(frozen=True)
class Instances:
    """Masks of one picture: bool `[n, H, W]`, category `[n]`, and scores or crowds."""

    masks: NDArray[np.bool_]
    category: NDArray[np.int64]
    score: NDArray[np.float64]
    crowd: NDArray[np.bool_]


def instances_of(
    panoptic: NDArray[np.integer], divisor: int, ignored: Sequence[int] = ()
) -> NDArray[np.int64]:
    """The labels of a map but those of `ignored` categories, as they first appear."""
    labels, first = np.unique(panoptic.astype(np.int64), return_index=True)
    labels = labels[np.argsort(first)]
    return labels[~np.isin(labels // divisor, list(ignored))]


def boxes_of(
    panoptic: NDArray[np.integer], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(ymin, xmin, ymax, xmax) of the pixels of each label, ends exclusive, `[n, 4]`.

    Raises:
        ValueError: if a label does not occur.
    """
    out = np.zeros((len(labels), 4), np.int64)
    for row, label in enumerate(labels):
        y, x = np.nonzero(panoptic == label)
        out[row] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return out


def instance_scores(
    panoptic: NDArray[np.integer],
    labels: NDArray[np.int64],
    probability: NDArray[np.floating],
    score: NDArray[np.floating],
    divisor: int,
) -> NDArray[np.float64]:
    """Mean class probability times mean centre score of each label, `[n]`.

    Args:
        panoptic: `[H, W]`.
        labels: that occur in it.
        probability: of each category, `[categories, H, W]`.
        score: of the centre that a pixel belongs to, `[H, W]`.
        divisor: of the map.
    """
    out = np.zeros(len(labels))
    for row, label in enumerate(labels):
        mask = panoptic == label
        out[row] = probability[label // divisor][mask].mean() * score[mask].mean()
    return out


@dataclass
class AveragePrecision:
    """Accumulates the twelve numbers of COCO's evaluation over pictures."""

    pictures: list[tuple[Instances, Instances]] = field(default_factory=list)

    def update(self, truth: Instances, found: Instances) -> None:
        """Add one picture."""
        self.pictures.append((truth, found))

    def result(self) -> dict[str, float]:
        """By `NAMES`; -1 where no truth can be found, and all 0 without predictions."""
        if not any(len(found.category) for _, found in self.pictures):
            return dict.fromkeys(NAMES, 0.0)
        kinds = sorted(
            {int(k) for pair in self.pictures for part in pair for k in part.category}
        )
        matched = {
            (kind, area): [_match(t, f, kind, area) for t, f in self.pictures]
            for kind, area in product(kinds, _AREAS)
        }

        def mean(area: str, most: int, at: slice, *, recall: bool) -> float:
            curves = [_curve(matched[kind, area], most) for kind in kinds]
            values = [(c[1][at] if recall else c[0][at]).ravel() for c in curves if c]
            return float(np.concatenate(values).mean()) if values else -1.0

        every, at_50, at_75 = slice(None), slice(0, 1), slice(5, 6)
        out = [
            mean("all", _MOST, every, recall=False),
            mean("all", _MOST, at_50, recall=False),
            mean("all", _MOST, at_75, recall=False),
        ]
        out += [mean(a, _MOST, every, recall=False) for a in list(_AREAS)[1:]]
        out += [mean("all", most, every, recall=True) for most in (1, 10, _MOST)]
        out += [mean(a, _MOST, every, recall=True) for a in list(_AREAS)[1:]]
        return dict(zip(NAMES, out, strict=True))


@dataclass(frozen=True)
class _Matches:
    """Of one picture, category and range of areas, predictions by falling score."""

    score: NDArray[np.float64]  # [d]
    hit: NDArray[np.bool_]  # [T, d]
    ignored: NDArray[np.bool_]  # [T, d]
    truths: int


def _match(truth: Instances, found: Instances, kind: int, area: str) -> _Matches:
    """Greedy matching: the best score first, to the truth that it covers best."""
    low, high = _AREAS[area]
    own = truth.category == kind
    masks, crowd = truth.masks[own], truth.crowd[own]
    size = masks.sum((1, 2))
    skip = crowd | (size < low) | (size > high)
    order = np.argsort(skip, kind="stable")  # truths that count come first
    masks, crowd, skip = masks[order], crowd[order], skip[order]
    theirs = np.flatnonzero(found.category == kind)
    best = theirs[np.argsort(-found.score[theirs], kind="stable")][:_MOST]
    guesses = found.masks[best]
    iou = _overlap(guesses, masks, crowd)
    hit = np.zeros((len(_IOUS), len(best)), bool)
    ignored = np.zeros_like(hit)
    for level, least in enumerate(_IOUS):
        taken = np.zeros(len(masks), bool)
        for d in range(len(best)):
            chosen, reached = -1, min(least, 1 - 1e-10)
            for g in range(len(masks)):
                if taken[g] and not crowd[g]:
                    continue
                if chosen >= 0 and not skip[chosen] and skip[g]:
                    break
                if iou[d, g] >= reached:
                    chosen, reached = g, iou[d, g]
            if chosen >= 0:
                taken[chosen] = hit[level, d] = True
                ignored[level, d] = skip[chosen]
    sizes = guesses.sum((1, 2))
    ignored |= ~hit & ((sizes < low) | (sizes > high))
    return _Matches(found.score[best], hit, ignored, int((~skip).sum()))


def _overlap(
    guesses: NDArray[np.bool_], truths: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Intersection over union `[d, g]`; over the guess alone where truth is a crowd."""
    pixels = int(np.prod(guesses.shape[1:]))
    a = guesses.reshape(len(guesses), pixels).astype(np.float64)
    b = truths.reshape(len(truths), pixels).astype(np.float64)
    shared = a @ b.T
    size = a.sum(1)[:, None]
    union = np.where(crowd, size, size + b.sum(1) - shared)
    found: NDArray[np.float64] = np.divide(
        shared, union, np.zeros_like(shared), where=union > 0
    )
    return found


def _curve(
    matches: list[_Matches], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Precision `[T, R]` and recall `[T]`; None if there is nothing to find."""
    truths = sum(m.truths for m in matches)
    if not truths:
        return None
    score = np.concatenate([m.score[:most] for m in matches])
    order = np.argsort(-score, kind="stable")
    hit = np.concatenate([m.hit[:, :most] for m in matches], axis=1)[:, order]
    counted = ~np.concatenate([m.ignored[:, :most] for m in matches], axis=1)[:, order]
    tp = np.cumsum(hit & counted, axis=1).astype(np.float64)
    fp = np.cumsum(~hit & counted, axis=1).astype(np.float64)
    precision = np.zeros((len(_IOUS), len(_RECALLS)))
    recall = np.zeros(len(_IOUS))
    for level in range(len(_IOUS)):
        found = tp[level] / truths
        recall[level] = found[-1] if len(found) else 0.0
        exact = tp[level] / (tp[level] + fp[level] + np.spacing(1))
        envelope = np.maximum.accumulate(exact[::-1])[::-1]
        at = np.searchsorted(found, _RECALLS, side="left")
        inside = at < len(found)
        precision[level, inside] = envelope[at[inside]]
    return precision, recall
