"""Builders of VideoPrism's stages; importing this imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from fedemb.errors import UserError
from model_zoo.system import CLASSES, DataFacts, TaskOptions

if TYPE_CHECKING:
    from fedemb.stages import Stage

STAGES = ("contrastive", "distillation", "alignment")
_CLASSIFIER = {"head": "linear-bias", "label_space": "global"}


@dataclass(frozen=True, kw_only=True)
class VideoPrismStages:
    """Builds the stages over one text and one video tower.

    Attributes:
        video: arguments of `EncoderShape`, but for the width.
        width: D of both towers.
        text: arguments of `TextShape`, but for the width.
        decoders: arguments of `DecoderShape`, but for its outer sides.
        shares: of the rounds, for contrast, distillation, and alignment (the encoder
            is frozen, the text tower tuned).
        rates: of the server in each stage, as multiples of the run's.
        order: the stages that are run, in order; the shares of the others are divided
            among them.
        towers: arguments of `DualShape`.
        contrast: arguments of `ContrastiveTask`, such as `dropped`.
        distillation: arguments of `DistillationTask`, such as `weights` for ablations.
        projected: whether a linear layer follows the text tower.
        trained: what the first stage trains.
        public: whether the spatial half starts from the eyes that the zoo ships, and
            all else from initial values that no seed changes.
        taught: whether decoders that start from public constants start from those that
            the zoo ships, where these have the sizes asked for; otherwise from a seed.
    """

    video: Mapping[str, Any]
    width: int
    text: Mapping[str, Any]
    decoders: Mapping[str, Any]
    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    rates: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: tuple[str, ...] = STAGES[:2]
    towers: Mapping[str, Any] = field(default_factory=dict)
    contrast: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)
    projected: bool = False
    trained: str = "all"
    public: bool = False
    taught: bool = False

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """The stages, each inheriting from the one before.

        Raises:
            UserError: if the examples are not clips, patches do not divide their
                frames, `order` names other stages, or an option does not apply.
        """
        from fedemb.stages import Stage, in_order
        from model_zoo.text.transformer import TextShape
        from model_zoo.videoprism import network, public
        from model_zoo.videoprism.decoders import DecoderShape
        from model_zoo.videoprism.encoder import EncoderShape
        from model_zoo.videoprism.tasks import ContrastiveTask, DistillationTask

        clip = data.clip("clips with captions")
        options.refuse(
            CLASSES,
            "videoprism learns from captions and from itself.",
        )
        width = options.embedding_dim or self.width
        video = EncoderShape(width=width, **self.video)
        text = TextShape(
            width=width, embedding_dim=width if self.projected else None, **self.text
        )
        shape = network.DualShape(video=video, text=text, **self.towers)
        grid = video.grid((min(video.places[0], clip[0]), *clip[1:]))
        common: dict[str, Any] = {
            "num_classes": data.num_classes,
            "grid": grid,
            "length": text.length,
            "vocab_size": text.vocab_size,
            "class_names": data.class_names,
        }
        first_made, second_made = (
            (public.seeing_video_text, public.seeing_distilled)
            if self.public
            else (network.VideoText, network.Distilled)
        )
        towers = partial(first_made, shape)
        first = ContrastiveTask(
            name="videoprism-contrastive", backbone=towers, **common, **self.contrast
        )
        last = ContrastiveTask(
            name="videoprism-alignment", backbone=towers, **common, **self.contrast
        )
        decoders = DecoderShape(outer=width, tokens=prod(grid), **self.decoders)
        second = DistillationTask(
            name="videoprism-distillation",
            backbone=partial(second_made, shape),
            decoders=decoders,
            **common,
            **self.distillation,
        )
        fits = self.taught and decoders == DecoderShape(**public.TAUGHT)
        above = "auxiliary.*,pooler.*,text.*" if shape.auxiliary else "pooler.*,text.*"
        student = "names:video.*"  # the second loss reaches neither pooler nor text
        trained = (
            options.trained(self.trained, "all"),
            options.trained(student, student),
            options.trained(f"names:{above}", "all"),
        )
        inherit = (None, network.begin_distillation, network.without_teacher)
        rest = list(zip(self.shares, trained, inherit, self.rates, strict=True))
        made = (
            Stage(STAGES[0], first, *rest[0]),
            Stage(
                STAGES[1],
                second,
                *rest[1],
                public_head=public.taught_decoders if fits else None,
            ),
            Stage(STAGES[2], last, *rest[2]),
        )
        return in_order(made, self.order)


@dataclass(frozen=True, kw_only=True)
class EncoderStages:
    """Builds one stage that trains the encoder alone, by telling classes apart.

    Attributes:
        video: arguments of `EncoderShape`.
        pooled: whether an attention pooler stands above the encoder, rather than a mean
            of its tokens; then the head is the published classifier's layer.
    """

    video: Mapping[str, Any]
    pooled: bool = False

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage over mean or pooled tokens.

        Raises:
            UserError: if the examples are not clips, patches do not divide their
                frames, or `embedding_dim` is not the width.
        """
        from fedemb.stages import Stage
        from model_zoo.video.identity import ClipIdentityTask
        from model_zoo.videoprism.encoder import EncoderShape
        from model_zoo.videoprism.network import MeanTokens, PooledTokens

        shape = EncoderShape(**self.video)
        shape.grid(data.clip())
        if options.embedding_dim not in (None, shape.width):
            raise UserError(
                f"embedding_dim={options.embedding_dim} must be {shape.width}: the "
                "embedding is as wide as the encoder's tokens."
            )
        task = ClipIdentityTask(
            name="videoprism",
            backbone=partial(PooledTokens if self.pooled else MeanTokens, shape),
            embedding_dim=shape.width,
            num_classes=data.num_classes,
            **options.identity(**(_CLASSIFIER if self.pooled else {})),
        )
        return (Stage("embedding", task, 1.0, options.trainable or "all"),)
