"""The card of the DeepLabs; importing this imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from model_zoo.changes import changed
from model_zoo.system import COPIES, Configuration, DataFacts, System, TaskOptions

if TYPE_CHECKING:
    from fedemb.stages import Stage

_CITYSCAPES = DataFacts(
    example_shape=(1025, 2049, 3),
    num_classes=19,
    vocabularies={
        "panoptic": ("void", "road", "sidewalk", "building", "wall", "fence", "pole")
        + ("traffic light", "traffic sign", "vegetation", "terrain", "sky", "person")
        + ("rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        "things": ("person", "rider", "car", "truck", "bus", "train")
        + ("motorcycle", "bicycle"),
    },
)
_SCENES = DataFacts(
    example_shape=(32, 32, 3),
    num_classes=10,
    vocabularies={
        "panoptic": ("void", "sky", "water", "grass", "sand", "square", "ball")
        + ("triangle", "cross", "ring", "diamond"),
        "things": ("square", "ball", "triangle", "cross", "ring", "diamond"),
    },
)


@dataclass(frozen=True, kw_only=True)
class SegmentationStages:
    """Builds the one stage of a configuration.

    Attributes:
        size: a name in `model_zoo.deeplab2.sizes`.
        share: what is aggregated, `encoder` or `encoder_decoder`.
        embedding_dim: D, unless the options name another or res5 is narrower.
        changes: to the task and what it holds, such as
            `{"losses": {"center": 0.0}, "network": {"decoder": {"rates": (3,)}}}`.
    """

    size: str
    share: str
    embedding_dim: int = 128
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains the shared part by segmentation.

        Raises:
            UserError: if the data has no panoptic maps or no pictures, or an option or
                a change does not apply.
        """
        from fedemb.stages import Stage
        from model_zoo.deeplab2.categories import Categories
        from model_zoo.deeplab2.sizes import SIZES

        options.refuse(
            ("head", "temperature", "always_normalize"),
            "the heads of deeplab2 are convolutions that predict classes, centres and "
            "offsets.",
        )
        channels = data.picture("scenes or coco-panoptic:PATH")[2]
        task = replace(
            SIZES[self.size].task(self.share, Categories.of(data.vocabularies)),
            inputs=channels,
            embedding_dim=options.embedding_dim or self.embedding_dim,
            classes_of=options.label_space or "client",
        )
        task = changed(task, self.changes)
        return (Stage(task.stage, task, 1.0, options.trainable or "all"),)


def _published(
    size: str, note: str, metric: str | None = None
) -> dict[str, Configuration]:
    """A published size, sharing the encoder, or encoder and decoders."""
    both = f"{note}; the decoders are shared, too"
    return {
        size: Configuration(
            note=note,
            build=SegmentationStages(size=size, share="encoder"),
            data=_CITYSCAPES,
            metric=metric,
        ),
        f"{size}_decoder": Configuration(
            note=both,
            build=SegmentationStages(size=size, share="encoder_decoder"),
            data=_CITYSCAPES,
            metric=metric,
        ),
    }


def _small(
    size: str, note: str, share: str = "encoder_decoder", metric: str | None = None
) -> Configuration:
    return Configuration(
        note=note,
        build=SegmentationStages(size=size, share=share),
        data=_SCENES,
        metric=metric,
    )


_AXIAL = "first block 3 x 3, axial attention from stride 16 on, one 1 x 1 for a pyramid"

DEEPLAB2 = System(
    name="deeplab2",
    unused=COPIES,
    paper="Weber, Wang, Qiao, Xie, Collins, Zhu, Yuan, Kim, Yu, Cremers, Leal-Taixe, "
    "Yuille, Schroff, Adam and Chen (2021), DeepLab2: A TensorFlow Library for Deep "
    "Labeling, arXiv:2106.09748; Panoptic-DeepLab by Cheng et al. (2020), "
    "arXiv:1911.10194; DeepLabv3 and v3+ by Chen et al. (2017, 2018), "
    "arXiv:1706.05587 and arXiv:1802.02611",
    user="a camera, vehicle or annotator: whoever owns a group of pictures; the local "
    "head predicts classes, centres and offsets in the client's own label space",
    stages=(
        "panoptic, or semantic (`deeplabv3...`, `semantic_tiny`): segment the virtual "
        "client's own pictures through a local head; the encoder is shared, in some "
        "sizes the decoders are, too",
    ),
    default_dataset="scenes",
    default_configuration="tiny",
    metric="pq",
    beside=("miou",),
    configurations={
        "tiny": _small(
            "tiny",
            "four bottlenecks up to 128 channels, plain 3 x 3 decoders, for 32 pixels",
        ),
        "tiny_encoder": _small("tiny", "the same; decoders stay local, too", "encoder"),
        "axial_swidernet_tiny": _small(
            "axial_swidernet_tiny",
            "axSWideRNet with f = 8 and 4 heads of span 33, for 65 or 129 pixels",
        ),
        "mobilenet_tiny": _small(
            "mobilenet_tiny", "MobileNetV3-S at a quarter of its width"
        ),
        **_published("resnet50", "ResNet-50, pyramid at rates 6, 12, 18"),
        **_published("mobilenet_v3_large", "MobileNetV3-L, pyramid at 6, 12, 18"),
        **_published("mobilenet_v3_small", "MobileNetV3-S, pyramid at 6, 12, 18"),
        **_published(
            "max_deeplab_s_backbone",
            "MaX-DeepLab-S's backbone: ResNet-50-Beta, axial attention from stride 16 "
            "on, one 1 x 1 for a pyramid",
        ),
        **_published(
            "max_deeplab_l_backbone",
            "MaX-DeepLab-L's backbone: Axial-SWideRNet-(1, 1, 1) and an hourglass, one "
            "1 x 1 for a pyramid",
        ),
        **_published("axial_swidernet_1", f"Axial-SWideRNet-(1, 1, 1): {_AXIAL}"),
        **_published("axial_swidernet_3", f"Axial-SWideRNet-(1, 1, 3): {_AXIAL}"),
        **_published("axial_swidernet_4.5", f"Axial-SWideRNet-(1, 1, 4.5): {_AXIAL}"),
        "semantic_tiny": _small(
            "semantic_tiny", "classes alone, by a small DeepLabv3+", metric="miou"
        ),
        **_published(
            "deeplabv3",
            "classes alone: ResNet-50, pyramid at rates 6, 12, 18, one 3 x 3",
            "miou",
        ),
        **_published(
            "deeplabv3_plus",
            "classes alone: ResNet-50, pyramid at 6, 12, 18, fused with res2",
            "miou",
        ),
        **_published(
            "deeplabv3_mobilenet_v3_large",
            "classes alone: MobileNetV3-L, pyramid at 6, 12, 18, one 3 x 3",
            "miou",
        ),
    },
)
