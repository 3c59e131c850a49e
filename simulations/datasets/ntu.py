"""NTU RGB+D by performer: windows of motions as several cameras saw them at once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedemb.data import InMemoryDataset, Provenance, Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.grouping import by_user, held_out_classes
from simulations.datasets.listing import digest, printable
from simulations.datasets.ntu_motions import (
    ACTIONS,
    MotionFiles,
    MotionWindows,
    read_motions,
    sort_files,
)
from simulations.datasets.pose_windows import FRAMES, used_windows
from simulations.datasets.registry import LoadOptions

READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """All `.skeleton` files below PATH, in the order of their names.

    Raises:
        NotAvailable: there are none.
    """
    found = Path(options.path).rglob("*.skeleton")
    paths = sorted(found, key=lambda path: (path.name, path))
    if not paths:
        raise NotAvailable(
            f"{options.path} has no .skeleton files; unpack the skeletons of NTU RGB+D "
            "there."
        )
    return paths


def load(options: LoadOptions) -> InMemoryDataset:
    """`ntu:PATH` or `ntu-3d:PATH`: `.skeleton` files anywhere below PATH.

    A row is a window of a motion: setup, performer, replication and action. Its views
    are the cameras, in order; the performer is the user and the action the class. Of
    the 49 actions of one person a fifth is held out, the middle window of each motion.

    Fields: `keypoints` float32 `[n, V, T, 13, 2]` in widths of the colour picture;
    `ntu-3d` also `pose3d` float32 `[n, T, 13, 3]`, metres from the middle of the hips
    as the first camera measured them.

    Raises:
        NotAvailable: no such files.
        UserError: damaged files that may not be skipped, one camera alone, too few
            actions, or nothing that all cameras saw.
    """
    paths = sources(options)
    bad = BadRows(len(paths))
    length = options.frames or FRAMES
    files = sort_files(paths, bad)
    motions = list(read_motions(files, paths, length, bad))
    provenance = bad.settle(
        Provenance(
            name=options.name.partition(":")[0],
            source=Source.REAL,
            licence="academic research (ROSE Lab, Nanyang Technological University)",
            description="recorded motions; performer = user, action = class",
        ),
        options.skip_bad,
        [printable(path.name) for path in paths],
    )
    notices = _left_out(files, motions, length)
    motions = [motion for motion in motions if len(motion.keypoints)]
    if not motions:
        raise UserError(f"{options.name}: there is nothing to learn; {notices[0]}")
    names = [f"A{each.motion.action:03}" for each in motions]
    held_out = held_out_classes(names, options.seed)
    recording, place = used_windows([len(m.keypoints) for m in motions], held_out)
    fields = {"keypoints": np.concatenate([m.keypoints for m in motions])[place]}
    if options.name.startswith("ntu-3d"):
        fields["pose3d"] = np.concatenate([m.pose3d for m in motions])[place]
    actions = {n for n, out in zip(names, held_out, strict=True) if out}
    split = (
        f"{len(actions)} of {len(set(names))} actions, chosen with seed "
        f"{options.seed}, are held out, with the middle window of each motion."
    )
    return by_user(
        fields=fields,
        users=[f"P{motions[i].motion.performer:03}" for i in recording],
        labels=[names[i] for i in recording],
        held_out=held_out[recording],
        provenance=replace(
            provenance,
            checksum=digest(*fields.values()),
            notices=(*provenance.notices, split, *notices),
        ),
    )


def _left_out(
    files: MotionFiles, motions: Sequence[MotionWindows], length: int
) -> tuple[str, ...]:
    """What the data lack, and what was chosen, in words."""
    cameras = ", ".join(f"C{camera:03}" for camera in files.cameras)
    blank = sum(not len(motion.keypoints) for motion in motions)
    counts = {
        f"files of other actions than the {ACTIONS} of one person": files.others,
        f"motions that not all of {cameras} recorded": files.incomplete,
        f"motions without {length} frames in a row with a body, seen by each camera in "
        "half of them": blank,
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    notices = [f"left out: {'; '.join(parts)}."] if parts else []
    crowded = sum(motion.crowded for motion in motions)
    if crowded:
        notices.append(
            f"{crowded:,} files have several bodies; the one that moves most was taken."
        )
    return tuple(notices)
