"""How relationship detection is scored: HICO-DET, V-COCO and Visual Genome.

A triplet that was found is true if both its boxes overlap an annotation of the same
label by IoU of at least 0.5, and that annotation was not claimed by a surer one.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from model_zoo.univrd.geometry import overlaps
from model_zoo.univrd.inference import Triplets

HICO_CLASSES, HICO_RARE, HICO_VERBS, HICO_OBJECTS = 600, 138, 117, 80
"""Phrases, phrases with fewer than 10 training examples, verbs and objects."""

RARE_BELOW = 10


def average_precision(
    hits: NDArray[np.bool_], positives: int, *, points: int | None = 11
) -> float:
    """Area under precision by recall, of detections by falling score.

    Args:
        hits: whether each detection is true, `[k]`.
        positives: annotations; 0 gives NaN.
        points: recalls at which the best later precision is read (11 as in VOC 2007 and
            the public HICO-DET evaluators); None integrates exactly.

    Example:
        >>> hits = np.array([True, False, True])
        >>> round(average_precision(hits, 2), 4)
        0.8485
        >>> round(average_precision(hits, 2, points=None), 4)
        0.8333
    """
    if positives == 0:
        return float("nan")
    true = np.cumsum(hits)
    recall = true / positives
    precision = true / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float((np.diff(recall, prepend=0.0) * best).sum())
    levels = np.linspace(0, 1, points)
    first = np.searchsorted(recall, levels - 1e-9)
    return float(np.append(best, 0.0)[first].mean())


def true_positives(
    found: Triplets, truth: Triplets, *, iou: float = 0.5, empty_objects: bool = True
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `found` are true, and which of `truth` were found.

    Each detection, by falling score, claims the annotation of its picture and label
    whose worse box it overlaps most; a claimed one makes it false.

    Args:
        found: detections, in any order.
        truth: annotations.
        iou: least overlap of both boxes.
        empty_objects: where an annotation has no object, whether the detection must
            have none either (V-COCO's scenario 1); otherwise its object is ignored
            (scenario 2).

    Returns:
        Bool of each of `found`, and of each of `truth`.

    Example:
        >>> here, there = np.float32([[0, 0, 1, 1]]), np.float32([[2, 2, 3, 3]])
        >>> zero, sure = np.zeros(1, np.int64), np.ones(1, np.float32)
        >>> truth = Triplets(zero, here, there, zero, sure)
        >>> twice = Triplets.concatenated([truth, truth])
        >>> hit, claimed = true_positives(twice, truth)
        >>> hit.tolist(), claimed.tolist()
        ([True, False], [True])
    """
    width = 1 + max(found.label.max(initial=0), truth.label.max(initial=0))
    keys = truth.picture * width + truth.label
    by_key = np.argsort(keys, kind="stable")
    order = np.argsort(-found.score, kind="stable")
    wanted = (found.picture * width + found.label)[order]
    first = np.searchsorted(keys[by_key], wanted)
    rivals = np.searchsorted(keys[by_key], wanted, side="right") - first
    rows = np.repeat(np.arange(len(order)), rivals)  # one per pair to compare
    start = np.cumsum(rivals) - rivals
    annotations = by_key[first[rows] + np.arange(len(rows)) - start[rows]]
    detections = order[rows]
    overlap = np.minimum(
        _iou(found.subject[detections], truth.subject[annotations]),
        _object_iou(found.object[detections], truth.object[annotations], empty_objects),
    )
    # The best pair of every detection, then the surest detection of every annotation.
    best = np.lexsort((-overlap, rows))
    best = best[np.unique(rows[best], return_index=True)[1]]
    best = best[overlap[best] >= iou]
    taken, surest = np.unique(annotations[best], return_index=True)
    hit = np.zeros(len(found), dtype=bool)
    claimed = np.zeros(len(truth), dtype=bool)
    hit[detections[best[surest]]] = True
    claimed[taken] = True
    return hit, claimed


