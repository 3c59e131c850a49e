"""The published task: images of identities, an embedding backbone, a local classifier.

Xu et al. (2023), arXiv:2211.10844: learn embeddings by classifying identities with a
head that stays on the virtual client; evaluate by verifying unseen identities.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import beside
from fedemb.errors import UserError
from fedemb.heads import (
    BiasedHead,
    ClassMeansHead,
    CosineHead,
    LinearHead,
    unit_rows,
    weighted_mean,
)
from fedemb.pixels import pixels
from fedemb.protocols import Batch, EmbeddingTask, Features, Parameters
from fedemb.views import AUGMENTS, views_of

_LINEAR = {"linear": LinearHead, "linear-bias": BiasedHead, "cosine": CosineHead}
HEADS = ("class-means", *_LINEAR)
_WAYS, _TRIALS = 20, 400


@dataclass(frozen=True, kw_only=True)
class IdentityTask:
    """An `EmbeddingTask` over images and labels.

    A backbone may have a method `penalty() -> Tensor | None`: a scalar of its weights
    that is added to the loss of every step that has a row.

    Attributes:
        name: for reports.
        backbone: makes a module `[B, C, H, W] -> [B, D]`.
        embedding_dim: D.
        num_classes: size of the data set's label space.
        head: `class-means` (leave-one-out), `linear`, `linear-bias` or `cosine`.
        label_space: `client` or `global`.
        always_normalize: whether features have unit length in training too.
        temperature: of the class-means head.
        views: distorted copies of every image that train in its place; 1 trains on the
            images as they are. New in every round, the same in all steps of a round.
        max_side: larger images are averaged down to this side, in pixels, before all
            else; None keeps every size.
        augment: how views are distorted, one of `fedemb.views.AUGMENTS`.

    Raises:
        UserError: for an unknown head, label space or augmentation, or no views.
    """

    name: str
    backbone: Callable[[], nn.Module]
    embedding_dim: int
    num_classes: int
    head: str = "class-means"
    label_space: str = "client"
    always_normalize: bool = False
    temperature: float = 0.1
    views: int = 1
    augment: str = "affine"
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise UserError(f"head={self.head!r} must be one of {', '.join(HEADS)}.")
        if self.label_space not in ("client", "global"):
            raise UserError(
                f"label_space={self.label_space!r} must be client or global."
            )
        if self.views < 1:
            raise UserError(f"views={self.views} must be at least 1.")
        if self.augment not in AUGMENTS:
            raise UserError(
                f"augment={self.augment!r} must be one of {', '.join(AUGMENTS)}."
            )

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        return self.backbone()

    def make_head(self, capacity: int) -> nn.Module:
        """A head for at most `capacity` classes."""
        if self.head == "class-means":
            return ClassMeansHead(capacity, self.temperature)
        return _LINEAR[self.head](self.embedding_dim, capacity)

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """Glorot-uniform rows for the client's classes, zeros beyond them."""
        fresh = {
            name: value.detach().clone() for name, value in head.named_parameters()
        }
        if "weight" in fresh:
            weight = fresh["weight"]
            bound = (6 / (weight.shape[1] + classes)) ** 0.5
            drawn = torch.rand(classes, weight.shape[1], generator=generator)
            weight[:classes] = (2 * drawn - 1) * bound
        return fresh

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Pixels x / 128 - 1 in `[n, C, H, W]`, labels, and `[n, V, C, H, W]` views."""
        labels = labels_of(examples)
        image = pixels(examples.fields["image"], self.max_side)
        batch = {"image": image, "label": labels}
        if self.views > 1:
            batch["views"] = views_of(
                image, examples.offsets, seeds, self.views, self.augment
            )
        return batch

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Embeddings `[B, D]`, or `[B, V, D]` of the views.

        Of any length unless `always_normalize`.
        """
        if "views" in batch:
            views = batch["views"]
            values: Tensor = backbone(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        else:
            values = backbone(batch["image"])
        if self.always_normalize:
            values = unit_rows(values)
        penalize = getattr(backbone, "penalty", None)
        penalty = None if penalize is None else penalize()
        if penalty is None:
            return values
        return {"embedding": values, "penalty": penalty.expand(len(values))}

    def takes_many(self, head: nn.Module) -> bool:
        """Whether `loss` takes parameters, features and batches of many clients.

        They have a leading axis of clients then, and so have the losses.
        """
        own = type(self).loss is IdentityTask.loss
        return own and getattr(head, "takes_many", False)

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The head's cross-entropy, and the backbone's penalty if it has one."""
        if isinstance(features, Tensor):
            return cast(Tensor, head(features, batch))
        clients = batch["classes"].dim()
        penalty = weighted_mean(features["penalty"], batch["weight"], clients)
        return cast(Tensor, head(features["embedding"], batch)) + penalty

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length embeddings `[B, D]`; a zero vector stays zero."""
        return unit_rows(cast(Tensor, backbone(batch["image"])))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Exact verification and retrieval metrics over all pairs of `examples`.

        With 20 identities or more, also the accuracy of 20-way one-shot recognition.
        """
        from fedemb.metrics import identity_metrics, one_shot_accuracy

        labels = labels_of(examples)
        embeddings = embed_all(replace(self, views=1), backbone, examples)
        metrics = identity_metrics(embeddings, labels)
        sizes = torch.unique(labels, return_counts=True)[1]
        if int((sizes > 1).sum()) >= _WAYS:
            metrics["one_shot_20_way"] = one_shot_accuracy(
                embeddings, labels, ways=_WAYS, trials=_TRIALS
            )
        return metrics


def embed_all(
    task: EmbeddingTask, backbone: nn.Module, examples: Examples, block: int = 512
) -> Tensor:
    """Embeddings `[n, D]` of all rows, in order, a block of rows at a time."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(examples), block):
            rows = np.arange(start, min(start + block, len(examples)), dtype=np.int64)
            part = examples.only(rows)
            batch = beside(backbone, task.prepare(part, np.zeros(1, np.uint64)))
            parts.append(task.embed(backbone, batch).float().cpu())
    return torch.cat(parts)


def labels_of(examples: Examples) -> Tensor:
    """The field `label` as int64 `[n]`.

    Example:
        >>> labels_of(Examples({"label": np.array([3, 1])}, np.array([0, 2]))).tolist()
        [3, 1]
    """
    return torch.from_numpy(examples.fields["label"].astype(np.int64))
