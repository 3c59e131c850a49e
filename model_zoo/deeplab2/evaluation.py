"""How well pictures are segmented: PQ, mIoU and AP with a head fitted on the spot."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from model_zoo.deeplab2.categories import DIVISOR, Categories
from model_zoo.deeplab2.fitting import FitSpec, fit_to_half, predictions
from model_zoo.deeplab2.network import LocalNetwork
from model_zoo.deeplab2.postprocess import PostSpec, group_pixels, merge
from model_zoo.deeplab2.precision import (
    AveragePrecision,
    Instances,
    instance_scores,
    instances_of,
)
from model_zoo.deeplab2.quality import MeanIoU, PanopticQuality

if TYPE_CHECKING:
    from model_zoo.deeplab2.task import PanopticTask, SemanticTask

_CERTAIN = 20.0  # a logit


@dataclass(frozen=True)
class Prediction:
    """One picture's segments.

    Attributes:
        panoptic: int64 `[H, W]`, `category * 256 + instance`; 0 is void.
        category: of every pixel before segments are formed, int64 `[H, W]`; no void.
        probability: of the categories, `[1 + K, H, W]`; void has none.
        score: of the centre a pixel belongs to, `[H, W]`; 0 on stuff.
    """

    panoptic: NDArray[np.int64]
    category: NDArray[np.int64]
    probability: NDArray[np.float32]
    score: NDArray[np.float32]


def panoptic_metrics(
    task: "PanopticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> dict[str, float]:
    """`pq`, `sq`, `rq`, `miou`, `ap`, `ap_50` and `instance_ap_50` of every other row.

    The last is `ap_50` with the true class of every pixel: how well centres and offsets
    tell things apart, whatever the classes are worth. The rows in between fit the head;
    with a single row there is nothing to judge and nothing is defined.
    """
    found = fit_to_half(task, backbone, examples, fit)
    judged = found.judged
    truths = list(judged.fields["panoptic"].astype(np.int64))
    guesses, apart = [], []
    told = predictions(task, backbone, found.head, judged)
    for truth, predicted in zip(truths, told, strict=True):
        classes = true_classes(truth, len(task.categories))
        certain = predicted | {"semantic": classes.to(predicted["center"])}
        guesses.append(_segments(task, predicted))
        apart.append(_segments(task, certain))
    metrics = score_predictions(truths, guesses, task.categories)
    instances = score_predictions(truths, apart, task.categories)
    return metrics | {"instance_ap_50": instances["ap_50"]}


def semantic_metrics(
    task: "SemanticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> dict[str, float]:
    """`miou` of every other row, whose pixels all get their likeliest class.

    The rows in between fit the head; with a single row, or void alone, there is nothing
    to judge and it is NaN, not defined.
    """
    found = fit_to_half(task, backbone, examples, fit)
    overlap = MeanIoU(len(task.categories) + 1, 0)
    truths = found.judged.fields["panoptic"].astype(np.int64)
    told = predictions(task, backbone, found.head, found.judged)
    for truth, predicted in zip(truths, told, strict=True):
        category = predicted["semantic"].argmax(0) + 1
        overlap.update(truth // DIVISOR, category.cpu().numpy())
    return _defined({"miou": overlap.result()}, bool(overlap.confusion.any()))


def segment(
    task: "PanopticTask", backbone: nn.Module, head: LocalNetwork, examples: Examples
) -> list[Prediction]:
    """The segments of pictures, by a backbone and a head in global label space."""
    told = predictions(task, backbone, head, examples)
    return [_segments(task, predicted) for predicted in told]


def _segments(task: "PanopticTask", told: Mapping[str, Tensor]) -> Prediction:
    return predict_one(
        told["semantic"], told["center"], told["offset"], task.categories, task.post
    )


def true_classes(truth: NDArray[np.int64], count: int) -> Tensor:
    """Logits `[count, H, W]` that are certain of the classes of a true map `[H, W]`.

    Void gets the first class: what is predicted there is neither right nor wrong.

    Example:
        >>> sky, ball = 1 * 256, 3 * 256 + 1
        >>> true_classes(np.array([[sky, ball, 0]]), 3).argmax(0).tolist()
        [[0, 2, 0]]
    """
    classes = torch.from_numpy(truth // DIVISOR - 1).clamp(min=0)
    none = torch.full((count, *truth.shape), -_CERTAIN)
    return none.scatter(0, classes[None], _CERTAIN)


def predict_one(
    semantic: Tensor,
    center: Tensor,
    offset: Tensor,
    categories: Categories,
    post: PostSpec,
) -> Prediction:
    """One picture's segments.

    Args:
        semantic: logits `[K, H, W]` of the categories, without void.
        center: heat-map of centres `[H, W]`.
        offset: from pixel to centre (y, x), `[2, H, W]`.
        categories: which of the K are things.
        post: thresholds.

    Returns:
        Maps in which categories count from 1, and 0 is void.
    """
    things = categories.thing_classes
    classes = semantic.argmax(0)
    instances, score = group_pixels(classes, center, offset, things, post)
    merged = merge(
        classes + 1,
        instances,
        [k + 1 for k in things],
        divisor=DIVISOR,
        stuff_area=post.stuff_area,
        void=0,
    )
    probability = torch.cat([torch.zeros_like(semantic[:1]), semantic.softmax(0)])
    return Prediction(
        panoptic=merged.cpu().numpy(),
        category=(classes + 1).cpu().numpy(),
        probability=probability.cpu().numpy(),
        score=score.cpu().numpy(),
    )


def score_predictions(
    truths: list[NDArray[np.int64]],
    predictions: list[Prediction],
    categories: Categories,
) -> dict[str, float]:
    """PQ, mIoU and AP of pictures, as the published evaluations have them.

    mIoU is that of every pixel's likeliest category, before small stuff becomes void.
    AP leaves out stuff. Crowds (instance 0 of a thing) are neither found nor missed.
    What the true maps give nothing to find for is NaN, not defined.
    """
    count = len(categories) + 1
    things = np.flatnonzero(categories.is_thing).tolist()
    quality = PanopticQuality(count, 0, DIVISOR, crowded=things)
    overlap = MeanIoU(count, 0)
    precision = AveragePrecision()
    for truth, guess in zip(truths, predictions, strict=True):
        quality.update(truth, guess.panoptic)
        overlap.update(truth // DIVISOR, guess.category)
        precision.update(
            _instances(truth, categories), _instances(guess.panoptic, categories, guess)
        )
    found, exact = quality.result(), precision.result()
    return {
        **_defined({k: found[k] for k in ("pq", "sq", "rq")}, _wanted(quality)),
        **_defined({"miou": overlap.result()}, bool(overlap.confusion.any())),
        **_defined({k: exact[k] for k in ("ap", "ap_50")}, _wanted(quality, things)),
    }


def _wanted(quality: PanopticQuality, of: list[int] | None = None) -> bool:
    """Whether truth had segments to find, of some categories or of any."""
    truths = quality.tp + quality.fn
    return bool((truths if of is None else truths[of]).any())


def _defined(metrics: dict[str, float], defined: bool) -> dict[str, float]:
    return metrics if defined else dict.fromkeys(metrics, math.nan)


def _instances(
    panoptic: NDArray[np.int64], categories: Categories, guess: Prediction | None = None
) -> Instances:
    stuff = np.flatnonzero(~categories.is_thing)
    labels = instances_of(panoptic, DIVISOR, stuff.tolist())
    score = np.ones(len(labels))
    if guess is not None:
        score = instance_scores(
            panoptic, labels, guess.probability, guess.score, DIVISOR
        )
    return Instances(
        masks=panoptic[None] == labels[:, None, None],
        category=labels // DIVISOR,
        score=score,
        crowd=labels % DIVISOR == 0,
    )
