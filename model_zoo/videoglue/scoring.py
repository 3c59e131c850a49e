"""From an adapted encoder's answers to the measure of its problem."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model_zoo.videoglue.metrics import (
    Found,
    detection_precision,
    mean_class_precision,
    temporal_precision,
    top_one,
)
from model_zoo.videoglue.problems import Problem, targets_of
from model_zoo.videoglue.score import Group
from model_zoo.videoglue.temporal import TemporalHead, detect

_OVERLAP = 0.5  # that a box needs to count as found


def score_answers(problem: Problem, answers: Tensor, head: nn.Module) -> float:
    """The measure, in [0, 1], of answers to the test clips.

    Args:
        problem: what was asked.
        answers: scores in [0, 1], of the shape that the head gives.
        head: of temporal localisation; says which stretches were scored.
    """
    found = answers.double().numpy()
    truth = targets_of(problem, problem.test).numpy()
    if problem.group in (Group.APPEARANCE, Group.MOTION):
        return top_one(found, truth)
    if problem.group is Group.MULTI_LABEL:
        return mean_class_precision(found, truth > 0.5)
    if isinstance(head, TemporalHead):
        stretches = _stretches(truth.astype(float))
        return temporal_precision(detect(head.shape, found), stretches)
    boxes = problem.test.fields["boxes"].astype(float)
    return detection_precision(
        _of_boxes(boxes, found, found >= 0),
        _of_boxes(boxes, found, truth > 0.5),
        _OVERLAP,
    )


def _stretches(truth: NDArray[Any]) -> Found:
    where, place = np.nonzero(truth[..., 2] >= 0)
    rows = truth[where, place]
    return Found(where, rows[:, :2], rows[:, 2].astype(np.int64), np.ones(len(rows)))


def _of_boxes(boxes: NDArray[Any], scores: NDArray[Any], chosen: NDArray[Any]) -> Found:
    """Boxes `[n, K, 4]` with scores `[n, K, classes]`, those that are chosen."""
    there = chosen & (boxes[..., :1] >= 0)
    where, box, k = np.nonzero(there)
    return Found(where, boxes[where, box], k, scores[where, box, k])
