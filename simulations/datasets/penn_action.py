"""Penn Action: windows of joints that people marked in videos of one camera.

The data set names no performers, so its videos are divided among made-up users and
every output says so. A single camera teaches nothing about other cameras: these data
judge an encoder that learned from others.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable
from simulations.datasets.bad_rows import BadFile, BadRows
from simulations.datasets.grouping import by_user
from simulations.datasets.listing import digest, printable
from simulations.datasets.partitions import partition
from simulations.datasets.penn_format import Video, read_video
from simulations.datasets.pose_windows import FRAMES, used_windows, whole_windows
from simulations.datasets.registry import LoadOptions

STEP = 2
"""Frames between those kept."""

_VIDEOS_PER_USER = 4
_ONE_CAMERA = (
    "one camera: cv_mim cannot train on these data, whose poses nothing else saw; they "
    "judge an encoder trained on others (fedemb evaluate RUN --dataset)."
)


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """The label files, in the order of their names.

    Raises:
        NotAvailable: there are none.
    """
    root = Path(options.path)
    paths = sorted((root / "labels").glob("*.mat")) or sorted(root.glob("*.mat"))
    if not paths:
        raise NotAvailable(f"{root} has no labels/*.mat of Penn Action.")
    return paths


def load(options: LoadOptions) -> InMemoryDataset:
    """`penn-action:PATH`: `PATH/labels/*.mat`, or `PATH/*.mat`; no pictures are needed.

    A row is a window of every second frame of a video. The official test videos are
    held out, the middle window of each.

    Fields: `keypoints` float32 `[n, 1, T, 13, 2]` in units of a picture's longer side.

    Raises:
        NotAvailable: no such files, or no official test videos among them.
        UserError: damaged files that may not be skipped, videos that are too short, or
            no partition in `user_column`.
    """
    length = options.frames or FRAMES
    read, provenance = _read(sources(options), options)
    cut = [whole_windows(video.keypoints[::STEP], length) for video in read]
    videos = [video for video, found in zip(read, cut, strict=True) if found]
    windows = [found for found in cut if found]
    held_out = np.array([not video.train for video in videos], dtype=bool)
    trained = np.flatnonzero(~held_out)
    if not 0 < len(trained) < len(videos):
        raise NotAvailable(
            f"{options.path} needs training and test videos (the field train) of at "
            f"least {length * STEP} frames; it has {len(trained)} and "
            f"{len(videos) - len(trained)}."
        )
    wanted = options.user_column or f"iid:{max(1, len(trained) // _VIDEOS_PER_USER)}"
    owners, made_up = partition(
        [videos[k].action for k in trained], wanted, options.seed
    )
    owner = dict(zip(trained.tolist(), owners, strict=True))
    video, place = used_windows([len(found) for found in windows], held_out)
    rows = np.array([each for found in windows for each in found], dtype=np.float32)
    keypoints = rows[place][:, None]
    notices = [*provenance.notices, *made_up, _ONE_CAMERA]
    if len(videos) < len(read):
        notices.append(
            f"left out: {len(read) - len(videos):,} videos without {length * STEP} "
            "frames in a row in which every joint was seen in half of them."
        )
    return by_user(
        fields={"keypoints": keypoints},
        users=[owner.get(k, "") for k in video.tolist()],
        labels=[videos[k].action for k in video],
        held_out=held_out[video],
        provenance=replace(
            provenance, checksum=digest(keypoints), notices=tuple(notices)
        ),
    )


def _read(
    paths: Sequence[Path], options: LoadOptions
) -> tuple[list[Video], Provenance]:
    """All sound videos; damaged files are refused, or counted and left out."""
    bad = BadRows(len(paths))
    videos = []
    for row, path in enumerate(paths):
        try:
            videos.append(read_video(path))
        except BadFile as error:
            bad.add(row, str(error))
    provenance = Provenance(
        name=options.name.partition(":")[0],
        source=Source.REAL,
        licence="none stated (Penn Action, University of Pennsylvania)",
        description="joints marked in videos of one camera; action = class",
    )
    names = [printable(path.name) for path in paths]
    return videos, bad.settle(provenance, options.skip_bad, names)
