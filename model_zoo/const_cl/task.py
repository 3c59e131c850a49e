"""ConST-CL as a task: two views of a virtual client's own videos teach the network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.heads import unit_rows
from fedemb.protocols import Batch, Features, Parameters
from model_zoo.const_cl.backbone import Maps, TwoHeadedResNet
from model_zoo.const_cl.evaluation import evaluate
from model_zoo.const_cl.heads import (
    HeadShape,
    LocalHead,
    Reconstructor,
    region_features,
)
from model_zoo.const_cl.losses import global_loss, local_loss
from model_zoo.const_cl.views import Augmentation, augmented, middle


@dataclass(frozen=True, kw_only=True)
class ConstClTask:
    """An `EmbeddingTask` over clips; labels and captions play no part in training.

    Attributes:
        name: for reports.
        backbone: makes a `TwoHeadedResNet`.
        head: sizes of the local head.
        num_classes: size of the data set's label space, which training does not use.
        augmentation: how views are made.
        temperatures: of the global and of the local loss.
        global_weight: of the global loss; 0 leaves it out.
        local_weight: of the local loss; 0.001 as published for a rate of 40.
        share_decoder: whether the decoder, if a loss trains one, is aggregated along
            with the network, instead of being made anew on every client.

    Raises:
        UserError: a negative weight, no loss at all, or regions that change their width
            on the way.
    """

    name: str
    backbone: Callable[[], nn.Module]
    head: HeadShape
    num_classes: int
    augmentation: Augmentation
    temperatures: tuple[float, float] = (0.1, 0.2)
    global_weight: float = 1.0
    local_weight: float = 0.001
    share_decoder: bool = False
    label_space: str = "global"

    def __post_init__(self) -> None:
        for name in ("global_weight", "local_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative.")
        if not (self.global_weight or self.local_weight):
            raise UserError(
                "global_weight=0 and local_weight=0 leave nothing to learn; give one a "
                "weight."
            )
        if self.local_weight and self.head.outputs not in (None, self.head.channels):
            raise UserError(
                f"outputs={self.head.outputs} of the head must be the channels="
                f"{self.head.channels} of the maps: carried regions are compared with "
                "regions. Leave outputs out, or set local_weight=0."
            )

    @property
    def aggregates_decoder(self) -> bool:
        """Whether there is a decoder, a loss that trains it, and it is shared."""
        return self.share_decoder and self.head.guided and self.local_weight > 0

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        network = cast(TwoHeadedResNet, self.backbone())
        if self.aggregates_decoder:
            network.decoder = Reconstructor(self.head)
        return network

    def make_head(self, capacity: int) -> nn.Module:
        """Perceptron and decoder, unless that is shared; classes play no part."""
        del capacity
        own = self.head.guided and not self.aggregates_decoder
        return LocalHead(replace(self.head, guided=own))

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """Glorot-uniform matrices, zero biases, norms of one."""
        del classes
        fresh = {}
        for name, value in head.named_parameters():
            if value.dim() == 2:
                bound = (6 / sum(value.shape)) ** 0.5
                drawn = torch.rand(value.shape, generator=generator)
                fresh[name] = (2 * drawn - 1) * bound
            else:
                fresh[name] = torch.zeros(value.shape)
        for prefix, layer in head.named_modules():
            if isinstance(layer, nn.LayerNorm):
                fresh[f"{prefix}.weight"] += 1
        return fresh

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Two views `[n, 2, 3, T', H, W]` with boxes `[n, 2, N, 4]`, and the middle."""
        clips = examples.fields["clip"]
        things = self._things(examples)
        parts = [
            augmented(clips, examples.offsets, seeds, self.augmentation, view, things)
            for view in (0, 1)
        ]
        return {
            "views": torch.stack([pixels for pixels, _ in parts], dim=1),
            "boxes": torch.stack([boxes for _, boxes in parts], dim=1),
            "clip": middle(clips, self.augmentation),
        }

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Pooled global features, local maps and region features of both views.

        With a shared decoder there are no maps, but `carried`: regions of each view in
        the other.
        """
        network = cast(TwoHeadedResNet, backbone)
        maps: Maps = network.maps(batch["views"].flatten(0, 1))
        local = F.normalize(maps.local, dim=1)
        boxes = batch["boxes"].flatten(0, 1)
        found = {
            "pooled": maps.holistic.mean((2, 3, 4)),
            "maps": local,
            "regions": region_features(local, boxes.clamp(min=0), self.head.region),
        }
        pairs = {k: torch.unflatten(v, 0, (-1, 2)) for k, v in found.items()}
        if network.decoder is not None:
            memory = network.decoder.memory(pairs.pop("maps").flip(1).flatten(0, 1))
            carried = network.decoder(found["regions"], memory)
            pairs["carried"] = torch.unflatten(carried, 0, (-1, 2))
        return pairs

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The global loss, and a little of the local one."""
        found, own = cast(dict[str, Tensor], features), cast(LocalHead, head)
        weighed = (
            (self.global_weight, self._of_clips),
            (self.local_weight, self._of_regions),
        )
        return torch.stack(
            [factor * part(own, found, batch) for factor, part in weighed if factor]
        ).sum()

    def _of_clips(
        self, head: LocalHead, found: dict[str, Tensor], batch: Batch
    ) -> Tensor:
        embedded, cold = head.perceptron(found["pooled"]), self.temperatures[0]
        return global_loss(embedded[:, 0], embedded[:, 1], cold, batch["weight"])

    def _of_regions(
        self, head: LocalHead, found: dict[str, Tensor], batch: Batch
    ) -> Tensor:
        first, second = found["regions"].unbind(1)
        a, b = (batch["boxes"][..., 0] >= 0).to(first.dtype).unbind(1)
        if "carried" in found:
            there, back = found["carried"].unbind(1)
        else:
            maps = found["maps"].unbind(1)
            there, back = head.carried(first, maps[1]), head.carried(second, maps[0])
        cold, weight = self.temperatures[1], batch["weight"]
        return (
            local_loss(there, first, second, a, cold, weight, b)
            + local_loss(back, second, first, b, cold, weight, a)
        ) / 2

    def _things(self, examples: Examples) -> NDArray[np.generic] | None:
        if self.augmentation.regions == "random":
            return None
        if "boxes" not in examples.fields:
            raise UserError(
                f"regions={self.augmentation.regions!r} needs a field `boxes`, which "
                "these clips do not have; take regions='random', or generated clips."
            )
        return examples.fields["boxes"]

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length means `[B, C]` of the global branch."""
        return unit_rows(cast(Tensor, backbone(batch["clip"])))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Identity metrics, region matching and tracking on held-out clips."""
        return evaluate(self, backbone, examples)
