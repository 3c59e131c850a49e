"""Where the eight data sets keep annotations and videos, as their publishers ship them.

Below a root every data set has a folder of its name. Annotation files may lie anywhere
in that folder, under their published names; so may the videos.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model_zoo.videoglue.score import DATASETS, Group
from simulations.datasets.video_files import ANIMATIONS, VIDEOS
from simulations.datasets.videoglue.classification import (
    charades,
    diving,
    kinetics,
    moments,
    read_users,
    something,
)
from simulations.datasets.videoglue.localization import activitynet, ava
from simulations.datasets.videoglue.segments import Segment

Read = Callable[[Path], list[Segment]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One data set as published.

    Attributes:
        name: of its folder below the root, and in the published tables.
        train: names of the annotation files to adapt on; all that are there are read.
        test: names of those to score on.
        read_train: from such a file to its segments.
        read_test: likewise.
        videos: folders below the root that hold its videos.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read_train: Read
    read_test: Read
    videos: tuple[str, ...]

    @property
    def group(self) -> Group:
        """What it asks for."""
        return DATASETS[self.name]

    def annotations(self, root: Path) -> tuple[list[Path], list[Path]]:
        """Annotation files to adapt on and to score on, in the data set's folder."""
        files = sorted(p for p in _walk(root / self.name) if p.suffix in _TABLES)
        parts = (self.train, self.test)
        train, test = ([f for f in files if f.name in names] for names in parts)
        return train, test

    def read(
        self, files: tuple[Sequence[Path], Sequence[Path]]
    ) -> tuple[list[Segment], list[Segment]]:
        """Segments of annotation files to adapt on, and of those to score on."""
        train = [s for path in files[0] for s in self.read_train(path)]
        test = [s for path in files[1] for s in self.read_test(path)]
        return train, test


_TABLES = frozenset({".csv", ".json"})


def layouts() -> Sequence[Layout]:
    """All eight, in the order of the published tables."""
    return tuple(
        Layout(
            name=name,
            train=train,
            test=test,
            read_train=read[0],
            read_test=read[1],
            videos=(name, *more),
        )
        for name, train, test, read, more in _PUBLISHED
    )


def _twice(read: Callable[..., list[Segment]]) -> tuple[Read, Read]:
    def with_users(path: Path) -> list[Segment]:
        return read(path, read_users(path.parent))

    return with_users, with_users


def _subset(subset: str, path: Path) -> list[Segment]:
    return activitynet(path, read_users(path.parent)).get(subset, [])


_ACTIVITYNET = ("activity_net.v1-3.min.json", "activity_net.v1-3.json")
_AVA = ("ava_train_v2.2.csv", "ava_val_v2.2.csv")
_PUBLISHED = (
    (
        "kinetics400",
        ("train.csv", "kinetics_train.csv"),
        ("validate.csv", "val.csv", "kinetics_val.csv"),
        _twice(kinetics),
        (),
    ),
    (
        "moments_in_time",
        ("trainingSet.csv",),
        ("validationSet.csv",),
        _twice(moments),
        (),
    ),
    (
        "something_something_v2",
        ("train.json", "something-something-v2-train.json"),
        ("validation.json", "something-something-v2-validation.json"),
        _twice(something),
        (),
    ),
    (
        "diving48",
        ("Diving48_V2_train.json", "Diving48_train.json"),
        ("Diving48_V2_test.json", "Diving48_test.json"),
        _twice(diving),
        (),
    ),
    (
        "charades",
        ("Charades_v1_train.csv",),
        ("Charades_v1_test.csv",),
        (charades, charades),
        (),
    ),
    (
        "activitynet",
        _ACTIVITYNET,
        _ACTIVITYNET,
        (partial(_subset, "training"), partial(_subset, "validation")),
        (),
    ),
    ("ava", _AVA[:1], _AVA[1:], _twice(ava), ()),
    (
        "ava_kinetics",
        ("kinetics_train_v1.0.csv", _AVA[0]),
        ("kinetics_val_v1.0.csv", _AVA[1]),
        _twice(ava),
        ("ava", "kinetics400", "kinetics700"),
    ),
)

_CUT = re.compile(r"(?P<video>.+)_(?P<start>\d{6})_\d{6}")  # the downloader's names


@dataclass(frozen=True)
class Videos:
    """Video files below some folders, by the names that annotations use.

    Attributes:
        whole: file by name without suffix, and by `folder/name`.
        cuts: for a name, the files that hold ten seconds of it, by second of start.
    """

    whole: Mapping[str, Path]
    cuts: Mapping[str, Mapping[int, Path]]

    @staticmethod
    def below(folders: Iterable[Path]) -> "Videos":
        """Every video of the folders; links that lead out of a folder are left out."""
        whole: dict[str, Path] = {}
        cuts: dict[str, dict[int, Path]] = {}
        for path in (path for folder in folders for path in _walk(folder)):
            if path.suffix.lower() not in VIDEOS.keys() | ANIMATIONS:
                continue
            whole.setdefault(path.stem, path)
            whole.setdefault(f"{path.parent.name}/{path.stem}", path)
            cut = _CUT.fullmatch(path.stem)
            if cut:
                own = cuts.setdefault(cut["video"], {})
                own.setdefault(int(cut["start"]), path)
        return Videos(whole, cuts)

    def find(self, video: str, time: float = 0.0) -> tuple[Path, float] | None:
        """The file of a video and the second at which it begins, or None.

        A file that holds all of the video is preferred to one cut out around `time`.
        """
        if video in self.whole:
            return self.whole[video], 0.0
        starts = [s for s in self.cuts.get(video, {}) if s <= time]
        if not starts:
            return None
        return self.cuts[video][max(starts)], float(max(starts))


def _walk(folder: Path) -> list[Path]:
    """Files below a folder in order; links that lead out of it are left out."""
    real = folder.resolve()
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if not path.is_symlink() or path.resolve().is_relative_to(real):
                found.append(path)
    return found
