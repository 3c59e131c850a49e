"""From a picture to triplets: subject box, object box, phrase and score."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.heads import unit_rows
from model_zoo.univrd.backbone import Instances, Relations
from model_zoo.univrd.geometry import corners, overlaps
from model_zoo.univrd.heads import similarity


@dataclass(frozen=True)
class Triplets:
    """Relations of several pictures, found or annotated; `[t, ...]` each.

    Attributes:
        picture: which picture.
        subject: box (x1, y1, x2, y2), `[t, 4]`.
        object: likewise; NaN where an action has no object.
        label: which phrase, or which predicate.
        score: higher is surer; ones for annotations.
    """

    picture: NDArray[np.int64]
    subject: NDArray[np.float32]
    object: NDArray[np.float32]
    label: NDArray[np.int64]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.picture)

    def where(self, chosen: NDArray[np.generic]) -> "Triplets":
        """Some of them: a mask or indices."""
        return Triplets(
            self.picture[chosen],
            self.subject[chosen],
            self.object[chosen],
            self.label[chosen],
            self.score[chosen],
        )

    @staticmethod
    def concatenated(parts: "list[Triplets]") -> "Triplets":
        """All of them, in order."""
        return Triplets(
            np.concatenate([p.picture for p in parts]),
            np.concatenate([p.subject for p in parts]),
            np.concatenate([p.object for p in parts]),
            np.concatenate([p.label for p in parts]),
            np.concatenate([p.score for p in parts]),
        )


def pointed(relations: Relations, instances: Instances) -> tuple[Tensor, Tensor]:
    """Tokens of subject and object of every relation query, int64 `[B, M]` each.

    The tokens of largest cosine: boxes are looked up, never made, and one instance may
    serve many relations.
    """
    subjects = similarity(relations.subjects, instances.tokens).argmax(-1)
    objects = similarity(relations.objects, instances.tokens).argmax(-1)
    return subjects, objects


def relation_embedding(
    relations: Relations, phrases: Tensor, sharpness: float = 10.0
) -> Tensor:
    """One unit-length embedding `[B, e]` per picture, of its relations.

    The mean of the relation embeddings, weighted by certainty: the softmax over
    relation queries of their best cosine to any phrase, times `sharpness`. A large
    sharpness leaves the most certain relation alone.
    """
    certainty = similarity(relations.classes, phrases).amax(-1)  # [B, M]
    weights = (sharpness * certainty).softmax(-1)
    return unit_rows((weights[..., None] * unit_rows(relations.classes)).sum(1))


def best_triplets(
    instances: Instances,
    relations: Relations,
    phrases: Tensor,
    scaling: Callable[[Tensor], Tensor],
    top: int = 100,
    threshold: float = 0.7,
) -> Triplets:
    """The most certain triplets of pictures, after pair-wise suppression.

    Args:
        instances: of B pictures.
        relations: of the same.
        phrases: embeddings `[R, e]` of the texts to look for; any texts, or relation
            embeddings of other pictures.
        scaling: cosines to logits.
        top: triplets kept per picture, before suppression.
        threshold: of the suppression; 1 keeps all.

    Returns:
        Triplets by picture and falling score; labels are rows of `phrases`.
    """
    scores = torch.sigmoid(scaling(similarity(relations.classes, phrases)))
    flat = scores.detach().flatten(1)
    values, places = flat.topk(min(top, flat.shape[1]), dim=1)
    query, label = places // len(phrases), places % len(phrases)
    boxes = corners(instances.boxes).detach()
    ends = [
        boxes.gather(1, end.gather(1, query)[..., None].expand(-1, -1, 4))
        for end in pointed(relations, instances)
    ]
    out = []
    for b in range(len(flat)):
        kept = pairwise_nms(
            ends[0][b], ends[1][b], label[b], values[b], threshold=threshold
        )
        out.append(
            Triplets(
                np.full(int(kept.sum()), b, dtype=np.int64),
                ends[0][b][kept].cpu().numpy(),
                ends[1][b][kept].cpu().numpy(),
                label[b][kept].cpu().numpy(),
                values[b][kept].cpu().numpy(),
            )
        )
    return Triplets.concatenated(out)


def pairwise_nms(
    subjects: Tensor,
    objects: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    threshold: float = 0.7,
    subject_power: float = 1.0,
    object_power: float = 0.5,
) -> Tensor:
    """Which triplets of one picture survive, bool `[k]`.

    By falling score, a triplet is dropped if one of the same label that was kept has
    IoU(subjects)^a * IoU(objects)^b above the threshold. The powers are those of CDN
    (Zhang et al. 2021, arXiv:2108.05077).

    Args:
        subjects: corner boxes `[k, 4]`.
        objects: likewise.
        labels: `[k]`.
        scores: `[k]`.
        threshold: overlap that is tolerated.
        subject_power: a.
        object_power: b.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)
        >>> score = torch.tensor([0.9, 0.8])
        >>> pairwise_nms(box, box, torch.tensor([3, 3]), score).tolist()
        [True, False]
        >>> pairwise_nms(box, box, torch.tensor([3, 4]), score).tolist()
        [True, True]
    """
    iou_subject = overlaps(subjects[:, None], subjects[None])[0]
    iou_object = overlaps(objects[:, None], objects[None])[0]
    close = iou_subject**subject_power * iou_object**object_power > threshold
    rivals = (close & (labels[:, None] == labels[None])).cpu().numpy()
    kept = np.ones(len(scores), dtype=bool)
    order = torch.argsort(scores, descending=True, stable=True).cpu().numpy()
    for place, one in enumerate(order):
        if kept[one]:
            later = order[place + 1 :]
            kept[later] &= ~rivals[one, later]
    return torch.from_numpy(kept).to(scores.device)
