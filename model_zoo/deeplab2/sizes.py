"""The sizes of the system, from the published ones down to pictures of 32 pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from model_zoo.deeplab2.augment import AugmentSpec
from model_zoo.deeplab2.axial import AxialSpec
from model_zoo.deeplab2.blocks import ResidualSpec
from model_zoo.deeplab2.categories import Categories
from model_zoo.deeplab2.decoder import DecoderSpec
from model_zoo.deeplab2.losses import LossSpec
from model_zoo.deeplab2.mobilenet import MOBILE, MobileNetSpec
from model_zoo.deeplab2.network import NetworkSpec
from model_zoo.deeplab2.postprocess import PostSpec
from model_zoo.deeplab2.residual import RESIDUAL
from model_zoo.deeplab2.segmentation import SegmentationTask
from model_zoo.deeplab2.semantic import SemanticSpec
from model_zoo.deeplab2.targets import TargetSpec
from model_zoo.deeplab2.task import PanopticTask, SemanticTask


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network with the rest of its recipe.

    Attributes:
        network: encoder, decoders, heads, and what of them is shared.
        targets: how targets are drawn.
        post: how predictions become segments, where there are instances.
        augmentation: while training.
        losses: weights of the losses.
    """

    network: NetworkSpec
    targets: TargetSpec = TargetSpec()
    post: PostSpec = PostSpec()
    augmentation: AugmentSpec = AugmentSpec(flip=True, scales=(0.5, 2.0))
    losses: LossSpec = LossSpec()

    def with_share(self, share: str) -> NetworkSpec:
        """The network, aggregating `encoder` or `encoder_decoder`."""
        return replace(self.network, share=share)

    def task(self, share: str, categories: Categories) -> SegmentationTask:
        """What trains this size: panoptic or, without instances, semantic."""
        task = (
            SemanticTask
            if isinstance(self.network.decoder, SemanticSpec)
            else partial(PanopticTask, post=self.post)
        )
        return task(
            network=self.with_share(share),
            categories=categories,
            targets=self.targets,
            augmentation=self.augmentation,
            losses=self.losses,
        )


_POINT = DecoderSpec(rates=())
"""One 1 x 1 convolution in place of the pyramid, as with axial encoders."""

_SMALL_DECODER = DecoderSpec(
    rates=(1, 2, 3),
    pyramid=32,
    semantic=32,
    instance=16,
    semantic_low=(16, 8),
    instance_low=(8, 4),
    heads=(32, 8, 8),
)
_TINY_DECODER = DecoderSpec(
    rates=(),
    pyramid=16,
    semantic=16,
    instance=16,
    semantic_low=(8, 8),
    instance_low=(8, 8),
    heads=(16, 16, 16),
    kernel=3,
    separable=False,
    predict_std=0.1,  # a head that does not move must say something from the start
)
_SMALL_TARGETS = TargetSpec(sigma=2.0, small_area=64)
_SMALL_POST = PostSpec(kernel=7, stuff_area=16, keep=32)


_SEMANTIC_V3 = SemanticSpec()
_SEMANTIC_V3_PLUS = SemanticSpec(low=48)
_TINY_ENCODER = ResidualSpec(
    stem_filters=16, stem_stride=1, filters=2, blocks=(1, 1, 1, 1)
)


def _published(
    encoder: ResidualSpec | MobileNetSpec,
    decoder: DecoderSpec | SemanticSpec,
    *,
    kernel: int = 13,
) -> Size:
    return Size(
        network=NetworkSpec(encoder=encoder, decoder=decoder),
        post=PostSpec(kernel=kernel),
    )


def _small(
    encoder: ResidualSpec | MobileNetSpec,
    decoder: DecoderSpec | SemanticSpec,
    losses: LossSpec | None = None,
) -> Size:
    return Size(
        network=NetworkSpec(encoder=encoder, decoder=decoder),
        targets=_SMALL_TARGETS,
        post=_SMALL_POST,
        augmentation=AugmentSpec(),
        losses=losses or LossSpec(),
    )


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "resnet50": _published(RESIDUAL["resnet50"], DecoderSpec()),
        "mobilenet_v3_large": _published(MOBILE["mobilenet_v3_large"], DecoderSpec()),
        "mobilenet_v3_small": _published(
            MOBILE["mobilenet_v3_small"], DecoderSpec(), kernel=7
        ),
        **{
            name: _published(RESIDUAL[name], _POINT)
            for name in (
                "max_deeplab_s_backbone",
                "max_deeplab_l_backbone",
                "axial_swidernet_1",
                "axial_swidernet_3",
                "axial_swidernet_4.5",
            )
        },
        "axial_swidernet_tiny": _small(
            ResidualSpec(
                stem="wide",
                stem_filters=16,
                filters=8,
                first_blocks=1,
                blocks=(1, 1, 1, 1),
                axial_beyond=16,
                bottleneck=2,
                axial=AxialSpec(
                    heads=4, key_expansion=1, value_expansion=2, max_span=33
                ),
            ),
            _SMALL_DECODER,
        ),
        "mobilenet_tiny": _small(
            MobileNetSpec(
                rows=MOBILE["mobilenet_v3_small"].rows,
                stem_endpoint=True,
                last=576,
                width=0.25,
            ),
            _SMALL_DECODER,
        ),
        "tiny": _small(
            _TINY_ENCODER,
            _TINY_DECODER,
            LossSpec(top_k=1.0),  # in a hundred rounds, hard pixels are all it learns
        ),
        "deeplabv3": _published(RESIDUAL["resnet50"], _SEMANTIC_V3),
        "deeplabv3_plus": _published(RESIDUAL["resnet50"], _SEMANTIC_V3_PLUS),
        "deeplabv3_mobilenet_v3_large": _published(
            MOBILE["mobilenet_v3_large"], _SEMANTIC_V3
        ),
        "semantic_tiny": _small(
            _TINY_ENCODER,
            SemanticSpec(rates=(), pyramid=16, channels=16, low=8, predict_std=0.1),
            LossSpec(top_k=1.0),
        ),
    }
)
"""By name."""
