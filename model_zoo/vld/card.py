"""Card of video-language distillation; importing it imports no torch."""

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
class DistillationStages:
    """Builds the three stages.

    Attributes:
        teacher: arguments of `VitShape`, of the captioner's image encoder.
        language: arguments of `LanguageShape`.
        student: arguments of `VitShape`, of the dual encoder; None is the teacher's,
            whose adapted weights it then starts from.
        text: arguments of `TextShape`, of the text tower.
        sizes: other arguments of `Sizes`.
        public: whether to start from the captioner that the zoo ships.
        captions: whose captions teach the dual encoder.
        student_trained: what the last stage trains, unless a person chose otherwise;
            None is the whole dual encoder. The other stages train the half that is
            adapted, whatever was chosen.
        task: other arguments of `DistillationTask`.
        shares: of the rounds, for the visual, the language and the last stage.
        rates: of the server in each of them, as multiples of the run's.
        order: the stages that are run, in order; the shares of the others are divided
            among them. What the paper compares with: the language first, or no
            adaptation at all.
    """

    teacher: Mapping[str, int]
    language: Mapping[str, int]
    text: Mapping[str, Any]
    sizes: Mapping[str, Any]
    student: Mapping[str, int] | None = None
    public: bool = False
    captions: str = "sampled"
    student_trained: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[float, float, float] = (0.15, 0.1, 0.75)
    rates: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: tuple[str, ...] = ("visual", "language", "dual encoder")

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """Visual adaptation, language adaptation, distillation.

        Raises:
            UserError: if the examples are not clips, patches do not divide them,
                `order` names other stages, or one twice, or an option does not apply.
        """
        from fedemb.stages import Stage, in_order
        from model_zoo.text.transformer import TextShape
        from model_zoo.vld.language import LanguageShape
        from model_zoo.vld.network import (
            LANGUAGE,
            STUDENT,
            VISUAL,
            Sizes,
            student_sees_as_teacher,
        )
        from model_zoo.vld.public import make_backbone
        from model_zoo.vld.tasks import CaptionTask, DistillationTask, InstructionTask
        from model_zoo.vld.visual import VitShape

        because = "video_language_distillation learns from captions."
        options.refuse(CLASSES, because)
        if "dual encoder" not in self.order:
            options.refuse(["trainable"], "it chooses within the dual encoder.")
        more = dict(self.sizes)
        if options.embedding_dim:
            more["shared"] = options.embedding_dim
        sizes = Sizes(
            clip=data.clip("clips with captions"),
            teacher=VitShape(**self.teacher),
            language=LanguageShape(**self.language),
            student=VitShape(**(self.student or self.teacher)),
            text=TextShape(**self.text),
            **more,
        )
        common: dict[str, Any] = {
            "backbone": partial(make_backbone, sizes, public=self.public),
            "num_classes": data.num_classes,
            "length": sizes.language.length,
            "vocab_size": sizes.language.vocab_size,
        }
        seen = CaptionTask(name="visual_adaptation", **common)
        asked = InstructionTask(name="language_adaptation", **common)
        taught = DistillationTask(
            name="distillation", captions=self.captions, **common, **self.task
        )
        inherit = None if self.student else student_sees_as_teacher
        last = options.trained(self.student_trained or STUDENT, STUDENT)
        shares, rates = self.shares, self.rates
        stages = (
            Stage("visual", seen, shares[0], VISUAL, None, rates[0]),
            Stage("language", asked, shares[1], LANGUAGE, None, rates[1]),
            Stage("dual encoder", taught, shares[2], last, inherit, rates[2]),
        )
        return in_order(stages, self.order)


