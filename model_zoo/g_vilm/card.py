"""Card of G-ViLM; importing it imports no torch."""

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
class GVilmStages:
    """Builds the one stage.

    Attributes:
        video: arguments of `Sizes`, but for the clip and the text tower.
        text: arguments of `TextShape`.
        task: arguments of `GVilmTask`, such as `weights` for ablations, or
            `{"paste_source": "public", "public_clips": "hosts.npy"}`.
    """

    video: Mapping[str, Any]
    text: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains both towers.

        Raises:
            UserError: if the examples are not clips, or tubes do not divide them.
        """
        from fedemb.stages import Stage
        from model_zoo.g_vilm.network import DualEncoder, Sizes
        from model_zoo.g_vilm.task import GVilmTask
        from model_zoo.text.transformer import TextShape

        options.refuse(CLASSES, "g_vilm learns from captions.")
        text = TextShape(**self.text)
        video = dict(self.video)
        if options.embedding_dim:
            video["shared"] = options.embedding_dim
        sizes = Sizes(clip=data.clip("clips with captions"), text=text, **video)
        task = GVilmTask(
            name="g_vilm",
            backbone=partial(DualEncoder, sizes),
            num_classes=data.num_classes,
            tube_frames=sizes.tube[0],
            length=text.length,
            vocab_size=text.vocab_size,
            **self.task,
        )
        return (Stage("towers", task, 1.0, options.trainable or "all"),)


# What can be switched off is named, so that `model.changes.task` finds it.
_TASK = {
    **{"weights": (1.0, 1.0, 1.0), "temperatures": (0.1, 0.2, 0.2)},
    **{"nouns": 2, "paste_source": "same_virtual_client"},
}
_TINY = GVilmStages(
    video={
        **{"tube": (2, 8, 8), "width": 16, "layers": 2, "heads": 2, "mlp": 32},
        **{"groups": 4, "grouping": (2,), "shared": 16, "pool": "max"},
    },
    text={
        **{"vocab_size": 256, "length": 12, "width": 16, "layers": 1, "heads": 2},
        **{"mlp": 32, "pool": "mean"},
    },
    task=_TASK,
)
_SMALL = GVilmStages(
    video={
        **{"tube": (1, 8, 8), "width": 64, "layers": 6, "heads": 4, "mlp": 128},
        **{"groups": 8, "grouping": (2, 4, 6), "shared": 32, "pool": "max"},
    },
    text={
        **{"vocab_size": 128, "length": 56, "width": 64, "layers": 2, "heads": 4},
        **{"mlp": 128},
    },
    task=_TASK,
)
_BERT = {
    **{"vocab_size": 30522, "length": 512, "width": 768, "layers": 12, "heads": 12},
    **{"pool": "first", "types": 2},
}


def _paper(**more: Any) -> GVilmStages:
    video = {
        **{"tube": (2, 16, 16), "width": 768, "layers": 12, "heads": 12, "mlp": 3072},
        **{"groups": 32, "grouping": (6, 9, 12), "shared": 256},
    }
    return GVilmStages(video=video | more, text=_BERT)


G_VILM = System(
    name="g_vilm",
    unused=COPIES,
    paper="Xiong, Zhao, Gong, Yang, Schroff, Liu, Hsieh and Yuan (2023), "
    "Spatiotemporally Discriminative Video-Language Pre-Training with Text Grounding, "
    "arXiv:2303.16341",
    user="the uploader of captioned clips",
    stages=(
        "towers: contrast of clips and captions, of groups and nouns, and of pasted "
        "stretches and their hosts, inside a virtual client; temperatures stay there",
    ),
    default_dataset="clips-plain",
    default_configuration="tiny",
    metric="text_to_video_recall_at_10",
    beside=("grounding_precision", "paste_accuracy"),
    configurations={
        "tiny": Configuration(
            note="2 blocks of width 16, 4 groups; 1 block for text",
            build=_TINY,
            data=DataFacts(example_shape=(4, 32, 32, 3), num_classes=10),
        ),
        "small": Configuration(
            note="6 blocks of width 64, 8 groups; 2 blocks for text",
            build=_SMALL,
            data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=10),
        ),
        "paper": Configuration(
            note="ViT-B with 32 groups, a text tower of BERT's size; our counts, the "
            "paper prints none",
            build=_paper(separable=False),
            data=DataFacts(example_shape=(32, 224, 224, 3), num_classes=400),
        ),
        "paper-separable": Configuration(
            note="the same with separable positions",
            build=_paper(),
            data=DataFacts(example_shape=(32, 224, 224, 3), num_classes=400),
        ),
    },
)
