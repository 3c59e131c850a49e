"""Motions of NTU RGB+D: the files of all cameras that recorded one, and its windows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.bad_rows import BadFile, BadRows
from simulations.datasets.ntu_format import (
    Motion,
    Recording,
    parse_name,
    read_recording,
)
from simulations.datasets.pose_windows import whole_windows

ACTIONS = 49
"""Actions of one person are A001 .. A049; those of two follow."""


@dataclass(frozen=True)
class MotionFiles:
    """Files sorted by what they show.

    Attributes:
        cameras: all that recorded anything, in order.
        views: of each motion that all cameras recorded, its rows in the list of files.
        incomplete: number of motions that some camera did not record.
        others: number of files of actions beyond the first 49.
    """

    cameras: tuple[int, ...]
    views: Mapping[Motion, tuple[int, ...]]
    incomplete: int
    others: int


def sort_files(paths: Sequence[Path], bad: BadRows) -> MotionFiles:
    """Files by motion and camera; those without a proper name go to `bad`.

    Raises:
        UserError: all are of one camera.
    """
    rows: dict[Motion, dict[int, int]] = {}
    others = 0
    for row, path in enumerate(paths):
        named = parse_name(path.stem)
        if named is None:
            bad.add(row, "needed is a name such as S001C001P001R001A001")
        elif not 1 <= named[0].action <= ACTIONS:
            others += 1
        elif named[1] in rows.setdefault(named[0], {}):
            bad.add(row, "two folders have a file of this name")
        else:
            rows[named[0]][named[1]] = row
    cameras = tuple(sorted({camera for views in rows.values() for camera in views}))
    if len(cameras) == 1:
        raise UserError(
            f"all files are of camera C{cameras[0]:03}; poses are learned from two "
            "cameras or more, so add the files of the others (C001, C002, C003)."
        )
    views = {
        motion: tuple(found[camera] for camera in cameras)
        for motion, found in rows.items()
        if len(found) == len(cameras)
    }
    return MotionFiles(cameras, views, len(rows) - len(views), others)


@dataclass(frozen=True)
class MotionWindows:
    """Windows of one motion.

    Attributes:
        motion: which.
        keypoints: as the cameras saw them, float32 `[W, V, T, 13, 2]`.
        pose3d: as the first camera measured them, in metres from the middle of the
            hips, float32 `[W, T, 13, 3]`.
        crowded: number of its files with several bodies.
    """

    motion: Motion
    keypoints: NDArray[np.float32]
    pose3d: NDArray[np.float32]
    crowded: int


def read_motions(
    files: MotionFiles, paths: Sequence[Path], length: int, bad: BadRows
) -> Iterator[MotionWindows]:
    """Windows of all motions whose files are sound; damaged files go to `bad`."""
    for motion, rows in files.views.items():
        recordings = []
        for row in rows:
            try:
                recordings.append(read_recording(paths[row]))
            except BadFile as error:
                bad.add(row, str(error))
        if len(recordings) == len(rows):
            yield windows_of(motion, recordings, length)


def windows_of(
    motion: Motion, recordings: Sequence[Recording], length: int
) -> MotionWindows:
    """Windows in which every camera saw the person in at least half of the frames.

    The cameras recorded at once: frame t is taken for the same moment in all. What one
    of them recorded beyond the end of another is left out.
    """
    frames = min(len(recording.keypoints) for recording in recordings)
    pictures = [
        np.pad(recording.keypoints[:frames], [(0, 0), (0, 0), (0, 1)])
        for recording in recordings
    ]
    joints = np.concatenate([*pictures, recordings[0].places[:frames]], axis=1)
    found = np.array(whole_windows(joints, length))
    parts = found.reshape(len(found), length, len(recordings) + 1, 13, 3).swapaxes(1, 2)
    pose3d = parts[:, -1]
    hips = pose3d[..., 7:9, :].mean(-2, keepdims=True)
    return MotionWindows(
        motion,
        keypoints=parts[:, :-1, ..., :2].astype(np.float32),
        pose3d=(pose3d - hips).astype(np.float32),
        crowded=sum(recording.bodies > 1 for recording in recordings),
    )
