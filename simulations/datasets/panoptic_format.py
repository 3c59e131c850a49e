"""Panoptic maps on disk: COCO's and Cityscapes' formats (Kirillov et al. 2019).

In memory a map is int32 `[H, W]`, `category * divisor + instance`: divisor 256 for
COCO, 1000 for Cityscapes; void is 0 for COCO's and 255 * divisor for Cityscapes'.
Instance 0 of a thing is a crowd (arXiv:1801.00868, arXiv:1604.01685).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets import images

COCO_DIVISOR = 256
CITYSCAPES_DIVISOR = 1000
CITYSCAPES_IGNORE = 255

CITYSCAPES_TRAIN_ID = {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
    27: 14,
    28: 15,
    31: 16,
    32: 17,
    33: 18,
}
"""Label id -> training id; things are 11-18."""


@dataclass(frozen=True)
class PanopticImage:
    """One annotated picture: its file and its map, int32 `[H, W]`."""

    image_id: str
    image: Path
    panoptic: NDArray[np.int32]


@dataclass(frozen=True)
class Category:
    """A category of a COCO panoptic file."""

    id: int
    name: str
    is_thing: bool


def read_categories(annotations: Path) -> list[Category]:
    """The categories of a COCO panoptic file, by id.

    Raises:
        UserError: not such a file.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        found = [
            Category(int(c["id"]), str(c["name"]), bool(c["isthing"]))
            for c in content["categories"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{annotations} is not a COCO panoptic file ({error!r})."
        ) from error
    return sorted(found, key=lambda category: category.id)


def decode_ids(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segment ids of a COCO panoptic PNG `[..., 3]`: R + 256 G + 65536 B.

    Example:
        >>> decode_ids(np.array([[1, 2, 3]], dtype=np.uint8)).tolist()
        [197121]
    """
    wide = colours.astype(np.int32)
    return np.asarray(wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2])


def coco_map(
    ids: NDArray[np.int32], segments: list[Mapping[str, Any]], things: frozenset[int]
) -> NDArray[np.int32]:
    """A map from segment ids and their records.

    Things are numbered from 1 within their category, in the order of the records;
    crowds get instance 0.

    Raises:
        UserError: a segment that no record describes, or a category beyond the divisor.
    """
    known = {0: 0}
    counts: dict[int, int] = {}
    for segment in segments:
        category = int(segment["category_id"])
        instance = 0
        if category in things and not segment.get("iscrowd"):
            instance = counts[category] = counts.get(category, 0) + 1
        if instance >= COCO_DIVISOR:
            raise UserError(
                f"more than {COCO_DIVISOR - 1} instances of category {category}."
            )
        known[int(segment["id"])] = category * COCO_DIVISOR + instance
    found, position = np.unique(ids, return_inverse=True)
    strange = [int(i) for i in found if int(i) not in known]
    if strange:
        raise UserError(f"segment {strange[0]} of the picture is not in its records.")
    values = np.array([known[int(i)] for i in found], dtype=np.int32)
    return np.asarray(values[position.reshape(ids.shape)])


def read_coco(annotations: Path, maps: Path, pictures: Path) -> Iterator[PanopticImage]:
    """The pictures of a COCO panoptic file, one after the other.

    Args:
        annotations: `panoptic_<split>.json`.
        maps: folder of the PNG maps.
        pictures: folder of the photographs.

    Raises:
        UserError: not such a file, or a map that does not go with it.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        things = frozenset(c["id"] for c in content["categories"] if c["isthing"])
        files = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [
            (files[a["image_id"]], a["file_name"], a["segments_info"], a["image_id"])
            for a in content["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{annotations} is not a COCO panoptic file ({error!r})."
        ) from error
    for photograph, file, segments, image_id in rows:
        ids = decode_ids(_read_png(maps / file, 3))
        try:
            panoptic = coco_map(ids, segments, things)
        except UserError as error:
            raise UserError(f"{maps / file}: {error}") from error
        yield PanopticImage(str(image_id), pictures / photograph, panoptic)


def cityscapes_map(instance_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """A map from `*_gtFine_instanceIds.png`: id, or id * 1000 + k for the k-th thing.

    Instances count from 1; groups (ids without a number) are crowds with instance 0;
    classes that are not trained become void, 255 * 1000.

    Example:
        >>> cityscapes_map(np.array([7, 26001, 26, 3], dtype=np.int32)).tolist()
        [0, 13002, 13000, 255000]
    """
    numbered = instance_ids >= 1000
    label = np.where(numbered, instance_ids // 1000, instance_ids)
    instance = np.where(numbered, instance_ids % 1000 + 1, 0)
    table = np.full(256, CITYSCAPES_IGNORE, dtype=np.int32)
    for source, target in CITYSCAPES_TRAIN_ID.items():
        table[source] = target
    category = table[np.clip(label, 0, 255)]
    void = category == CITYSCAPES_IGNORE
    packed = category * CITYSCAPES_DIVISOR + np.where(void, 0, instance)
    return np.asarray(packed, dtype=np.int32)


def read_cityscapes(root: Path, split: str) -> Iterator[tuple[str, PanopticImage]]:
    """(city, picture) of a split of Cityscapes; the city can serve as the user.

    Reads `gtFine/<split>/<city>/*_gtFine_instanceIds.png` and names
    `leftImg8bit/<split>/<city>/*_leftImg8bit.png`.
    """
    ending = "_gtFine_instanceIds.png"
    for path in sorted((root / "gtFine" / split).glob(f"*/*{ending}")):
        name, city = path.name.removesuffix(ending), path.parent.name
        picture = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
        ids = _read_png(path, 1)
        yield city, PanopticImage(name, picture, cityscapes_map(ids))


def _read_png(path: Path, channels: int) -> NDArray[Any]:
    """Raw values of a map: uint8 `[H, W, 3]`, or int32 `[H, W]` at full depth."""
    from PIL import Image

    try:
        images.read_header(path)
        with Image.open(path, formats=("PNG",)) as image:
            if channels == 3:
                return np.asarray(image.convert("RGB"))
            return np.asarray(image).astype(np.int32)
    except (images.BadImage, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a readable map: {error}.") from error
