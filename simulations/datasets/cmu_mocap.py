"""CMU motion capture by subject: windows of real motions, seen by two drawn cameras."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import InMemoryDataset, Provenance, Source
from simulations.datasets import official
from simulations.datasets.asf_amc import read_amc, read_asf
from simulations.datasets.cameras import project
from simulations.datasets.grouping import by_user, held_out_classes
from simulations.datasets.listing import digest
from simulations.datasets.pose_windows import FRAMES, starts
from simulations.datasets.registry import LoadOptions

STEP = 4
"""Frames between those kept: 120 Hz becomes 30 Hz."""


@dataclass(frozen=True)
class Window:
    """T frames of one motion: subject, motion, poses `[T, 13, 3]` in metres."""

    subject: str
    motion: str
    poses: NDArray[np.float64]


READER = 1


def sources(options: LoadOptions) -> list[Path]:
    """Every skeleton, followed by its motions.

    Raises:
        NotAvailable: there are none.
    """
    skeletons = sorted((options.root / "cmu_mocap").rglob("*.asf"))
    files = [file for path in skeletons for file in (path, *_motions(path))]
    if not files:
        raise official.not_found(options)
    return files


def load(options: LoadOptions) -> InMemoryDataset:
    """Windows of 16 frames; fields as of `poses`, a class is one recorded motion.

    Files are `<subject>.asf` and `<subject>_<motion>.amc` in any folders below
    `cmu_mocap` in the data root. A fifth of the motions is held out.

    Raises:
        NotAvailable: no such files.
        UserError: a file is damaged.
    """
    skeletons = [path for path in sources(options) if path.suffix == ".asf"]
    windows = [window for path in skeletons for window in read_windows(path)]
    if not windows:
        raise official.not_found(options)
    poses = np.stack([window.poses for window in windows])
    draw = np.random.default_rng([options.seed, 71])
    reach = np.array([np.pi, np.pi / 6, np.pi / 6])
    camera = draw.uniform(-1, 1, (len(poses), 2, 3)) * reach
    labels = [window.motion for window in windows]
    held_out = held_out_classes(labels, options.seed)
    count = len({m for m, out in zip(labels, held_out, strict=True) if out})
    return by_user(
        fields={
            "keypoints": project(poses, camera),
            "pose3d": poses.astype(np.float32),
            "camera": camera.astype(np.float32),
        },
        users=[window.subject for window in windows],
        labels=labels,
        held_out=held_out,
        provenance=Provenance(
            name=options.name,
            source=Source.REAL,
            licence="free for research and commercial projects (CMU)",
            checksum=digest(poses),
            description="CMU motion capture; subject = user, motion = class",
            notices=(
                f"{count} of {len(set(labels))} motions, chosen with seed "
                f"{options.seed}, are held out; cameras are drawn, not recorded.",
            ),
        ),
    )


def read_windows(path: Path) -> list[Window]:
    """Non-overlapping windows of all motions of the subject of an ASF file."""
    skeleton = read_asf(path)
    windows = []
    for motion in _motions(path):
        poses = skeleton.pose(read_amc(motion))[::STEP]
        windows += [
            Window(path.stem, motion.stem, poses[start : start + FRAMES])
            for start in starts(len(poses), FRAMES)
        ]
    return windows


def _motions(skeleton: Path) -> list[Path]:
    return sorted(skeleton.parent.glob(f"{skeleton.stem}_*.amc"))
