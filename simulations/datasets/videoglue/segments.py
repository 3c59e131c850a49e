"""What the annotation files say: labelled stretches of videos, and boxes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A labelled stretch of one video.

    Attributes:
        video: name of its file, without suffix.
        user: whose it is, as far as the data set tells.
        labels: its classes, by name or number as published; empty where a video was
            published without.
        start: seconds from the beginning of the video; 0 if it is the whole.
        end: seconds; None is the end of the video.
        box: (ymin, xmin, ymax, xmax) in [0, 1] of who acts, at `start`.
        length: seconds that the whole video lasts, where the annotations say so.

    Raises:
        UserError: an end before the start, or a box that is none.
    """

    video: str
    user: str
    labels: tuple[str, ...]
    start: float = 0.0
    end: float | None = None
    box: Box | None = None
    length: float | None = None

    def __post_init__(self) -> None:
        if not self.start >= 0 or (self.end is not None and not self.end >= self.start):
            raise UserError(
                f"video {self.video!r} has a stretch from {self.start} s to "
                f"{self.end} s; it must start at 0 or later and end after its start."
            )
        if self.box is not None and not (
            0 <= self.box[0] < self.box[2] <= 1 and 0 <= self.box[1] < self.box[3] <= 1
        ):
            raise UserError(
                f"video {self.video!r} has the box {self.box}; it must be (ymin, xmin, "
                "ymax, xmax) in [0, 1]."
            )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file: {error}.") from error


def number(path: Path, row: int, text: str) -> float:
    """A finite number of a table.

    Raises:
        UserError: naming file, row and text.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{path}: row {row}: {text!r} is no number.")
    return value


def multi_hot(
    segments: Sequence[Segment], classes: Sequence[str]
) -> NDArray[np.float32]:
    """Labels of segments as rows of zeros and ones, `[n, classes]`.

    Raises:
        UserError: a label that is none of the classes.

    Example:
        >>> rows = [Segment(video="v", user="u", labels=("b", "a"))]
        >>> multi_hot(rows, ["a", "b", "c"]).tolist()
        [[1.0, 1.0, 0.0]]
    """
    place = {name: i for i, name in enumerate(classes)}
    out = np.zeros((len(segments), len(classes)), np.float32)
    for row, segment in enumerate(segments):
        for label in segment.labels:
            if label not in place:
                raise UserError(
                    f"video {segment.video!r} has the label {label!r}, which is none "
                    f"of the {len(classes)} classes."
                )
            out[row, place[label]] = 1
    return out
