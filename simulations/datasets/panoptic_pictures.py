"""COCO and Cityscapes pictures with panoptic maps, as user-partitioned data.

COCO names no users, so pictures are divided among made-up ones and every output says
so; in Cityscapes the city is the user.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import images, panoptic_format
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import DEFAULT_SIDE, digest
from simulations.datasets.panoptic_format import CITYSCAPES_DIVISOR, COCO_DIVISOR
from simulations.datasets.partitions import partition
from simulations.datasets.registry import LoadOptions

CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car"),
    *("truck", "bus", "train", "motorcycle", "bicycle"),
)
_CITYSCAPES_THINGS = CITYSCAPES_NAMES[11:]
_PICTURES_PER_USER = 4


@dataclass(frozen=True)
class PanopticPictures(InMemoryDataset):
    """Pictures with maps `category * 256 + instance`; category 0 is void.

    Fields: `image` uint8 `[n, side, side, 3]`, `panoptic` int32 `[n, side, side]`,
    `label` int64 `[n]`: the category that covers most of the picture.

    Attributes:
        vocabularies: `panoptic`, names by category with void first; `things`.
    """

    vocabularies: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    name: str
    user: str
    image: Path
    panoptic: NDArray[np.int32]


def load(options: LoadOptions) -> PanopticPictures:
    """`coco-panoptic:PATH` or `cityscapes:PATH`.

    PATH holds `panoptic.json`, `panoptic/` and `images/` (names of an official split
    such as `panoptic_val2017.json`, `panoptic_val2017/`, `val2017/` do as well), or
    Cityscapes' `gtFine/` and `leftImg8bit/`. A fifth of COCO's pictures, chosen by
    name, is held out; of Cityscapes the official validation split.

    Raises:
        NotAvailable: nothing of the kind is there.
        UserError: a file is damaged, or the pictures show a single category.
    """
    root = Path(options.path)
    coco = options.name.startswith("coco")
    if coco:
        rows, names, things = _coco(root)
        held_out = [_by_name(row.name) for row in rows]
    else:
        rows, held_out = _cityscapes(root)
        names, things = CITYSCAPES_NAMES, _CITYSCAPES_THINGS
    if not rows or all(held_out) or not any(held_out):
        raise NotAvailable(
            f"{root} has too few {'COCO' if coco else 'Cityscapes'} pictures to train "
            "on some and hold out others."
        )
    side = options.image_size or DEFAULT_SIDE
    pictures = np.stack([_picture(row.image, side) for row in rows])
    maps = np.stack([_shrink(row.panoptic, side) for row in rows])
    labels = [names[_largest(row.panoptic) - 1] for row in rows]
    users = [row.user for row in rows]
    notices: tuple[str, ...] = ()
    if coco:
        wanted = options.user_column or f"iid:{max(1, len(rows) // _PICTURES_PER_USER)}"
        users, notices = partition(labels, wanted, options.seed)
    made = by_user(
        fields={"image": pictures, "panoptic": maps},
        users=users,
        labels=labels,
        held_out=np.array(held_out),
        provenance=Provenance(
            name=options.name.partition(":")[0],
            source=Source.REAL,
            licence="as of each picture" if coco else "Cityscapes terms of use",
            checksum=digest(pictures, maps),
            description="photographs with panoptic maps",
            notices=notices,
        ),
    )
    return PanopticPictures(
        **{name: getattr(made, name) for name in _SHARED},
        vocabularies={"panoptic": ("void", *names), "things": things},
    )


_SHARED = ("examples", "evaluation", "provenance", "class_names", "user_ids")


def _coco(root: Path) -> tuple[list[_Row], tuple[str, ...], tuple[str, ...]]:
    """Rows with categories renumbered from 1, their names, and which are things."""
    found = sorted(root.glob("panoptic*.json"))
    if not found:
        raise NotAvailable(f"{root} has no panoptic.json; see the COCO panoptic task.")
    annotations = found[0]
    split = annotations.stem.partition("_")[2]
    maps = root / annotations.stem
    pictures = root / (split or "images")
    records = panoptic_format.read_categories(annotations)
    number = np.zeros(1 + max(r.id for r in records), np.int32)
    for place, record in enumerate(records, start=1):
        number[record.id] = place
    rows = []
    for row in panoptic_format.read_coco(annotations, maps, pictures):
        category, instance = np.divmod(row.panoptic, COCO_DIVISOR)
        panoptic = number[category] * COCO_DIVISOR + instance
        rows.append(_Row(row.image_id, "", row.image, panoptic.astype(np.int32)))
    things = tuple(r.name for r in records if r.is_thing)
    return rows, tuple(r.name for r in records), things


def _cityscapes(root: Path) -> tuple[list[_Row], list[bool]]:
    """Rows of both splits, and which are held out."""
    pairs = [
        (row, split == "val")
        for split in ("train", "val")
        for row in _cityscapes_rows(root, split)
    ]
    return [row for row, _ in pairs], [out for _, out in pairs]


def _cityscapes_rows(root: Path, split: str) -> Iterator[_Row]:
    for city, row in panoptic_format.read_cityscapes(root, split):
        category, instance = np.divmod(row.panoptic, CITYSCAPES_DIVISOR)
        void = category == panoptic_format.CITYSCAPES_IGNORE
        if instance.max() >= COCO_DIVISOR:
            raise UserError(f"{row.image} has more than 255 instances of a category.")
        panoptic = np.where(void, 0, (category + 1) * COCO_DIVISOR + instance)
        yield _Row(row.image_id, city, row.image, panoptic.astype(np.int32))


def _picture(path: Path, side: int) -> NDArray[np.uint8]:
    try:
        return images.decode(path, side, 3)
    except images.BadImage as error:
        raise UserError(f"{path} is not a readable picture: {error}.") from error


def _shrink(panoptic: NDArray[np.int32], side: int) -> NDArray[np.int32]:
    """The nearest pixel of each of `side` x `side` equal cells."""
    height, width = panoptic.shape
    middle = (np.arange(side) + 0.5) / side
    return panoptic[np.ix_((middle * height).astype(int), (middle * width).astype(int))]


def _largest(panoptic: NDArray[np.int32]) -> int:
    """The category with most pixels, void aside; 1 if all is void."""
    counts = np.bincount((panoptic // COCO_DIVISOR).ravel(), minlength=2)
    return 1 + int(counts[1:].argmax())


def _by_name(name: str) -> bool:
    """Whether a picture is held out: a fifth of all names."""
    return hashlib.sha256(name.encode()).digest()[0] < 51