def average_precisions(
    found: Triplets,
    truth: Triplets,
    classes: int,
    *,
    iou: float = 0.5,
    empty_objects: bool = True,
    points: int | None = 11,
) -> NDArray[np.float64]:
    """AP of each label, `[classes]`; NaN for a label without annotations.

    Args:
        found: detections, in any order.
        truth: annotations.
        classes: number of labels.
        iou: least overlap of both boxes of a true one.
        empty_objects: see `true_positives`.
        points: of recall at which precision is read; None is the whole curve.

    Example:
        >>> boxes = np.float32([[0, 0, 1, 1]])
        >>> zero, sure = np.zeros(1, np.int64), np.ones(1, np.float32)
        >>> truth = Triplets(zero, boxes, boxes, zero, sure)
        >>> average_precisions(truth, truth, 2).tolist()
        [1.0, nan]
    """
    hit, _ = true_positives(found, truth, iou=iou, empty_objects=empty_objects)
    out = np.full(classes, np.nan)
    order = np.argsort(-found.score, kind="stable")
    labels, hit = found.label[order], hit[order]
    counts = np.bincount(truth.label, minlength=classes)
    for label in np.flatnonzero(counts):
        own = hit[labels == label]
        out[label] = average_precision(own, int(counts[label]), points=points)
    return out


def hico_map(
    precisions: NDArray[np.float64], training_examples: NDArray[np.int64]
) -> dict[str, float]:
    """HICO-DET's three means: `full`, `rare` and `non_rare`.

    Args:
        precisions: AP of each class; NaN (no test example) counts as 0, as in the
            public evaluators for classes that are never found. A mean over no class
            with a test example is NaN.
        training_examples: of each class; fewer than 10 make it rare.

    Example:
        >>> hico_map(np.array([1.0, 0.5]), np.array([3, 30]))
        {'full': 0.75, 'rare': 1.0, 'non_rare': 0.5}
    """
    rare = training_examples < RARE_BELOW
    groups = {
        "full": precisions,
        "rare": precisions[rare],
        "non_rare": precisions[~rare],
    }
    return {
        name: float("nan") if np.isnan(own).all() else _mean(np.nan_to_num(own))
        for name, own in groups.items()
    }


def vcoco_map(
    found: Triplets, truth: Triplets, classes: int, *, scenario: int
) -> float:
    """V-COCO's mean AP over actions, in scenario 1 or 2.

    Raises:
        ValueError: for another scenario.
    """
    if scenario not in (1, 2):
        raise ValueError(f"scenario={scenario} must be 1 or 2.")
    precisions = average_precisions(
        found, truth, classes, empty_objects=scenario == 1, points=None
    )
    return _mean(precisions[~np.isnan(precisions)])


def mean_recall(
    found: Triplets,
    truth: Triplets,
    k: int,
    predicate: NDArray[np.int64] | None = None,
) -> float:
    """Visual Genome's mR@K: recall of each predicate in the top K, averaged.

    Args:
        found: detections.
        truth: annotations.
        k: detections that count per picture, the surest.
        predicate: of each label; None where labels are predicates already.

    Example:
        >>> boxes = np.float32([[0, 0, 1, 1], [0, 0, 1, 1]])
        >>> kinds, sure = np.array([0, 1]), np.ones(2, np.float32)
        >>> truth = Triplets(np.zeros(2, np.int64), boxes, boxes, kinds, sure)
        >>> mean_recall(truth, truth, 1), mean_recall(truth, truth, 2)
        (0.5, 1.0)
    """
    order = np.lexsort((-found.score, found.picture))
    pictures = found.picture[order]
    first = np.searchsorted(pictures, pictures)
    top = order[np.arange(len(order)) - first < k]
    _, claimed = true_positives(found.where(top), truth)
    kinds = truth.label if predicate is None else predicate[truth.label]
    total = np.bincount(kinds)
    recalled = np.bincount(kinds, weights=claimed, minlength=len(total))
    return _mean(recalled[total > 0] / total[total > 0])


def _mean(values: NDArray[np.float64]) -> float:
    """The mean; NaN, not defined, if nothing was annotated."""
    return float(values.mean()) if len(values) else float("nan")


def _iou(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float32]:
    iou, _ = overlaps(torch.from_numpy(first), torch.from_numpy(second))
    return np.asarray(iou.numpy())


def _object_iou(
    found: NDArray[np.float32], truth: NDArray[np.float32], empty_objects: bool
) -> NDArray[np.float32]:
    missing = np.isnan(found).any(axis=1)
    without = missing if empty_objects else np.ones_like(missing)
    iou = np.where(missing, 0, np.nan_to_num(_iou(found, truth)))
    return np.where(np.isnan(truth).any(axis=1), without, iou).astype(np.float32)
