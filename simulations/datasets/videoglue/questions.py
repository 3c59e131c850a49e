"""From the segments of an annotation file to rows that an encoder is asked about."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_zoo.videoglue.score import Group
from simulations.datasets.videoglue.segments import Segment, multi_hot

WINDOWS = 32
"""L: parts of equal length that an untrimmed video is cut into."""

Fields = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Asked:
    """One row: a video, or a moment of it, with everything annotated there.

    Attributes:
        video: as the annotations name it.
        time: seconds from its beginning; 0 where the whole is asked about.
        segments: at least one.
    """

    video: str
    time: float
    segments: tuple[Segment, ...]


def asked(
    group: Group, segments: Sequence[Segment], classes: Sequence[str]
) -> list[Asked]:
    """Rows of a kind of problem, without those that ask nothing.

    A video without a class is left out where there must be one; a stretch or box
    without a class of `classes`, and a stretch of a video of unknown length, too.
    """
    known = frozenset(classes)
    rows: dict[Hashable, list[Segment]] = {}
    for segment in segments:
        time = segment.start if group is Group.SPATIO_TEMPORAL else 0.0
        rows.setdefault((segment.video, time), [])
        if _asks(group, segment, known):
            rows[segment.video, time].append(segment)
    return [
        Asked(own[0].video, own[0].start if own[0].box else 0.0, tuple(own))
        for own in rows.values()
        if own
    ]


def _asks(group: Group, segment: Segment, known: frozenset[str]) -> bool:
    if group is Group.MULTI_LABEL:
        return True
    if not known.intersection(segment.labels):
        return False
    if group is Group.SPATIO_TEMPORAL:
        return segment.box is not None
    if group is Group.TEMPORAL:
        return segment.end is not None and segment.length is not None
    return True


def answers(group: Group, rows: Sequence[Asked], classes: Sequence[str]) -> Fields:
    """The fields that `model_zoo.videoglue.problems.Problem` wants beside `clip`."""
    place = {name: i for i, name in enumerate(classes)}
    if group is Group.MULTI_LABEL:
        return {"events": multi_hot([row.segments[0] for row in rows], classes)}
    if group is Group.TEMPORAL:
        return {"stretches": _stretches(rows, place)}
    if group is Group.SPATIO_TEMPORAL:
        return _boxes(rows, place)
    labels = [place[row.segments[0].labels[0]] for row in rows]
    return {"label": np.array(labels, dtype=np.int64)}


def _stretches(rows: Sequence[Asked], place: Mapping[str, int]) -> NDArray[np.float32]:
    most = max(len(row.segments) for row in rows)
    out = np.full((len(rows), most, 3), -1, np.float32)
    for i, row in enumerate(rows):
        for j, segment in enumerate(row.segments):
            scale = WINDOWS / (segment.length or 1.0)
            start, end = segment.start * scale, (segment.end or 0.0) * scale
            inside = np.clip([start, end], 0, WINDOWS)
            out[i, j] = (*inside, place[segment.labels[0]])
    return out


def _boxes(rows: Sequence[Asked], place: Mapping[str, int]) -> Fields:
    most = max(len(row.segments) for row in rows)
    boxes = np.full((len(rows), most, 4), -1, np.float32)
    actions = np.zeros((len(rows), most, len(place)), np.float32)
    for i, row in enumerate(rows):
        for j, segment in enumerate(row.segments):
            boxes[i, j] = segment.box
            for label in segment.labels:
                if label in place:  # of AVA's 80 classes, 60 are scored
                    actions[i, j, place[label]] = 1
    return {"boxes": boxes, "actions": actions}
