"""ActivityNet v1.3, AVA v2.2 and AVA-Kinetics: when, and where, something happens."""

import csv
from collections.abc import Mapping
from pathlib import Path

from fedemb.errors import UserError
from simulations.datasets.videoglue.segments import Segment, number, read_json

SCORED_AVA = frozenset(
    {
        *(1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 20, 22, 24, 26, 27, 28),
        *(29, 30, 34, 36, 37, 38, 41, 43, 45, 46, 47, 48, 49, 51, 52, 54, 56, 57, 58),
        *(59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 72, 73, 74, 76, 77, 78, 79),
        80,
    }
)
"""The 60 of 80 AVA classes with enough examples, which alone are scored."""

_AVA_COLUMNS = 7  # video, timestamp, x1, y1, x2, y2, action; person may follow


def activitynet(
    path: Path, users: Mapping[str, str] | None = None
) -> dict[str, list[Segment]]:
    """ActivityNet's JSON: segments by subset (`training`, `validation`, `testing`).

    A video without annotations gives one segment without labels.

    Raises:
        UserError: no `database`, or a malformed annotation.
    """
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise UserError(f"{path} has no 'database' of videos.")
    found: dict[str, list[Segment]] = {}
    for name, record in database.items():
        if not isinstance(record, dict):
            raise UserError(f"{path}: video {name!r} has no record.")
        video = f"v_{name}"
        user = (users or {}).get(name, name)
        own = found.setdefault(str(record.get("subset", "")), [])
        annotations = record.get("annotations", [])
        length = _length(path, name, record)
        if not annotations:
            own.append(Segment(video=video, user=user, labels=(), length=length))
        for annotation in annotations:
            try:
                start, end = (float(t) for t in annotation["segment"])
                labels = (str(annotation["label"]),)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: video {name!r}: an annotation needs 'label' and "
                    f"'segment' [start, end]: {error!r}."
                ) from error
            own.append(
                Segment(
                    video=video,
                    user=user,
                    labels=labels,
                    start=start,
                    end=end,
                    length=length,
                )
            )
    return found


def _length(path: Path, name: str, record: Mapping[str, object]) -> float | None:
    told = record.get("duration")
    if told is None:
        return None
    if not isinstance(told, int | float) or not 0 < told < float("inf"):
        raise UserError(f"{path}: video {name!r} has the duration {told!r}.")
    return float(told)


def ava(path: Path, users: Mapping[str, str] | None = None) -> list[Segment]:
    """AVA's and AVA-Kinetics' CSV: `video,timestamp,x1,y1,x2,y2,action[,person]`.

    No header; coordinates in [0, 1]. Rows of the same box at the same time become one
    segment with all its actions. Rows without a box say that nobody is seen; they give
    a segment without box and labels.

    Raises:
        UserError: a row too short, or with something that is no number.
    """
    boxes: dict[tuple[str, float, str], list[str]] = {}
    for count, row in enumerate(_rows(path), start=1):
        if len(row) < _AVA_COLUMNS and len(row) != 2:
            raise UserError(
                f"{path}: row {count} has {len(row)} cells; it needs "
                f"{_AVA_COLUMNS}, or 2 where nobody is seen."
            )
        time = number(path, count, row[1])
        corners = [cell for cell in row[2:6] if cell]
        values = [number(path, count, cell) for cell in corners]
        place = ",".join(str(v) for v in values) if len(values) == 4 else ""
        own = boxes.setdefault((row[0], time, place), [])
        if place and row[6]:
            own.append(str(int(number(path, count, row[6]))))
    found = []
    for (video, time, place), labels in boxes.items():
        box = None
        if place:
            x1, y1, x2, y2 = (float(v) for v in place.split(","))
            box = (y1, x1, y2, x2)
        found.append(
            Segment(
                video=video,
                user=(users or {}).get(video, video),
                labels=tuple(dict.fromkeys(labels)),
                start=time,
                box=box,
            )
        )
    return found


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.") from error
