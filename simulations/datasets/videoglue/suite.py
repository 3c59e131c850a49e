"""A generated problem of each kind: public clips, never those trained on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from model_zoo.videoglue.problems import Problem
from model_zoo.videoglue.score import Group
from simulations.datasets.clip_world.actions import ACTIONS
from simulations.datasets.clip_world.untrimmed import EVENTS, LongClips
from simulations.datasets.clip_world.world import Clips
from simulations.datasets.clips import AppearanceClips, MotionClips
from simulations.datasets.generated import Generated

PUBLIC_SEED = 2307_03166
"""No private population has this seed unless a person asks for it."""


def generated_suite(
    shape: tuple[int, int, int], *, train: int = 512, test: int = 512
) -> tuple[Problem, ...]:
    """Appearance, motion, multi-label, temporal and spatio-temporal problems.

    Clips are procedural; users of the training part are not those of the test part. The
    two parts have the same classes.

    Args:
        shape: (T, H, W) of the clips that the encoder reads. The world films eight
            square frames; they are repeated, or left out evenly, to make T.
        train: clips to adapt on, per problem.
        test: clips to score on.
    """
    side = min(shape[1:])
    appearance = AppearanceClips(10_000, PUBLIC_SEED, side)
    motion = MotionClips(10_000, PUBLIC_SEED, side)
    clips = Clips(10_000, PUBLIC_SEED, side)
    long = LongClips(10_000, PUBLIC_SEED, side)
    return (
        _labelled("appearance", Group.APPEARANCE, appearance, shape, train, test),
        _labelled("motion", Group.MOTION, motion, shape, train, test),
        Problem(
            name="events",
            group=Group.MULTI_LABEL,
            classes=len(ACTIONS),
            train=_some(clips, 0, train, shape),
            test=_some(clips, 5_000, test, shape),
        ),
        Problem(
            name="stretches",
            group=Group.TEMPORAL,
            classes=len(EVENTS),
            train=_sequences(long, 0, max(train // 8, 1), shape),
            test=_sequences(long, 5_000, max(test // 8, 1), shape),
        ),
        Problem(
            name="boxes",
            group=Group.SPATIO_TEMPORAL,
            classes=len(ACTIONS),
            train=_boxed(_some(clips, 0, train, shape)),
            test=_boxed(_some(clips, 5_000, test, shape)),
        ),
    )


def _labelled(
    name: str,
    group: Group,
    data: Generated,
    shape: tuple[int, int, int],
    train: int,
    test: int,
) -> Problem:
    return Problem(
        name=name,
        group=group,
        classes=data.num_classes,
        train=_some(data, 0, train, shape),
        test=_some(data, 5_000, test, shape),
    )


def _some(
    data: Generated, first: int, count: int, shape: tuple[int, int, int]
) -> Examples:
    """The first rows of users from `first` on."""
    each = data.classes_per_user * data.repeats
    users = np.arange(first, first + -(-count // each), dtype=np.int64)
    rows = dict(data.fetch(users).take(np.arange(count, dtype=np.int64)))
    rows["clip"] = _retimed(rows["clip"], shape[0])
    return Examples(rows, np.array([0, count], np.int64))


def _retimed(clips: NDArray[Any], frames: int) -> NDArray[Any]:
    """Clips `[..., T, H, W, 3]` of another number of frames, evenly spread."""
    given = clips.shape[-4]
    if given == frames:
        return clips
    at = (np.arange(frames) * given // frames).astype(np.int64)
    return np.asarray(np.take(clips, at, axis=-4))


def _sequences(
    data: LongClips, first: int, count: int, shape: tuple[int, int, int]
) -> Examples:
    rows = _some(data, first, count, (data.windows * data.frames, *shape[1:])).fields
    clip = rows["clip"]
    windows = clip.reshape(count, data.windows, data.frames, *clip.shape[2:])
    stretches = np.stack([rows["start"], rows["end"], rows["event"]], axis=-1)
    fields = {
        "clip": _retimed(windows, shape[0]),
        "stretches": stretches.astype(np.float32),
    }
    return Examples(fields, np.array([0, count], np.int64))


def _boxed(examples: Examples) -> Examples:
    """Boxes of the middle frame, with everything that each thing does."""
    fields = examples.fields
    boxes = fields["boxes"][:, fields["boxes"].shape[1] // 2]
    rows = {"clip": fields["clip"], "boxes": boxes, "actions": fields["doing"]}
    return Examples(rows, examples.offsets)
