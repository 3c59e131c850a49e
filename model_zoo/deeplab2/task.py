"""What a round trains: panoptic or semantic segmentation through a local head.

Panoptic-DeepLab by Cheng et al. (2020), arXiv:1911.10194, predicts classes, centres and
offsets; DeepLabv3 and v3+ by Chen et al. (2017, 2018), arXiv:1706.05587 and 1802.02611,
predict classes alone.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.protocols import Batch, Features
from model_zoo.deeplab2.decoder import DecoderSpec
from model_zoo.deeplab2.losses import panoptic_losses, semantic_losses
from model_zoo.deeplab2.postprocess import PostSpec
from model_zoo.deeplab2.segmentation import SegmentationTask
from model_zoo.deeplab2.semantic import SemanticSpec
from model_zoo.deeplab2.targets import make_targets


@dataclass(frozen=True, kw_only=True)
class PanopticTask(SegmentationTask):
    """Every pixel's class and, if it is a thing's, which thing it belongs to.

    Attributes:
        post: how predictions become segments.

    Raises:
        UserError: if the network predicts no instances, or as `SegmentationTask`.
    """

    post: PostSpec = field(default_factory=PostSpec)

    name: str = "panoptic_deeplab"
    stage: str = "panoptic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.network.decoder, DecoderSpec):
            raise UserError(
                f"decoder={self.network.decoder} predicts no instances; use a "
                "DecoderSpec, or a SemanticTask."
            )

    def make_targets(self, maps: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
        """Classes, centres, offsets and their weights."""
        return make_targets(maps, self.categories, self.targets)

    def loss_parts(
        self, head: nn.Module, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """`semantic`, `center` and `offset`, weighted, `[B]` each."""
        return panoptic_losses(
            self.predicted(head, features, batch), batch, self.losses
        )

    def segmentation(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """`pq`, `sq`, `rq`, `miou`, `ap`, `ap_50` and `instance_ap_50`."""
        from model_zoo.deeplab2.evaluation import panoptic_metrics

        return panoptic_metrics(self, backbone, examples)


@dataclass(frozen=True, kw_only=True)
class SemanticTask(SegmentationTask):
    """Every pixel's class. Maps need no instances.

    Raises:
        UserError: if the network predicts instances, or as `SegmentationTask`.
    """

    name: str = "deeplab"
    stage: str = "semantic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.network.decoder, SemanticSpec):
            raise UserError(
                f"decoder={self.network.decoder} predicts instances that nothing would "
                "train; use a SemanticSpec, or a PanopticTask."
            )

    def make_targets(self, maps: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
        """Classes and their weights."""
        return make_targets(maps, self.categories, self.targets, instances=False)

    def loss_parts(
        self, head: nn.Module, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """`semantic`, weighted, `[B]`."""
        return semantic_losses(
            self.predicted(head, features, batch), batch, self.losses
        )

    def segmentation(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """`miou`."""
        from model_zoo.deeplab2.evaluation import semantic_metrics

        return semantic_metrics(self, backbone, examples)
