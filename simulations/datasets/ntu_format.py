"""The `.skeleton` files of NTU RGB+D: one recording of a Kinect v2, in text.

The number of frames; then for each frame the number of bodies; for each body a line of
ten numbers that begins with its id, the number of joints (25), and for each joint a
line: x y z in metres, its places in the depth and in the colour picture, the four
numbers of its orientation, the tracking state (Shahroudy, Liu, Ng and Wang 2016,
arXiv:1604.02808).

The axes are the Kinect's: x to the sensor's left, y up, z away from the sensor. Its
pictures are mirrored, and so are the places in them; here they are turned back.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_zoo.cv_mim.geometry import select_keypoints
from simulations.datasets.bad_rows import BadFile

WIDTH = 1920
"""Pixels across a colour picture; it has 1080 rows."""

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_JOINTS, _BODY, _JOINT = 25, 10, 12  # joints; numbers of a body's and of a joint's line


@dataclass(frozen=True, order=True)
class Motion:
    """What the name of a file says, the camera aside.

    Attributes:
        setup: height and distance of the cameras.
        performer: who moves; a number is one person in all setups.
        replication: 1 or 2.
        action: 1 .. 60, or 1 .. 120.
    """

    setup: int
    performer: int
    replication: int
    action: int


def parse_name(name: str) -> tuple[Motion, int] | None:
    """The motion and the camera that a file's name (without suffix) tells.

    Example:
        >>> parse_name("S001C002P003R001A013")
        (Motion(setup=1, performer=3, replication=1, action=13), 2)
        >>> parse_name("notes") is None
        True
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    setup, camera, performer, replication, action = map(int, found.groups())
    return Motion(setup, performer, replication, action), camera


@dataclass(frozen=True)
class Recording:
    """One person as one camera saw her, joints as of `cameras.JOINTS`.

    Attributes:
        keypoints: float64 `[T, 13, 2]` in widths of the colour picture, y downwards;
            NaN where she was not seen.
        places: float64 `[T, 13, 3]` in metres from the camera, x to the camera's right,
            y up, z towards the camera; NaN likewise.
        bodies: how many bodies the file has.
    """

    keypoints: NDArray[np.float64]
    places: NDArray[np.float64]
    bodies: int


def read_recording(path: Path) -> Recording:
    """The person of a recording of one person.

    Of several bodies (the sensor sees people in furniture, and takes a person whom it
    lost for another) it is the one that moves most, among those seen at least half as
    often as any: the joint positions with the largest summed variance.

    Raises:
        BadFile: it cannot be read or is not as described; with the line.
    """
    frames, bodies = _read(path)
    keypoints = np.full((frames, 13, 2), np.nan)
    places = np.full((frames, 13, 3), np.nan)
    if bodies:
        often = max(len(seen) for seen in bodies.values()) / 2
        moving = {
            body: np.nan_to_num(np.stack(list(seen.values()))[..., :3].var(0).sum())
            for body, seen in bodies.items()
            if len(seen) >= often
        }
        for frame, joints in bodies[max(moving, key=moving.__getitem__)].items():
            chosen = select_keypoints(joints, "kinect25")
            places[frame] = chosen[:, :3] * (-1, 1, -1)
            keypoints[frame] = chosen[:, 3:] / WIDTH
        keypoints[..., 0] = 1 - keypoints[..., 0]
    return Recording(keypoints, places, len(bodies))


def _read(path: Path) -> tuple[int, dict[str, dict[int, NDArray[np.float64]]]]:
    """Number of frames; joints `[25, 5]` by body and frame."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"no readable text ({error})") from error
    bodies: dict[str, dict[int, NDArray[np.float64]]] = {}
    frames, at = _count(lines, 0, "frames"), 1
    for frame in range(frames):
        present, at = _count(lines, at, "bodies"), at + 1
        for _ in range(present):
            body = _words(lines, at, _BODY, "a body")[0]
            joints = _count(lines, at + 1, "joints")
            if joints != _JOINTS:
                raise _damaged(at + 1, f"{joints} joints; a Kinect v2 sees 25")
            bodies.setdefault(body, {})[frame] = _joints(lines, at + 2)
            at += 2 + _JOINTS
    for line in range(at, len(lines)):
        if lines[line].strip():
            raise _damaged(line, f"more than the {frames} frames it announces")
    return frames, bodies


def _joints(lines: list[str], at: int) -> NDArray[np.float64]:
    """Place in metres and in the colour picture of every joint, `[25, 5]`."""
    rows = []
    for line in range(at, at + _JOINTS):
        x, y, z, _, _, column, row, *_ = _words(lines, line, _JOINT, "a joint")
        try:
            rows.append((float(x), float(y), float(z), float(column), float(row)))
        except ValueError as error:
            raise _damaged(line, str(error)) from error
    return np.array(rows)


def _words(lines: list[str], at: int, count: int, what: str) -> list[str]:
    words = lines[at].split() if at < len(lines) else []
    if len(words) != count:
        found = f"{len(words)} numbers" if at < len(lines) else "the file ends"
        raise _damaged(at, f"{found}; {what} has {count}")
    return words


def _count(lines: list[str], at: int, what: str) -> int:
    text = lines[at].strip() if at < len(lines) else ""
    if not text.isdigit() or len(text) > 9:
        found = repr(text[:20]) if at < len(lines) else "the file ends"
        raise _damaged(at, f"{found}; here stands the number of {what}")
    return int(text)


def _damaged(at: int, why: str) -> BadFile:
    return BadFile(f"line {at + 1}: {why}")
