"""The card of CV-MIM; importing this imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedemb.errors import UserError
from model_zoo.cv_mim.pairs import Pairs
from model_zoo.cv_mim.sizes import Sizes
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

_FACTS = DataFacts(example_shape=(2, 16, 13, 2), num_classes=32)


@dataclass(frozen=True, kw_only=True)
class PoseStages:
    """Builds the one stage of CV-MIM.

    Attributes:
        sizes: of the model.
        pairs: how training pairs are made.
    """

    sizes: Sizes
    pairs: Pairs = field(default_factory=Pairs)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains codes of poses.

        Raises:
            UserError: if the rows are no poses or motions of 13 keypoints, or show them
                from one camera without 3D poses to project.
        """
        from dataclasses import replace

        from fedemb.stages import Stage
        from model_zoo.cv_mim.task import CrossViewTask

        shape = data.example_shape
        if len(shape) < 2 or shape[-2] != 13 or shape[-1] not in (2, 3):
            raise UserError(
                f"example_shape={shape} must end in (13, 2) or (13, 3): cv_mim reads "
                "motions [T, 13, 3] or views [V, T, 13, 2] of 13 keypoints, such as "
                "--dataset poses, cmu-mocap or ntu:PATH."
            )
        if data.fields and "pose3d" not in data.fields and shape[0] == 1:
            raise UserError(
                f"example_shape={shape}: these data show every pose from one camera; "
                "cv_mim is trained on two cameras or more, or on 3D poses to project, "
                "such as ntu:PATH, cmu-mocap or poses. To judge a trained run on them: "
                "fedemb evaluate RUN --dataset NAME."
            )
        options.refuse(
            CLASSES,
            "cv_mim learns from views of poses, not from their classes.",
        )
        sizes = self.sizes
        if options.embedding_dim:
            dim = options.embedding_dim
            sizes = replace(sizes, pose_dim=dim, view_dim=dim)
        task = CrossViewTask(
            sizes=sizes,
            pairs=self.pairs,
            num_classes=data.num_classes,
        )
        return (Stage("codes", task, 1.0, options.trainable or "all"),)


def _size(note: str, **sizes: Any) -> Configuration:
    return Configuration(note=note, build=PoseStages(sizes=Sizes(**sizes)), data=_FACTS)


def _configurations() -> Mapping[str, Configuration]:
    return {
        "paper": _size(
            "as published: 1,024 units, codes of 32 + 32, averaged for the critic"
        ),
        "paper-poe": _size("the same, codes multiplied", fusion="poe"),
        "paper-cat": _size("the same, codes side by side", fusion="cat"),
        "paper-gaussian": _size("the same with Gaussian codes", gaussian=True),
        "paper-align": _size("one code of 32 that is not split", algorithm="align"),
        "paper-infomax": _size(
            "a view is told by the pose code of the other", algorithm="infomax"
        ),
        "paper-autoencoder": _size(
            "reconstruction with exchanged pose codes", algorithm="autoencoder"
        ),
        "small": Configuration(
            note="128 units, codes of 16 + 16",
            build=PoseStages(
                sizes=Sizes(hidden=128, pose_dim=16, view_dim=16, dropout=0.0),
                pairs=Pairs(frames=4, camera_distance=10.0),
            ),
            data=_FACTS,
        ),
        "tiny": Configuration(
            note="64 units, codes of 16 + 16",
            build=PoseStages(
                sizes=Sizes(hidden=64, pose_dim=16, view_dim=16, dropout=0.0),
                pairs=Pairs(frames=2, camera_distance=10.0),
            ),
            data=_FACTS,
        ),
    }


CV_MIM = System(
    name="cv_mim",
    unused=COPIES,
    paper="Zhao, Wang, Zhao, Yuan, Sun, Schroff, Adam, Peng, Metaxas and Liu (2021), "
    "Learning View-Disentangled Human Pose Representation by Contrastive Cross-View "
    "Mutual Information Maximization, CVPR, arXiv:2012.01405",
    user="a performer whose motions several cameras see, or the owner of such videos",
    stages=(
        "codes: the encoder (pose code and view code of a 2D pose) is the backbone; "
        "sub-encoder, likelihood estimators and discriminator are the local head",
    ),
    configurations=_configurations(),
    default_dataset="poses",
    default_configuration="tiny",
    metric="single_shot_accuracy",
    beside=("cross_view_recall_at_far_1e-1", "roc_auc"),
)
