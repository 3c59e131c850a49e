"""The system's own metrics on held-out pictures, beside those of its embeddings."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.heads import unit_rows
from fedemb.metrics import identity_metrics
from fedemb.pixels import pixels
from model_zoo.univrd.augment import Annotated
from model_zoo.univrd.backbone import Instances, Relations, UniVRD
from model_zoo.univrd.geometry import corners
from model_zoo.univrd.heads import LogitScaling, similarity
from model_zoo.univrd.inference import Triplets, best_triplets, relation_embedding
from model_zoo.univrd.metrics import average_precisions, mean_recall
from model_zoo.univrd.phrases import LabelSpace

_PICTURES = 64  # at a time
_RECALLED = (20, 50, 100)  # triplets of a picture


@torch.no_grad()
def evaluate(
    model: UniVRD,
    names: LogitScaling,
    phrases: Callable[[Tensor], Tensor],
    space: LabelSpace,
    rows: Annotated,
    labels: NDArray[np.int64],
    suppression: float = 0.7,
) -> dict[str, float]:
    """All metrics of held-out pictures.

    Every source is evaluated with its own names and phrases, as data sets are; averages
    are over all labels of all sources that occur.

    Args:
        model: the backbone.
        names: scaling of name logits.
        phrases: scaling of phrase logits.
        space: names and phrases.
        rows: annotated pictures.
        labels: identities `[n]`, for the relation embeddings.
        suppression: threshold of the pair-wise suppression; 1 keeps all triplets.

    Returns:
        `relation_map` (HICO-DET's AP), `mean_recall_at_20` and `_50` and `_100` (Visual
        Genome's), `detection_map` at IoU 0.5, and the identity metrics. What has no
        annotation is NaN, not defined.
    """
    pieces = [_look(model, rows.image[i : i + _PICTURES]) for i in _starts(rows)]
    instances = Instances(*_joined([piece[0] for piece in pieces]))
    relations = Relations(*_joined([piece[1] for piece in pieces]))
    seen = (rows, instances, relations)
    result = _relation_metrics(model, phrases, space, *seen, suppression)
    result["detection_map"] = _detection_map(model, names, space, rows, instances)
    embedded = relation_embedding(relations, model.relation_bank)
    return result | identity_metrics(embedded.float().cpu(), labels)


def _relation_metrics(
    model: UniVRD,
    phrases: Callable[[Tensor], Tensor],
    space: LabelSpace,
    rows: Annotated,
    instances: Instances,
    relations: Relations,
    suppression: float,
) -> dict[str, float]:
    """MAP over phrases and mean recall over predicates, each source by its phrases."""
    found: list[Triplets] = []
    for number in range(len(space.sources)):
        here = np.flatnonzero(rows.source == number)
        allowed = space.phrases_of(number)
        if len(here) == 0 or len(allowed) == 0:
            continue
        some = best_triplets(
            _of(instances, here),
            _related(relations, here),
            model.relation_bank[torch.from_numpy(allowed)],
            phrases,
            top=max(_RECALLED),
            threshold=suppression,
        )
        picture, label = here[some.picture], allowed[some.label]
        found.append(replace(some, picture=picture, label=label))
    truth = _annotated_triplets(space, rows)
    if not (found and len(truth)):
        names = ("relation_map", *(f"mean_recall_at_{k}" for k in _RECALLED))
        return dict.fromkeys(names, math.nan)
    triplets, predicates = Triplets.concatenated(found), space.triplets[:, 1]
    precisions = average_precisions(triplets, truth, len(space.triplets))
    return {"relation_map": float(np.nanmean(precisions))} | {
        f"mean_recall_at_{k}": mean_recall(triplets, truth, k, predicates)
        for k in _RECALLED
    }


def _detection_map(
    model: UniVRD,
    names: LogitScaling,
    space: LabelSpace,
    rows: Annotated,
    instances: Instances,
) -> float:
    """MAP over names at IoU 0.5, each source by its own names."""
    boxes = []
    for number, source in enumerate(space.sources):
        here = np.flatnonzero(rows.source == number)
        own = torch.tensor(source.objects)
        if len(here):
            boxes.append(_boxes(model, names, _of(instances, here), own, here))
    truth = _annotated_boxes(rows)
    if not len(truth):
        return math.nan
    found = Triplets.concatenated(boxes)
    return float(np.nanmean(average_precisions(found, truth, len(space.objects))))


def _starts(rows: Annotated) -> range:
    return range(0, len(rows.image), _PICTURES)


def _joined(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(same) for same in zip(*parts, strict=True)]


def _look(
    model: UniVRD, images: NDArray[np.uint8]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    device = model.object_bank.device
    with torch.inference_mode():
        seen = model.detect(pixels(images).to(device))
        related = model.relate(seen)
    return (
        (seen.tokens, seen.boxes, seen.classes),
        (related.classes, related.subjects, related.objects),
    )


def _of(instances: Instances, rows: NDArray[np.int64]) -> Instances:
    return Instances(
        instances.tokens[rows], instances.boxes[rows], instances.classes[rows]
    )


def _related(relations: Relations, rows: NDArray[np.int64]) -> Relations:
    return Relations(
        relations.classes[rows], relations.subjects[rows], relations.objects[rows]
    )


def _boxes(
    model: UniVRD,
    names: LogitScaling,
    seen: Instances,
    own: Tensor,
    pictures: NDArray[np.int64],
) -> Triplets:
    """Every token's box under each name of a source, the prompts' mean embedding."""
    queries = unit_rows(model.object_bank[own].mean(1))
    with torch.inference_mode():
        logits = names(similarity(seen.classes, queries), seen.tokens)
    scores = torch.sigmoid(logits).cpu().numpy()
    b, n, q = scores.shape
    shape = np.broadcast_to(pictures[:, None, None], scores.shape)
    box = np.repeat(corners(seen.boxes).cpu().numpy().reshape(b * n, 4), q, axis=0)
    label = np.broadcast_to(own.numpy(), scores.shape)
    return Triplets(shape.ravel(), box, box, label.ravel(), scores.ravel())


def _annotated_boxes(rows: Annotated) -> Triplets:
    """Objects as triplets of a box with itself."""
    picture, place = np.nonzero(rows.names >= 0)
    box = corners(torch.from_numpy(rows.boxes[picture, place])).numpy()
    ones = np.ones(len(box), np.float32)
    return Triplets(picture, box, box, rows.names[picture, place], ones)


def _annotated_triplets(space: LabelSpace, rows: Annotated) -> Triplets:
    """Annotated relations whose ends both have a box."""
    subject, predicate, target = np.moveaxis(rows.relations, -1, 0)
    picture, place = np.nonzero((subject >= 0) & (target >= 0))
    s, p, o = (x[picture, place] for x in (subject, predicate, target))
    label = space.phrase_number[rows.names[picture, s], p, rows.names[picture, o]]
    named = (rows.names[picture, s] >= 0) & (rows.names[picture, o] >= 0)
    boxes = corners(torch.from_numpy(rows.boxes)).numpy()
    ones = np.ones(len(picture), np.float32)
    return Triplets(picture, boxes[picture, s], boxes[picture, o], label, ones).where(
        named & (label >= 0)
    )
