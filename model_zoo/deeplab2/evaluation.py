"""Segmentation with a head that is fitted to frozen features.

A head is private to whoever needs one, so judging a backbone means giving it a new head
first: on public pictures, from a public seed, the same for every backbone.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.protocols import Batch
from model_zoo.deeplab2.augment import AugmentSpec
from model_zoo.deeplab2.categories import DIVISOR, Categories
from model_zoo.deeplab2.network import LocalNetwork, SharedNetwork
from model_zoo.deeplab2.postprocess import PostSpec, group_pixels, merge
from model_zoo.deeplab2.precision import (
    AveragePrecision,
    Instances,
    instance_scores,
    instances_of,
)
from model_zoo.deeplab2.quality import MeanIoU, PanopticQuality

if TYPE_CHECKING:
    from model_zoo.deeplab2.task import PanopticTask


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """How a head is fitted: Adam on the task's losses, with frozen features.

    All pixels count alike, and all of them: in the few steps of a fit the published
    choice of hard pixels and small instances would have no time to reach the rest.

    Attributes:
        rows: pictures to fit to, and as many to judge by, at most.
        steps: of Adam.
        batch_size: pictures per step.
        learning_rate: of Adam, falling linearly to zero.
        seed: of the head's first values and of the batches; public.
    """

    rows: int = 128
    steps: int = 150
    batch_size: int = 16
    learning_rate: float = 0.01
    seed: int = 0


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


def segmentation_metrics(
    task: "PanopticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> dict[str, float]:
    """`pq`, `sq`, `rq`, `miou`, `ap` and `ap_50` of every other row.

    The rows in between fit the head. Rows are spread evenly over `examples`; with a
    single row there is nothing to judge and all metrics are 0.
    """
    fit = fit or FitSpec()
    count = min(len(examples), 2 * fit.rows)
    rows = np.linspace(0, len(examples) - 1, count).astype(np.int64)
    fitted, judged = rows[::2], rows[1::2]
    backbone.eval()
    device = next(backbone.parameters()).device
    head = fit_head(task, backbone, examples.only(fitted), fit, device)
    truths = examples.fields["panoptic"][judged].astype(np.int64)
    predictions = segment(task, backbone, head, examples.only(judged))
    return score_predictions(list(truths), predictions, task.categories)


def fit_head(
    task: "PanopticTask",
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec,
    device: torch.device | None = None,
) -> LocalNetwork:
    """A new head, fitted to the frozen features of `examples`."""
    device = device or next(backbone.parameters()).device
    task = replace(
        task,
        losses=replace(task.losses, top_k=1.0),
        targets=replace(task.targets, small_weight=1.0),
        classes_of="global",
        augmentation=AugmentSpec(),
    )
    batch = _to(task.prepare(examples, np.zeros(1, np.uint64)), device)
    batch.pop("path", None)
    batch["weight"] = torch.ones(len(examples), device=device)
    features = _features(cast(SharedNetwork, backbone), batch["image"])
    head = cast(LocalNetwork, task.make_head(task.num_classes)).to(device)
    draw = torch.Generator().manual_seed(fit.seed)
    head.load_state_dict(head.fresh(draw))
    optimizer = torch.optim.Adam(head.parameters(), fit.learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 1.0 / fit.steps, total_iters=fit.steps
    )
    with torch.enable_grad():
        for _ in range(fit.steps):
            rows = torch.randperm(len(examples), generator=draw)[: fit.batch_size]
            rows = rows.to(device)
            optimizer.zero_grad()
            loss = task.loss(
                head,
                {name: values[rows] for name, values in features.items()},
                {name: values[rows] for name, values in batch.items()},
            )
            torch.autograd.backward(loss)
            optimizer.step()
            decay.step()
    return head.eval()


def segment(
    task: "PanopticTask", backbone: nn.Module, head: LocalNetwork, examples: Examples
) -> list[Prediction]:
    """The segments of pictures, by a backbone and a head in global label space."""
    device = next(backbone.parameters()).device
    images = task.prepare(_pictures(examples), np.zeros(1, np.uint64))["image"]
    out = []
    with torch.no_grad():
        for part in torch.split(images, 16):
            pictures = part.to(device)
            size = (int(pictures.shape[2]), int(pictures.shape[3]))
            dense = cast(SharedNetwork, backbone).dense(pictures)
            predicted = head(dense, size)
            for semantic, center, offset in zip(
                predicted["semantic"],
                predicted["center"],
                predicted["offset"],
                strict=True,
            ):
                out.append(
                    predict_one(semantic, center, offset, task.categories, task.post)
                )
    return out


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


def _features(backbone: SharedNetwork, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        parts = [backbone.dense(part) for part in torch.split(images, 16)]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _pictures(examples: Examples) -> Examples:
    return Examples({"image": examples.fields["image"]}, examples.offsets)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}
