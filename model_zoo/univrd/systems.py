"""The card of UniVRD; importing this imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fedemb.errors import UserError
from model_zoo.system import (
    CLASSES,
    COPIES,
    Configuration,
    DataFacts,
    System,
    TaskOptions,
)
from model_zoo.univrd.augment import Augmentation
from model_zoo.univrd.focal import Focal

if TYPE_CHECKING:
    from fedemb.stages import Stage

DETECTOR = "names:image.*,merged_norm.*,class_head.*,box_head.*"
RELATIONS = "names:image.*,merged_norm.*,decoder.*"
"""The parameters that the losses of the stages reach; none is of the text tower."""

_NAMES = ("square", "ball", "triangle", "cross", "ring", "diamond")


@dataclass(frozen=True, kw_only=True)
class RelationStages:
    """Builds the two stages: the detector, then the relationship decoder.

    Attributes:
        shape: arguments of `DualShape`; the side comes from the data unless it is here.
        queries: M, relation queries.
        decoder_layers: of the decoder.
        name_queries: negatives among names, per picture.
        phrase_queries: negatives among phrases, per picture.
        augmentation: crops, flips and mosaics.
        public: whether to start from the public towers that the zoo ships.
        detector: backbone parameters that the first stage trains.
        relations: those that the second stage trains.
        share: of the rounds, for the first stage.
        name_prompts: whether names stand in prompts; otherwise they are bare.
        phrase_prompts: whether phrases are sentences; otherwise three names in a row.
        classifiers: `texts`, or `ids`: a learned vector per name and phrase, which
            knows no synonyms. It is aggregated like the rest of the backbone.
        focal: constants of the losses.
        suppression: threshold of the pair-wise suppression of triplets, in (0, 1]; 1
            keeps all.
        decoupled: whether the detector is trained before the relations; otherwise both
            at once, in one stage.

    Raises:
        UserError: for other classifiers, or a threshold or share out of range.
    """

    shape: Mapping[str, int]
    queries: int = 100
    decoder_layers: int = 6
    name_queries: int = 50
    phrase_queries: int = 50
    augmentation: Augmentation = field(default_factory=Augmentation)
    public: bool = False
    detector: str = DETECTOR
    relations: str = "names:decoder.*"
    share: float = 0.5
    name_prompts: bool = True
    phrase_prompts: bool = True
    classifiers: str = "texts"
    focal: Focal = field(default_factory=Focal)
    suppression: float = 0.7
    decoupled: bool = True

    def __post_init__(self) -> None:
        if self.classifiers not in ("texts", "ids"):
            raise UserError(f"classifiers={self.classifiers!r} must be texts or ids.")
        if not 0 < self.suppression <= 1 or not 0 < self.share < 1:
            raise UserError(
                f"suppression={self.suppression} must be in (0, 1], where 1 keeps all "
                f"triplets, and share={self.share} between 0 and 1."
            )

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """A detector and a relationship decoder over the names of the data.

        Raises:
            UserError: for pictures that are not square and coloured, data without
                names, or an option that texts as classifiers leave no room for.
        """
        from fedemb.stages import Stage
        from model_zoo.univrd.phrases import BARE, TEMPLATES, LabelSpace
        from model_zoo.univrd.public import make_backbone, tokenizer
        from model_zoo.univrd.tasks import DetectionTask, OneStageTask, RelationTask
        from model_zoo.univrd.towers import DualShape

        height, side, colours = data.picture("relation-scenes")
        if colours != 3 or height != side:
            raise UserError(
                f"example_shape={data.example_shape} must be of square pictures in 3 "
                "colours, with boxes and relations beside them; set data.image_size, "
                "or use --dataset relation-scenes."
            )
        options.refuse(
            CLASSES,
            "univrd classifies by texts, with embeddings of unit length.",
        )
        sizes = {"side": side, **self.shape}
        if options.embedding_dim is not None:
            sizes["embedding_dim"] = options.embedding_dim
        shape = DualShape(**sizes)
        space = LabelSpace.of(data.vocabularies)
        learned = self.classifiers == "ids"
        templates = TEMPLATES if self.name_prompts and not learned else BARE
        arguments: dict[str, Any] = {
            "backbone": partial(
                make_backbone,
                shape,
                space,
                tokenizer(),
                templates,
                queries=self.queries,
                decoder_layers=self.decoder_layers,
                public=self.public,
                bare_phrases=not self.phrase_prompts,
                learned=learned,
            ),
            "width": shape.width,
            "num_classes": data.num_classes,
            "space": space,
            "templates": len(templates),
            "name_queries": self.name_queries,
            "phrase_queries": self.phrase_queries,
            "augmentation": self.augmentation,
            "focal": self.focal,
            "suppression": self.suppression,
        }
        names, detected = (
            _also(own, "object_bank") if learned else own
            for own in (self.detector, DETECTOR)
        )
        phrases, related = (
            _also(own, "relation_bank") if learned else own
            for own in (self.relations, RELATIONS)
        )
        if not self.decoupled:
            task = OneStageTask(name="univrd-one-stage", **arguments)
            both, reached = (
                _also(one, other.removeprefix("names:"))
                for one, other in ((names, phrases), (detected, related))
            )
            return (Stage("both", task, 1.0, options.trained(both, reached)),)
        first = DetectionTask(name="univrd-detector", **arguments)
        second = RelationTask(name="univrd-relations", **arguments)
        names = options.trained(names, detected)
        phrases = options.trained(phrases, related)
        return (
            Stage("detector", first, self.share, names),
            Stage("relations", second, 1 - self.share, phrases),
        )


def _also(selection: str, more: str) -> str:
    """A selection with more parameters; `all` has them already."""
    return f"{selection},{more}" if selection.startswith("names:") else "all"


def _clip(patch: int, side: int, width: int, layers: int, text: int) -> dict[str, int]:
    return {
        "patch": patch,
        "side": side,
        "width": width,
        "layers": layers,
        "heads": width // 64,
        "text_width": text,
        "text_layers": 12,
        "text_heads": text // 64,
        "text_length": 16,
        "vocab_size": 49_408,
        "embedding_dim": text,
    }


TINY = {
    "patch": 8,
    "width": 48,
    "layers": 2,
    "heads": 4,
    "text_width": 48,
    "text_layers": 2,
    "text_heads": 4,
    "text_length": 32,
    "vocab_size": 1024,
    "embedding_dim": 48,
}
"""Sizes of the towers that the zoo ships, but for the side of the pictures."""


def _size(note: str, build: RelationStages, side: int) -> Configuration:
    """A configuration that is counted with six names and one relation."""
    facts = DataFacts(
        example_shape=(side, side, 3),
        num_classes=144,
        vocabularies={"object_name": _NAMES, "relations": ("next to",)},
    )
    return Configuration(note=note, build=build, data=facts)


UNIVRD = System(
    name="univrd",
    unused=COPIES,
    paper="Zhao, Yuan, Gong, Schroff, Adam and Liu (2023), Unified Visual Relationship "
    "Detection with Vision and Language Models, ICCV, arXiv:2303.08998; the detector "
    "after Minderer et al. (2022), OWL-ViT, arXiv:2205.06230",
    user="the owner of annotated pictures, such as a photographer or a household; "
    "users may use different words for the same things",
    stages=(
        "detector: every token of the image tower predicts one box and one class "
        "embedding, which is compared with text embeddings of names",
        "relations: relation queries over frozen tokens point at a subject and an "
        "object, and are compared with text embeddings of phrases",
    ),
    default_dataset="relation-scenes",
    default_configuration="tiny",
    metric="mean_recall_at_100",
    beside=("relation_map", "detection_map"),
    configurations={
        "clip-b32": _size(
            "CLIP ViT-B/32 at 768 pixels, 576 tokens, a decoder of 6 layers",
            RelationStages(shape=_clip(32, 768, 768, 12, 512)),
            768,
        ),
        "clip-b16": _size(
            "CLIP ViT-B/16 at 768 pixels, 2,304 tokens, a decoder of 6 layers",
            RelationStages(shape=_clip(16, 768, 768, 12, 512)),
            768,
        ),
        "clip-l14": _size(
            "CLIP ViT-L/14 at 840 pixels, 3,600 tokens, a decoder of 6 layers",
            RelationStages(shape=_clip(14, 840, 1024, 24, 768)),
            840,
        ),
        "tiny": _size(
            "patches of 8 pixels, width 48, 2 layers; starts from public towers that "
            "were aligned on generated captions; 20 relation queries, 2 decoder layers",
            RelationStages(
                shape=TINY,
                queries=20,
                decoder_layers=2,
                phrase_queries=30,
                augmentation=Augmentation(mosaics=(0.6, 0.4), least_crop=0.7),
                public=True,
                share=4 / 9,
                detector="names:image.blocks.1.*,image.norm_after.*,merged_norm.*,"
                "class_head.*,box_head.*",
                relations="names:decoder.layers.*,decoder.relation.*,"
                "decoder.subject.*,decoder.object.*",
            ),
            48,
        ),
    },
)
