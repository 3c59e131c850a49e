"""The label files of Penn Action: joints that people marked in a video, one a file.

A MATLAB file with `action`, `train` (1, or -1 for test), `dimensions` (height, width,
frames) and, of 13 joints, `x`, `y` and `visibility` `[T, 13]` (Zhang, Zhu and Derpanis
2013, From Actemes to Action, ICCV). Joints are in the order of `cameras.JOINTS`; the
head stands for the nose.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.bad_rows import BadFile

_FIELDS = ("action", "train", "dimensions", "x", "y", "visibility")
_MOST_FRAMES = 20_000  # thirty times the longest video


@dataclass(frozen=True)
class Video:
    """One video.

    Attributes:
        action: its name in the file, such as `baseball_pitch`.
        train: whether it is an official training video.
        keypoints: float64 `[T, 13, 2]` in units of the picture's longer side, y
            downwards; NaN where a joint was not seen and its place is outside the
            picture. Hidden joints with a place in it are as marked.
    """

    action: str
    train: bool
    keypoints: NDArray[np.float64]


def read_video(path: Path) -> Video:
    """A label file; nothing in it is executed, and nothing large is unpacked.

    Raises:
        BadFile: it cannot be read, or a field is missing or of another shape.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(path)}
    except Exception as error:  # of format, zlib, type and memory alike
        raise BadFile(f"no MATLAB file ({error})") from error
    missing = [name for name in _FIELDS if name not in shapes]
    if missing:
        raise BadFile(f"the field {missing[0]} is missing")
    frames = shapes["x"][0]
    for name in ("x", "y", "visibility"):
        if shapes[name] != (frames, 13) or not 0 < frames <= _MOST_FRAMES:
            raise BadFile(f"{name} has the shape {shapes[name]}, not (frames, 13)")
    try:
        fields = loadmat(path, variable_names=_FIELDS)
        x, y, visibility = (
            np.asarray(fields[name], dtype=np.float64)
            for name in ("x", "y", "visibility")
        )
        height, width = np.asarray(fields["dimensions"], float).ravel()[:2].tolist()
        train = float(np.asarray(fields["train"], float).ravel()[0]) == 1
        action = str(np.asarray(fields["action"]).ravel()[0])
    except Exception as error:
        raise BadFile(f"a field cannot be read ({error})") from error
    if not (height >= 1 and width >= 1 and action):
        raise BadFile(f"a picture of {height:g} x {width:g} pixels, action {action!r}")
    inside = (x > 1) & (x < width) & (y > 1) & (y < height)
    places = np.stack([x, y], axis=-1) / max(height, width)
    places[~inside & ~(visibility > 0)] = np.nan
    return Video(action, train, places)
