"""Visual relationships on disk: HICO-DET, V-COCO and Visual Genome.

All become one record per image: boxes, the names of the objects, and relations as
(subject, phrase, object), so that data sets with different words can be mixed. Boxes
are (ymin, xmin, ymax, xmax) in pixels (Chao et al. 2018, arXiv:1702.05448; Gupta and
Malik 2015, arXiv:1505.04474; Krishna et al. 2017, arXiv:1602.07332).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

if TYPE_CHECKING:
    from model_zoo.univrd.inference import Triplets


@dataclass(frozen=True)
class RelationImage:
    """The annotated relations of one image.

    Attributes:
        image: file name or id.
        boxes: float32 `[k, 4]`, pixels.
        objects: name of what is in each box, `[k]`.
        relations: (subject, phrase, object) with indices of boxes; the object of an
            action without one is -1.
    """

    image: str
    boxes: NDArray[np.float32]
    objects: tuple[str, ...]
    relations: tuple[tuple[int, str, int], ...]

    def __post_init__(self) -> None:
        k = len(self.objects)
        wrong = [r for r in self.relations if not (0 <= r[0] < k and -1 <= r[2] < k)]
        if self.boxes.shape != (k, 4) or wrong:
            raise UserError(
                f"{self.image}: boxes {self.boxes.shape} for {k} objects, or relations "
                f"beyond them: {wrong[:1]}."
            )


def annotated_triplets(
    images: Sequence[RelationImage], phrases: Sequence[str]
) -> "Triplets":
    """Annotations in the form that `model_zoo.univrd.metrics` scores against.

    Pictures are numbered in order; labels are places in `phrases`; boxes stay in
    pixels. An action without an object has an object of NaN.

    Raises:
        UserError: for a relation whose phrase is not in `phrases`.
    """
    from model_zoo.univrd.inference import Triplets

    place = {phrase: k for k, phrase in enumerate(phrases)}
    rows = [(i, *r) for i, image in enumerate(images) for r in image.relations]
    unknown = [phrase for _, _, phrase, _ in rows if phrase not in place]
    if unknown:
        raise UserError(f"the phrase {unknown[0]!r} is not among the {len(place)}.")
    nothing = np.full(4, np.nan, dtype=np.float32)
    ends = [
        (images[i].boxes[s], images[i].boxes[o] if o >= 0 else nothing)
        for i, s, _, o in rows
    ]
    boxes = np.array(ends, dtype=np.float32).reshape(-1, 2, 4)[..., [1, 0, 3, 2]]
    return Triplets(
        np.array([row[0] for row in rows], dtype=np.int64),
        boxes[:, 0],
        boxes[:, 1],
        np.array([place[row[2]] for row in rows], dtype=np.int64),
        np.ones(len(rows), dtype=np.float32),
    )


def read_hico(path: Path) -> list[RelationImage]:
    """HICO-DET in the JSON form of detection code bases.

    A list of `{file_name, annotations: [{bbox: [x1, y1, x2, y2], category_id}],
    hoi_annotation: [{subject_id, object_id, category_id}]}`. Names are the numbers of
    the categories unless the records carry `category` themselves.

    Raises:
        UserError: not such a file.
    """

    def one(row: Mapping[str, Any]) -> RelationImage:
        return RelationImage(
            str(row["file_name"]),
            _corners([a["bbox"] for a in row["annotations"]]),
            tuple(str(a.get("category", a["category_id"])) for a in row["annotations"]),
            tuple(
                (
                    int(h["subject_id"]),
                    str(h.get("category", h["category_id"])),
                    int(h["object_id"]),
                )
                for h in row["hoi_annotation"]
            ),
        )

    return _read_rows(path, one)


def read_vcoco(path: Path, instances: Path) -> list[RelationImage]:
    """V-COCO: `vcoco_<split>.json` with COCO's `instances_*.json` for the boxes.

    The first is a list over actions of `{action_name, role_name, image_id, ann_id,
    role_object_id, label, include}`; `role_object_id` holds, role after role, one
    annotation id per row (0: none), the first role being the agent. Phrases are the
    action's name, and with a second role other than `obj` its name too: `cut instr`.

    Raises:
        UserError: not such files.
    """
    try:
        content = json.loads(instances.read_text(encoding="utf-8"))
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        records = {
            a["id"]: (a["bbox"], names[a["category_id"]])
            for a in content["annotations"]
        }
        actions = json.loads(path.read_text(encoding="utf-8"))
        found: dict[int, list[tuple[int, str, int]]] = {}
        for action in actions:
            for image, agent, phrase, target in _vcoco_rows(action):
                found.setdefault(image, []).append((agent, phrase, target))
        return [
            _vcoco_image(image, rows, records) for image, rows in sorted(found.items())
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} with {instances} is not V-COCO ({error!r})."
        ) from error


def _vcoco_rows(action: Mapping[str, Any]) -> Iterator[tuple[int, int, str, int]]:
    """(image, agent, phrase, target) of the positive rows; target 0 is none."""
    roles, count = action["role_name"], len(action["label"])
    targets = np.asarray(action["role_object_id"]).reshape(len(roles), count)
    labels = np.asarray(action["label"]).reshape(-1)
    image = np.asarray(action["image_id"]).reshape(-1)
    agent = np.asarray(action["ann_id"]).reshape(-1)
    for row in np.flatnonzero(labels):
        for k, role in enumerate(roles[1:] or [""], start=1):
            phrase = str(action["action_name"])
            phrase += f" {role}" if role not in ("", "obj") else ""
            target = int(targets[k, row]) if k < len(roles) else 0
            yield int(image[row]), int(agent[row]), phrase, target


def _vcoco_image(
    image: int,
    rows: Sequence[tuple[int, str, int]],
    records: Mapping[int, tuple[Sequence[float], str]],
) -> RelationImage:
    ids = sorted({i for agent, _, target in rows for i in (agent, target)} - {0})
    place = {annotation: k for k, annotation in enumerate(ids)}
    sized = [records[i][0] for i in ids]
    return RelationImage(
        str(image),
        _corners([[x, y, x + w, y + h] for x, y, w, h in sized]),
        tuple(records[i][1] for i in ids),
        tuple((place[a], phrase, place.get(t, -1)) for a, phrase, t in rows),
    )


def read_visual_genome(path: Path) -> list[RelationImage]:
    """Visual Genome's `relationships.json`.

    A list of `{image_id, relationships: [{predicate, subject, object}]}`, where subject
    and object are `{object_id, x, y, w, h, name | names}`. Names are lower-cased.

    Raises:
        UserError: not such a file.
    """

    def one(row: Mapping[str, Any]) -> RelationImage:
        things: dict[int, Mapping[str, Any]] = {}
        for relation in row["relationships"]:
            for end in ("subject", "object"):
                things.setdefault(int(relation[end]["object_id"]), relation[end])
        place = {key: k for k, key in enumerate(things)}
        sized = [[float(t[side]) for side in "xywh"] for t in things.values()]
        return RelationImage(
            str(row["image_id"]),
            _corners([[x, y, x + w, y + h] for x, y, w, h in sized]),
            tuple(_name(thing) for thing in things.values()),
            tuple(
                (
                    place[int(r["subject"]["object_id"])],
                    str(r["predicate"]).strip().lower(),
                    place[int(r["object"]["object_id"])],
                )
                for r in row["relationships"]
            ),
        )

    return _read_rows(path, one)


def _name(thing: Mapping[str, Any]) -> str:
    name = thing.get("name") or (thing.get("names") or [""])[0]
    return str(name).strip().lower()


def _corners(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """(x1, y1, x2, y2) rows as (ymin, xmin, ymax, xmax), `[k, 4]`."""
    boxes = np.asarray(rows, dtype=np.float32).reshape(len(rows), 4)
    return boxes[:, [1, 0, 3, 2]]


def _read_rows(
    path: Path, read: Callable[[Mapping[str, Any]], RelationImage]
) -> list[RelationImage]:
    """Every row of a JSON list.

    Raises:
        UserError: not a list, or a row that cannot be read.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [read(row) for row in rows]
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not the published annotation file ({error!r})."
        ) from error
