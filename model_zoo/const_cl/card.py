"""Card of ConST-CL; importing it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fedemb.errors import UserError
from model_zoo.system import Configuration, DataFacts, System, TaskOptions

if TYPE_CHECKING:
    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ConstClStages:
    """Builds the one stage.

    Attributes:
        backbone: arguments of `ResNetShape`.
        head: arguments of `HeadShape`, but for the channels.
        views: arguments of `Augmentation`, but for the frames.
        share: of a clip's frames that a view has.
        task: arguments of `ConstClTask`.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.5
    task: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains both branches on pairs of views.

        Raises:
            UserError: if the examples are not clips, or are too short for two views.
        """
        from fedemb.stages import Stage
        from model_zoo.const_cl.backbone import ResNetShape, TwoHeadedResNet
        from model_zoo.const_cl.heads import HeadShape
        from model_zoo.const_cl.task import ConstClTask
        from model_zoo.const_cl.views import Augmentation

        if len(data.example_shape) != 4:
            raise UserError(
                f"example_shape={data.example_shape} must be (frames, height, width, "
                "3): this system is trained on clips."
            )
        shape = ResNetShape(**self.backbone)
        frames = max(1, int(data.example_shape[0] * self.share))
        task = ConstClTask(
            name="const_cl",
            backbone=partial(TwoHeadedResNet, shape),
            head=HeadShape(channels=shape.outputs, **self.head),
            num_classes=data.num_classes,
            augmentation=Augmentation(frames=frames, **self.views),
            **self.task,
        )
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
_CLIP = DataFacts(example_shape=(32, 224, 224, 3), num_classes=400)


CONST_CL = System(
    name="const_cl",
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
            build=ConstClStages(),
            data=_CLIP,
        ),
        "paper-one-branch": Configuration(
            note="without the local branch; both losses see one",
            build=ConstClStages(backbone={"branches": 1}),
            data=_CLIP,
        ),
    },
)
