"""How well pictures are segmented: PQ, mIoU and AP with a head fitted on the spot."""

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


@dataclass(frozen=True)
class Prediction:
    """One picture's segments.

    Attributes:
        panoptic: int64 `[H, W]`, `category * 256 + instance`; 0 is void.
        probability: of the categories, `[1 + K, H, W]`; void has none.
        score: of the centre a pixel belongs to, `[H, W]`; 0 on stuff.
    """

    panoptic: NDArray[np.int64]
    probability: NDArray[np.float32]
    score: NDArray[np.float32]


def panoptic_metrics(
    task: "PanopticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> dict[str, float]:
    """`pq`, `sq`, `rq`, `miou`, `ap` and `ap_50` of every other row.

    The rows in between fit the head; with a single row there is nothing to judge and
    all metrics are 0.
    """
    found = fit_to_half(task, backbone, examples, fit)
    truths = found.judged.fields["panoptic"].astype(np.int64)
    guesses = segment(task, backbone, found.head, found.judged)
    return score_predictions(list(truths), guesses, task.categories)


def semantic_metrics(
    task: "SemanticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> dict[str, float]:
    """`miou` of every other row, whose pixels all get their likeliest class.

    The rows in between fit the head; with a single row there is nothing to judge and
    it is 0.
    """
    found = fit_to_half(task, backbone, examples, fit)
    overlap = MeanIoU(len(task.categories) + 1, 0)
    truths = found.judged.fields["panoptic"].astype(np.int64)
    told = predictions(task, backbone, found.head, found.judged)
    for truth, predicted in zip(truths, told, strict=True):
        category = predicted["semantic"].argmax(0) + 1
        overlap.update(truth // DIVISOR, category.cpu().numpy())
    return {"miou": overlap.result()}


def segment(
    task: "PanopticTask", backbone: nn.Module, head: LocalNetwork, examples: Examples
) -> list[Prediction]:
    """The segments of pictures, by a backbone and a head in global label space."""
    return [
        predict_one(
            told["semantic"], told["center"], told["offset"], task.categories, task.post
        )
        for told in predictions(task, backbone, head, examples)
    ]


def predict_one(
    semantic: Tensor,
    center: Tensor,
    offset: Tensor,
    categories: Categories,
    post: PostSpec,
) -> Prediction:
    """One picture's segments from logits `[K, H, W]`, heat-map and offsets."""
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
        merged.cpu().numpy(), probability.cpu().numpy(), score.cpu().numpy()
    )


def score_predictions(
    truths: list[NDArray[np.int64]],
    predictions: list[Prediction],
    categories: Categories,
) -> dict[str, float]:
    """PQ, mIoU and AP of pictures; AP leaves out stuff, and finds crowds neither way.

    Crowds (instance 0 of a thing) are void to PQ, as in COCO's own evaluation.
    """
    count = len(categories) + 1
    quality = PanopticQuality(count, 0, DIVISOR)
    overlap = MeanIoU(count, 0)
    precision = AveragePrecision()
    for truth, guess in zip(truths, predictions, strict=True):
        category = truth // DIVISOR
        crowd = categories.is_thing[category] & (truth % DIVISOR == 0)
        quality.update(np.where(crowd, 0, truth), guess.panoptic)
        overlap.update(category, guess.panoptic // DIVISOR)
        precision.update(
            _instances(truth, categories), _instances(guess.panoptic, categories, guess)
        )
    found, exact = quality.result(), precision.result()
    return {
        **{name: found[name] for name in ("pq", "sq", "rq")},
        "miou": overlap.result(),
        **{name: exact[name] for name in ("ap", "ap_50")},
    }


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
