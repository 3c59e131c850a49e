"""Which data sets there are: a card for each, and nothing that costs time to import."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What a listing shows of a data set.

    Attributes:
        name: what to pass to `load`; ends in `:PATH` when a path must follow.
        description: one line.
        module: where its `load(options)` lives, below `simulations.datasets`.
        options: the optional fields of `LoadOptions` that it understands.
        files: the files it looks for below the data root; empty if none.
    """

    name: str
    description: str
    module: str
    options: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()

    @property
    def takes_path(self) -> bool:
        """Whether a path follows the name."""
        return self.name.endswith(":PATH")


_COLUMNS = frozenset({"user_column", "label_column", "image_column"})
_CLIPS = frozenset({"users", "image_size", "frames"})
_RECORDED = frozenset({"frames", "skip_bad"})
_OWN_FILES = frozenset({"image_size", "skip_bad"})


def _cards() -> tuple[DatasetCard, ...]:
    return (
        DatasetCard(
            name="synthetic",
            description="procedural characters, any number of users, made on demand",
            module="synthetic",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="observations",
            description="procedural wildlife in colour, any number of observers",
            module="observations",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="openclipart",
            description="shipped sample: public-domain drawings; artist = user",
            module="openclipart",
            options=frozenset({"image_size"}),
        ),
        DatasetCard(
            name="inaturalist",
            description="wildlife photographs by observer, or a stand-in",
            module="inaturalist",
            options=_OWN_FILES | {"user_column"},
            files=(
                "iNaturalist_train.csv",
                "federated_train_user_120k.csv",
                "train2017.json",
            ),
        ),
        DatasetCard(
            name="emnist",
            description="handwritten characters by writer",
            module="emnist",
            options=frozenset({"image_size"}),
            files=(
                "emnist_all.sqlite[.lzma]",
                "federated_emnist_train.sqlite",
                "LEAF's *.json",
            ),
        ),
        DatasetCard(
            name="qmnist",
            description="handwritten digits by writer",
            module="qmnist",
            options=frozenset({"image_size"}),
            files=("qmnist-train-labels-idx2-int[.gz]",),
        ),
        DatasetCard(
            name="gldv2",
            description="landmarks by photographer",
            module="gldv2",
            options=_OWN_FILES,
            files=("federated_train.csv", "train_clean.csv"),
        ),
        DatasetCard(
            name="gldv2-mini",
            description="landmarks by photographer, the small split",
            module="gldv2",
            options=_OWN_FILES,
            files=("mini_gld_train_split.csv",),
        ),
        DatasetCard(
            name="digiface",
            description="rendered faces by subject",
            module="digiface",
            options=_OWN_FILES,
            files=("<subject>/<k>.png",),
        ),
        DatasetCard(
            name="celeba",
            description="faces by celebrity",
            module="celeba",
            options=frozenset({"image_size"}),
            files=("celeba.sqlite[.lzma]",),
        ),
        DatasetCard(
            name="flair",
            description="photographs by photographer, with scarce labels",
            module="flair",
            options=_OWN_FILES | {"label_column"},
            files=("labels_and_metadata.json",),
        ),
        DatasetCard(
            name="clips",
            description="generated clips of acting shapes: captions, boxes, cuts",
            module="clips",
            options=_CLIPS,
        ),
        DatasetCard(
            name="clips-plain",
            description="generated clips of two acting shapes without cuts",
            module="clips",
            options=_CLIPS,
        ),
        DatasetCard(
            name="clips-appearance",
            description="generated clips, told apart by what is in them",
            module="clips",
            options=_CLIPS,
        ),
        DatasetCard(
            name="clips-lit",
            description="generated clips of moving shapes in a coloured light",
            module="clips",
            options=_CLIPS,
        ),
        DatasetCard(
            name="clips-motion",
            description="generated clips, told apart by the order of frames only",
            module="clips",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="clips-long",
            description="generated untrimmed clips with the start and end of events",
            module="clips",
            options=_CLIPS,
        ),
        DatasetCard(
            name="clips-stills",
            description="generated single frames of clips, captions without verbs",
            module="clips",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="scenes",
            description="generated scenes with panoptic maps, relations and captions",
            module="scenes",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="coco-panoptic:PATH",
            description="pictures of COCO with panoptic maps; users are made up",
            module="panoptic_pictures",
            options=frozenset({"image_size", "user_column"}),
            files=("panoptic.json, panoptic/*.png, images/*.jpg",),
        ),
        DatasetCard(
            name="cityscapes:PATH",
            description="streets with panoptic maps; city = user",
            module="panoptic_pictures",
            options=frozenset({"image_size"}),
            files=("gtFine/*/*/*_gtFine_instanceIds.png", "leftImg8bit/*/*/*.png"),
        ),
        DatasetCard(
            name="relation-scenes",
            description="generated scenes with relations in three sources' words",
            module="relation_scenes",
            options=frozenset({"users", "image_size"}),
        ),
        DatasetCard(
            name="poses",
            description="generated motions of a skeleton, seen by two cameras",
            module="poses",
            options=frozenset({"users"}),
        ),
        DatasetCard(
            name="cmu-mocap",
            description="recorded motions by subject, seen by two drawn cameras",
            module="cmu_mocap",
            files=("<subject>.asf with <subject>_<motion>.amc",),
        ),
        DatasetCard(
            name="ntu:PATH",
            description="recorded motions by performer, as several cameras saw them",
            module="ntu",
            options=_RECORDED,
            files=("SsssCcccPpppRrrrAaaa.skeleton",),
        ),
        DatasetCard(
            name="ntu-3d:PATH",
            description="the same, with 3D poses of the first camera to project",
            module="ntu",
            options=_RECORDED,
            files=("SsssCcccPpppRrrrAaaa.skeleton",),
        ),
        DatasetCard(
            name="penn-action:PATH",
            description="recorded motions by one camera, to judge; users are made up",
            module="penn_action",
            options=_RECORDED | {"user_column"},
            files=("labels/<video>.mat",),
        ),
        DatasetCard(
            name="folder:PATH",
            description="your images, with PATH/metadata.csv beside them",
            module="folder",
            options=_OWN_FILES | _COLUMNS,
        ),
        DatasetCard(
            name="videos:PATH",
            description="your clips, with captions in PATH/metadata.csv (extra video)",
            module="videos",
            options=_OWN_FILES | _COLUMNS | {"frames"},
        ),
        DatasetCard(
            name="npz:PATH",
            description="your arrays images, labels, users[, split]",
            module="npz",
            options=_OWN_FILES | _COLUMNS,
        ),
        DatasetCard(
            name="parquet:PATH",
            description="your table with columns of images, labels and users",
            module="parquet",
            options=_OWN_FILES | _COLUMNS,
        ),
        DatasetCard(
            name="hf:PATH",
            description="a Hugging Face data set with a column of users (extra hub)",
            module="huggingface",
            options=_OWN_FILES | _COLUMNS,
        ),
    )


def cards() -> Mapping[str, DatasetCard]:
    """Every data set's card by registered name (`folder`, not `folder:PATH`)."""
    table = {card.name.removesuffix(":PATH"): card for card in _cards()}
    return MappingProxyType(table)
