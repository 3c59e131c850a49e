"""Problems from the published data sets whose files lie below a root."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.errors import NotAvailable, UserError
from model_zoo.videoglue.problems import Problem
from model_zoo.videoglue.score import Group
from simulations.datasets.bad_rows import first_offenders
from simulations.datasets.grouping import numbered
from simulations.datasets.images import BadImage
from simulations.datasets.listing import MEMORY_LIMIT
from simulations.datasets.video_files import decode_clip
from simulations.datasets.video_stretches import decode_stretch
from simulations.datasets.videoglue.layouts import Layout, Videos, layouts
from simulations.datasets.videoglue.localization import SCORED_AVA
from simulations.datasets.videoglue.questions import WINDOWS, Asked, answers, asked

AROUND = 1.0
"""Seconds before and after the key frame whose boxes are asked for."""

Shape = tuple[int, int, int]
Decode = Callable[[Path, Asked, float], NDArray[np.uint8]]


@dataclass
class Tally:
    """What became of one part of a data set.

    Attributes:
        annotated: rows that the annotations ask about.
        clips: rows that were decoded.
        missing: rows that were looked for and have no file.
        damaged: name and reason of the files that could not be decoded.
    """

    annotated: int
    clips: int = 0
    missing: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "annotated": self.annotated,
            "clips": self.clips,
            "missing": self.missing,
            "damaged": len(self.damaged),
            "first_damaged": first_offenders(self.damaged),
        }


@dataclass(frozen=True)
class Published:
    """Problems of the data sets that were found.

    Attributes:
        problems: one per data set, in the order of the published tables.
        found: by data set, what became of its parts `train` and `test`.
        absent: by data set, what was looked for and is not there.
    """

    problems: tuple[Problem, ...]
    found: dict[str, dict[str, Any]]
    absent: dict[str, str]


def published_suite(
    root: Path, shape: Shape, *, train: int, test: int, seed: int = 0
) -> Published:
    """Problems of those of the eight data sets that lie below `root`.

    Clips are a seeded choice among the annotated rows whose files are there; what is
    missing or damaged is counted. Frames are evenly spaced over the whole video, over
    each of `WINDOWS` parts of an untrimmed one, or over the two seconds around a key
    frame; pictures are stretched to squares. Classes are all that the annotations name,
    of AVA the 60 that are scored.

    Args:
        root: holds a folder per data set; see `layouts`.
        shape: (T, H, W) of the clips that the encoder reads.
        train: clips to adapt on, per problem, at most.
        test: clips to score on.
        seed: of the choice; public.

    Raises:
        NotAvailable: no data set is there, one has annotations but no videos, or PyAV
            is needed and missing.
        UserError: a damaged annotation file, or more clips than memory holds.
    """
    problems: list[Problem] = []
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for layout in layouts():
        files = layout.annotations(root)
        if not all(files):
            parts = zip((layout.train, layout.test), files, strict=True)
            wanted = [" or ".join(names) for names, there in parts if not there]
            absent[layout.name] = f"{layout.name}/ ({', '.join(wanted)})"
            continue
        segments = layout.read(files)
        classes = _classes(layout, [s.labels for part in segments for s in part])
        videos = Videos.below(root / folder for folder in layout.videos)
        decode = _decoder(layout.group, shape[0], min(shape[1:]))
        parts_of, tallies = [], {}
        for part, own, most in zip(
            ("train", "test"), segments, (train, test), strict=True
        ):
            rows = asked(layout.group, own, classes)
            order = np.random.default_rng([seed, 81]).permutation(len(rows))
            chosen = [rows[i] for i in order.tolist()]
            tally = Tally(len(rows))
            kept, clips = _decoded(layout.name, chosen, most, videos, decode, tally)
            fields = {"clip": clips, **answers(layout.group, kept, classes)}
            parts_of.append(Examples(fields, np.array([0, len(kept)], np.int64)))
            tallies[part] = tally.to_dict()
        found[layout.name] = tallies
        problems.append(
            Problem(
                name=layout.name,
                group=layout.group,
                classes=len(classes),
                train=parts_of[0],
                test=parts_of[1],
            )
        )
    if not problems:
        raise NotAvailable(
            f"{root} holds none of the VideoGLUE data sets; looked for "
            f"{'; '.join(absent.values())}."
        )
    return Published(tuple(problems), found, absent)


def _classes(layout: Layout, labels: Sequence[tuple[str, ...]]) -> list[str]:
    names = {name for own in labels for name in own}
    if layout.group is Group.SPATIO_TEMPORAL:
        names &= {str(number) for number in SCORED_AVA}
    if not names:
        raise UserError(f"{layout.name}: the annotations name no class.")
    return [str(name) for name in numbered(sorted(names))[0]]


def _decoder(group: Group, frames: int, side: int) -> Decode:
    """How a row's clip is read from a file that begins at some second of its video."""

    def whole(file: Path, row: Asked, begin: float) -> NDArray[np.uint8]:
        del row, begin
        return decode_clip(file, frames, side)

    def windows(file: Path, row: Asked, begin: float) -> NDArray[np.uint8]:
        del row, begin
        flat = decode_clip(file, WINDOWS * frames, side)
        return flat.reshape(WINDOWS, frames, side, side, 3)

    def around(file: Path, row: Asked, begin: float) -> NDArray[np.uint8]:
        time = row.time - begin
        return decode_stretch(file, frames, side, max(time - AROUND, 0), time + AROUND)

    special = {Group.TEMPORAL: windows, Group.SPATIO_TEMPORAL: around}
    return special.get(group, whole)


def _decoded(
    name: str,
    rows: Sequence[Asked],
    most: int,
    videos: Videos,
    decode: Decode,
    tally: Tally,
) -> tuple[list[Asked], NDArray[np.uint8]]:
    """The first rows that can be decoded, `most` at most, and their clips."""
    kept: list[Asked] = []
    clips: list[NDArray[np.uint8]] = []
    for row in rows:
        if len(kept) == most:
            break
        place = videos.find(row.video, row.time)
        if place is None:
            tally.missing += 1
            continue
        try:
            clip = decode(place[0], row, place[1])
        except BadImage as error:
            tally.damaged.append((place[0].name, str(error)))
            continue
        if clip.nbytes * (len(clips) + 1) > MEMORY_LIMIT:
            raise UserError(
                f"{name}: {most} clips of {clip.nbytes:,} bytes are more than is held "
                "in memory; give fewer --clips."
            )
        kept.append(row)
        clips.append(clip)
    tally.clips = len(kept)
    if not kept:
        damaged = first_offenders(tally.damaged)
        raise NotAvailable(
            f"{name}: of {tally.annotated:,} annotated videos or moments "
            f"{tally.missing:,} have no file and {len(tally.damaged):,} cannot be "
            f"read{': ' if damaged else ''}{damaged}; put the videos beside the "
            "annotations, or take the annotations away."
        )
    return kept, np.stack(clips)
