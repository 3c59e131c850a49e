"""Card of the encoder that VideoGLUE's public code judges; it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from model_zoo.system import COPIES, Configuration, DataFacts, System, TaskOptions

if TYPE_CHECKING:
    from torch import nn

    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ViTStages:
    """Builds the one stage.

    Attributes:
        sizes: arguments of `ViTShape`, but for the clip.
        bottleneck: of low-rank adapters, which alone are trained then; 0 has none.
        embedding_dim: D unless the options name another.
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    bottleneck: int = 0
    embedding_dim: int | None = None

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains an embedding of clips by telling classes apart.

        Raises:
            UserError: if the examples are not clips, or tubes do not divide them.
        """
        from fedemb.stages import Stage
        from model_zoo.video.identity import ClipIdentityTask
        from model_zoo.videoglue.vit3d import ViTShape

        dim = options.embedding_dim or self.embedding_dim
        shape = ViTShape(clip=data.clip(), embedding_dim=dim, **dict(self.sizes))
        task = ClipIdentityTask(
            name="videoglue",
            backbone=partial(_backbone, shape, self.bottleneck),
            embedding_dim=dim or shape.width,
            num_classes=data.num_classes,
            **options.identity(),
        )
        trainable = "names:adapters.*" if self.bottleneck else "all"
        return (Stage("embedding", task, 1.0, options.trainable or trainable),)


def _backbone(shape: Any, bottleneck: int) -> "nn.Module":
    from model_zoo.videoglue.adapters import with_adapters
    from model_zoo.videoglue.vit3d import ViT3D

    encoder = ViT3D(shape)
    return with_adapters(encoder, bottleneck) if bottleneck else encoder


def _paper(note: str, frames: int, side: int, **sizes: Any) -> Configuration:
    base = {"width": 768, "layers": 12, "heads": 12, "mlp": 3072}
    bottleneck = sizes.pop("bottleneck", 0)
    return Configuration(
        note=note,
        build=ViTStages(sizes=base | sizes, bottleneck=bottleneck),
        data=DataFacts(example_shape=(frames, side, side, 3), num_classes=400),
    )


_TINY = {"width": 16, "heads": 2, "mlp": 32, "layers": 2, "pool": "max"}
_TUBES = {"tube": (4, 16, 16), "class_token": True, "separable": False}

VIDEOGLUE = System(
    name="videoglue",
    unused=COPIES,
    paper="Yuan et al. (2024), VideoGLUE: Video General Understanding Evaluation of "
    "Foundation Models, TMLR, arXiv:2307.03166",
    user="the uploader of clips, or who is seen in them",
    stages=(
        "embedding: classify the virtual client's own clips with a fresh local head; "
        "with adapters, only those are trained and aggregated",
    ),
    default_dataset="clips-appearance",
    default_configuration="tiny",
    configurations={
        "tiny": Configuration(
            note="2 blocks of width 16 over tubes of 2 x 8 x 8, pooled by the maximum",
            build=ViTStages(sizes=_TINY),
            data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=32),
        ),
        "tiny-adapter": Configuration(
            note="the same with adapters of width 8; give it --pretrained",
            build=ViTStages(sizes=_TINY, bottleneck=8),
            data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=32),
        ),
        "paper": _paper("ViT-B, tubes of 4 x 16 x 16, class token", 8, 224, **_TUBES),
        "paper-256": _paper("the same for 16 frames of 256", 16, 256, **_TUBES),
        "paper-mae": _paper(
            "ViT-B of video masked autoencoders", 16, 224, tube=(2, 16, 16)
        ),
        "paper-adapter": _paper(
            "ViT-B with adapters of width 64, which alone are aggregated",
            *(16, 224),
            tube=(2, 16, 16),
            bottleneck=64,
        ),
    },
)
