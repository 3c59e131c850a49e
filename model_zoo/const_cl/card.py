"""Card of ConST-CL; importing it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from model_zoo.system import (
    CLASSES,
    COPIES,
    Configuration,
    DataFacts,
    System,
    TaskOptions,
)

if TYPE_CHECKING:
    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ConstClStages:
    """Builds the one stage.

    Attributes:
        backbone: arguments of `ResNetShape`.
        head: arguments of `HeadShape`, but for the channels.
        views: arguments of `Augmentation`, but for the frames.
        share: of a clip that a view spans; with a stride it has fewer frames.
        task: arguments of `ConstClTask`.
        changes: fields of the task to change, to see what a part of it brings: see
            `model_zoo.changes`; `{"head": {"guided": False}}` leaves out the decoder.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.5
    task: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains both branches on pairs of views.

        Raises:
            UserError: if the examples are not clips, or for unknown changes.
        """
        from fedemb.stages import Stage
        from model_zoo.changes import changed
        from model_zoo.const_cl.backbone import ResNetShape, TwoHeadedResNet
        from model_zoo.const_cl.heads import HeadShape
        from model_zoo.const_cl.task import ConstClTask
        from model_zoo.const_cl.views import Augmentation

        options.refuse(
            (*CLASSES, "embedding_dim"),
            "const_cl learns from views of clips, not from classes, and has widths of "
            "its own; see model.changes.",
        )
        shape = ResNetShape(**self.backbone)
        span = int(data.clip()[0] * self.share)
        frames = max(1, span // self.views.get("stride", 1))
        task = ConstClTask(
            name="const_cl",
            backbone=partial(TwoHeadedResNet, shape),
            head=HeadShape(channels=shape.outputs, **self.head),
            num_classes=data.num_classes,
            augmentation=Augmentation(frames=frames, **self.views),
            **self.task,
        )
        task = changed(task, self.changes)
        return (Stage("two branches", task, 1.0, options.trainable or "all"),)


_STEM = {"stem": 16, "kernel": (3, 7, 7), "stride": (1, 2, 2), "pool": False}
_SMALL = {
    **_STEM,
    **{"blocks": (1, 1, 1, 1), "widths": (8, 16, 32, 64), "temporal": (1, 1, 3, 3)},
    "norm_groups": 4,
}
_SMALL_HEAD = {
    **{"hidden": 128, "hidden_layers": 2, "embedding": 32, "region": 2, "context": 3},
    **{"layers": 2, "units": 2, "width": 32},
}
_TINY = {
    **{"stem": 8, "kernel": (3, 5, 5), "stride": (1, 4, 4), "pool": False},
    **{"blocks": (1, 1), "widths": (4, 8), "temporal": (1, 3), "norm_groups": 4},
}
_TINY_HEAD = {
    **{"hidden": 32, "hidden_layers": 1, "embedding": 16, "region": 2, "context": 1},
    **{"layers": 1, "units": 1, "width": 8},
}
# Cells of 4 pixels, and things for regions, whose decoder everybody trains.
_CARRIED = _TINY | {"stride": (1, 2, 2)}
_CARRIED_HEAD = _TINY_HEAD | {"width": 16, "units": 2}
# Two views of 16 frames, every second one, from a longer piece of video.
_VIEWS = {"stride": 2}
_CLIP = DataFacts(example_shape=(64, 224, 224, 3), num_classes=400)
# The public code's own defaults, which its configuration for Kinetics changes. The
# maximum halves time once more: of 16 frames 4 maps are left, too few for 5 of context.
_RESNET3DY50 = {
    "temporal": ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1)),
    "pool_every": 2,
}
_FEW = {"context": 3}

CONST_CL = System(
    name="const_cl",
    unused=COPIES,
    paper="Yuan, Qian, Cui, Gong, Schroff, Yang, Adam and Liu (2022), Contextualized "
    "Spatio-Temporal Contrastive Learning with Self-Supervision, CVPR, "
    "arXiv:2112.05181",
    user="the uploader of clips",
    stages=(
        "two branches: clips of a virtual client find their other view, regions their "
        "counterpart; perceptron and decoder stay there",
    ),
    default_dataset="clips-plain",
    default_configuration="tiny",
    metric="view_to_view_recall_at_10",
    beside=("region_matching", "track_success"),
    configurations={
        "tiny": Configuration(
            note="two groups of one block, 4 and 8 filters wide",
            build=ConstClStages(
                backbone=_TINY,
                head=_TINY_HEAD,
                views={"boxes": 4},
                task={"local_weight": 0.1},
            ),
            data=DataFacts(example_shape=(4, 32, 32, 3), num_classes=10),
        ),
        "tiny-unguided": Configuration(
            note="without the decoder: regions are compared as they are",
            build=ConstClStages(
                backbone=_TINY,
                head=_TINY_HEAD | {"guided": False},
                views={"boxes": 4},
                task={"local_weight": 0.1},
            ),
            data=DataFacts(example_shape=(4, 32, 32, 3), num_classes=10),
        ),
        "tiny-carried": Configuration(
            note="finer maps, regions of things, and an aggregated decoder",
            build=ConstClStages(
                backbone=_CARRIED,
                head=_CARRIED_HEAD,
                views={"boxes": 4, "regions": "things"},
                task={
                    **{"local_weight": 1.0, "temperatures": (0.1, 0.1)},
                    "share_decoder": True,
                },
            ),
            data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=10),
        ),
        "small": Configuration(
            note="four groups of one block, 8 to 64 filters wide",
            build=ConstClStages(
                backbone=_SMALL,
                head=_SMALL_HEAD,
                views={"boxes": 4},
                task={"local_weight": 0.1},
            ),
            data=DataFacts(example_shape=(16, 32, 32, 3), num_classes=10),
        ),
        "paper": Configuration(
            note="ResNet-50 in 3D with two last groups, GroupNorm",
            build=ConstClStages(views=_VIEWS),
            data=_CLIP,
        ),
        "paper-one-branch": Configuration(
            note="without the local branch; both losses see one",
            build=ConstClStages(backbone={"branches": 1}, views=_VIEWS),
            data=_CLIP,
        ),
        "resnet3dy50": Configuration(
            note="the public code's defaults: kernels in time alternate, gates",
            build=ConstClStages(
                backbone=_RESNET3DY50 | {"gated": True}, head=_FEW, views=_VIEWS
            ),
            data=_CLIP,
        ),
        "resnet3dy50-one-branch": Configuration(
            note="the same without the local branch",
            build=ConstClStages(
                backbone=_RESNET3DY50 | {"gated": True, "branches": 1},
                head=_FEW,
                views=_VIEWS,
            ),
            data=_CLIP,
        ),
        "resnet3dy50-ungated": Configuration(
            note="the public code's defaults without gates",
            build=ConstClStages(backbone=_RESNET3DY50, head=_FEW, views=_VIEWS),
            data=_CLIP,
        ),
        "resnet3dy50-ungated-one-branch": Configuration(
            note="the same without the local branch",
            build=ConstClStages(
                backbone=_RESNET3DY50 | {"branches": 1}, head=_FEW, views=_VIEWS
            ),
            data=_CLIP,
        ),
    },
)
