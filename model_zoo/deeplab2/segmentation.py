"""What all segmentation tasks share: pictures with maps, a local head, embeddings.

Trained as in Xu et al. (2023), arXiv:2211.10844: the encoder (with or without the
decoders) is aggregated, whatever predicts stays on the virtual client. What a class
means may differ between clients.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.heads import NEVER, unit_rows, weighted_mean
from fedemb.identity import embed_all, labels_of
from fedemb.pixels import pixels
from fedemb.protocols import Batch, Features, Parameters
from model_zoo.deeplab2.augment import AugmentSpec, augment
from model_zoo.deeplab2.blocks import ResidualSpec
from model_zoo.deeplab2.categories import DIVISOR, Categories
from model_zoo.deeplab2.losses import LossSpec, total
from model_zoo.deeplab2.network import (
    LocalNetwork,
    NetworkSpec,
    SharedNetwork,
    make_encoder,
)
from model_zoo.deeplab2.residual import count_blocks
from model_zoo.deeplab2.targets import TargetSpec


@dataclass(frozen=True, kw_only=True)
class SegmentationTask(ABC):
    """An `EmbeddingTask` over pictures with panoptic maps.

    Attributes:
        network: shared and local part.
        categories: of the data's maps.
        inputs: channels of the pictures.
        embedding_dim: D of an image embedding; None is the width of res5.
        classes_of: `client`: a head chooses among the categories that its virtual
            client shows; `global`: among all.
        targets: how targets are drawn.
        losses: weights of the losses.
        augmentation: of the pictures while training.

    Raises:
        UserError: for an unknown `classes_of`.
    """

    network: NetworkSpec
    categories: Categories
    inputs: int = 3
    embedding_dim: int | None = None
    classes_of: str = "client"
    targets: TargetSpec = field(default_factory=TargetSpec)
    losses: LossSpec = field(default_factory=LossSpec)
    augmentation: AugmentSpec = field(default_factory=AugmentSpec)

    name: str = "segmentation"
    stage: str = "segmentation"
    label_space: str = "global"  # a head's outputs are categories, not picture labels

    def __post_init__(self) -> None:
        if self.classes_of not in ("client", "global"):
            raise UserError(
                f"label_space={self.classes_of!r} must be client or global."
            )

    @property
    def num_classes(self) -> int:
        """Categories that a head can tell apart."""
        return len(self.categories)

    def make_backbone(self) -> nn.Module:
        """A new `SharedNetwork`, initialised from torch's global generator."""
        return SharedNetwork(
            self.network, inputs=self.inputs, embedding_dim=self.embedding_dim
        )

    def make_head(self, capacity: int) -> nn.Module:
        """A `LocalNetwork` for `capacity` categories; its values are a template."""
        return LocalNetwork(self.network, self._channels, capacity)

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """New values of all parameters; the last layers start near zero."""
        del classes  # those that the client does not show are masked in the loss
        return cast(LocalNetwork, head).fresh(generator)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Pictures x / 128 - 1, and the targets of their maps where there are any.

        Of random things there are the augmentation and the numbers that decide which
        residual branches are kept, both drawn group by group from `seeds`.
        """
        images = examples.fields["image"]
        if "panoptic" not in examples.fields:
            return {"image": pixels(images)}
        maps = cast(NDArray[np.integer], examples.fields["panoptic"])
        if self.augmentation.active:
            images, maps = augment(
                images, maps, examples.offsets, seeds, self.augmentation
            )
        made = self.make_targets(maps)
        batch = {name: torch.from_numpy(values) for name, values in made.items()}
        batch["image"] = pixels(images)
        batch["shown"] = torch.from_numpy(self._shown(maps, examples.offsets))
        if self._droppable:
            batch["path"] = torch.from_numpy(self._paths(examples.offsets, seeds))
        return batch

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Decoded features, or the encoder's endpoints if decoders are local."""
        shared = cast(SharedNetwork, backbone)
        return shared.dense(batch["image"], batch.get("path"))

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The sum of the weighted losses, mean over the rows that count."""
        return weighted_mean(
            total(self.loss_parts(head, features, batch)), batch["weight"]
        )

    @abstractmethod
    def make_targets(self, maps: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
        """What a head should say about maps `[n, H, W]`, row by row."""

    @abstractmethod
    def loss_parts(
        self, head: nn.Module, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """The losses by name, weighted, `[B]` each."""

    @abstractmethod
    def segmentation(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """How well pictures are segmented by a head fitted to frozen features."""

    def predicted(
        self, head: nn.Module, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """What the head says, at the size of the maps; absent classes cannot win."""
        size = batch["semantic"].shape[-2:]
        predicted: dict[str, Tensor] = head(features, (int(size[0]), int(size[1])))
        if self.classes_of == "client":
            shown = batch["shown"][..., None, None] > 0
            predicted["semantic"] = torch.where(shown, predicted["semantic"], NEVER)
        return predicted

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length averages of res5, projected to D."""
        return unit_rows(cast(Tensor, backbone(batch["image"])))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Retrieval of whole pictures, and segmentation with a head fitted on the spot.

        A new head is fitted to the frozen features of one half of (at most 256) rows
        and judged on the other.
        """
        from fedemb.metrics import identity_metrics

        labels = labels_of(examples)
        metrics = identity_metrics(embed_all(self, backbone, examples), labels)
        return metrics | self.segmentation(backbone, examples)

    @cached_property
    def _channels(self) -> dict[str, int]:
        with torch.device("meta"):
            return dict(make_encoder(self.network, self.inputs).channels)

    @property
    def _droppable(self) -> int:
        """Residual blocks whose branches may be dropped while training."""
        encoder = self.network.encoder
        if not isinstance(encoder, ResidualSpec) or encoder.keep_path == 1:
            return 0
        return count_blocks(encoder, self.network.output_stride)

    def _paths(
        self, offsets: NDArray[np.int64], seeds: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        """Uniform numbers `[n, blocks]`, from each group's own seed."""
        drawn = [
            np.random.Generator(np.random.Philox([int(seed), 1])).random(
                (int(size), self._droppable), np.float32
            )
            for seed, size in zip(seeds, np.diff(offsets), strict=True)
        ]
        return np.concatenate(drawn)

    def _shown(
        self, maps: NDArray[np.integer], offsets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Which categories the row's group shows, `[n, K]` of 0 and 1."""
        rows = np.arange(len(maps))[:, None, None]
        count = len(self.categories) + 1
        keys = (maps // DIVISOR + count * rows).ravel()
        table = np.bincount(keys, minlength=len(maps) * count).reshape(-1, count)[:, 1:]
        sizes = np.diff(offsets)
        filled = offsets[:-1][sizes > 0]
        if not len(filled):
            return np.zeros((len(maps), count - 1), np.float32)
        shown = np.add.reduceat(table, filled) > 0
        return np.repeat(shown, sizes[sizes > 0], axis=0).astype(np.float32)