def _tiny(captions: str) -> DistillationStages:
    return DistillationStages(
        teacher={"patch": 8, "width": 32, "layers": 2, "heads": 4, "mlp": 64},
        language={
            **{"vocab_size": 256, "length": 16, "width": 32, "heads": 4, "mlp": 64},
            **{"encoder_layers": 1, "decoder_layers": 2},
        },
        text={
            **{"vocab_size": 256, "length": 16, "width": 16, "layers": 1, "heads": 2},
            **{"mlp": 32, "pool": "mean"},
        },
        sizes={"temporal_layers": 1, "shared": 16, "pool": "max"},
        student_trained="names:video.frames.*,video.temporal.*,video.norm.*,text.*,"
        "to_shared.*,text_to_shared.*",
        task={"temperature": 0.2},
        shares=(0.1, 0.1, 0.8),
        rates=(0.2, 0.2, 1.0),  # a full rate undoes what the public model knows
        public=True,
        captions=captions,
    )


_SMALL = DistillationStages(
    teacher={"patch": 8, "width": 64, "layers": 3, "heads": 4, "mlp": 256},
    language={
        **{"vocab_size": 128, "length": 32, "width": 64, "heads": 4, "mlp": 256},
        **{"encoder_layers": 2, "decoder_layers": 2},
    },
    text={"vocab_size": 128, "length": 32, "width": 64, "layers": 2, "heads": 4},
    sizes={"temporal_layers": 2, "shared": 32},
)
_PAPER = DistillationStages(
    teacher={"patch": 14, "width": 1664, "layers": 48, "heads": 16, "mlp": 8192},
    language={
        **{"vocab_size": 250_112, "length": 64, "width": 2048, "heads": 32},
        **{"mlp": 6144, "encoder_layers": 24, "decoder_layers": 24},
    },
    student={"patch": 14, "width": 1024, "layers": 24, "heads": 16, "mlp": 4096},
    text={
        **{"vocab_size": 250_112, "length": 64, "width": 768, "layers": 12},
        "heads": 12,
    },
    sizes={"temporal_layers": 2, "shared": 768},
)
_CLIPS = DataFacts(example_shape=(8, 32, 32, 3), num_classes=10)
_NOTE = (
    "width 32, 2 blocks per frame; starts from a public image-language model that was "
    "trained on generated still pictures, a stand-in for PaLI-3"
)
_PUBLIC = (
    "an image-language model that comes with the zoo, trained on generated still "
    "pictures and texts by users that no population has; a stand-in for PaLI-3",
)

VIDEO_LANGUAGE_DISTILLATION = System(
    name="video_language_distillation",
    unused=COPIES,
    paper="Zhao, Zhao, Zhou, Wu, Chu, Miao, Schroff, Adam, Liu, Gong, Kraehenbuehl and "
    "Yuan (2024), Distilling Vision-Language Models on Millions of Videos, "
    "arXiv:2401.06129",
    user="the uploader of clips",
    stages=(
        "visual: captions teach the visual half of a public image-language model to "
        "see clips; the language half is frozen",
        "language: questions about clips, made from captions by rules, teach the "
        "language half; the visual half is frozen",
        "dual encoder: captions that the adapted model writes, in each virtual client "
        "about its own clips, teach a video and a text tower by contrast; the "
        "temperature stays there",
    ),
    default_dataset="clips-plain",
    default_configuration="tiny",
    metric="text_to_video_recall_at_10",
    beside=("caption_log_likelihood", "cider"),
    configurations={
        "tiny": Configuration(
            note=_NOTE, build=_tiny("sampled"), data=_CLIPS, public=_PUBLIC
        ),
        "tiny-beam": Configuration(
            note="tiny, but beam search writes the captions",
            build=_tiny("beam"),
            data=_CLIPS,
            public=_PUBLIC,
        ),
        "tiny-original": Configuration(
            note="tiny, but people's captions teach the dual encoder, to compare with",
            build=_tiny("original"),
            data=_CLIPS,
            public=_PUBLIC,
        ),
        "small": Configuration(
            note="width 64, 3 blocks per frame, 2 + 2 blocks for language; starts at "
            "random unless --pretrained names weights",
            build=_SMALL,
            data=_CLIPS,
        ),
        "paper": Configuration(
            note="ViT-G/14 and an encoder-decoder of 3 billion parameters teach a "
            "ViT-L/14 dual encoder; our sizes and counts, the paper's are unknown",
            build=_PAPER,
            data=DataFacts(example_shape=(8, 224, 224, 3), num_classes=400),
        ),
    },
)
