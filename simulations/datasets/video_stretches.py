"""Frames of a stretch of a video, without decoding what lies before and after it."""

from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.images import BadImage, guarded, opened
from simulations.datasets.video_files import (
    ANIMATIONS,
    MAX_FRAMES,
    VIDEOS,
    Thinned,
    middles,
    opened_video,
    page_of,
    read_frames,
)

_DEFAULT_SHOWN = 100  # milliseconds that a frame without a duration is shown


def decode_stretch(
    source: Path, frames: int, side: int, start: float, end: float
) -> NDArray[np.uint8]:
    """Evenly spaced frames of a stretch, uint8 `[frames, side, side, 3]`.

    The stretch is cut into `frames` parts of equal numbers of frames, and the one in
    the middle of each is taken. Reading starts at the key frame before the stretch.

    Args:
        source: a file with a clock: a video, GIF or animated WebP.
        frames: T.
        side: in pixels.
        start: seconds from the beginning of the video.
        end: seconds; frames at or after it are not taken.

    Raises:
        BadImage: damaged, too large, not a video, or without frames in the stretch.
        NotAvailable: PyAV is needed and not installed.
    """
    suffix = source.suffix.lower()
    if suffix in ANIMATIONS:
        return _of_animation(source, frames, side, start, end)
    if suffix not in VIDEOS:
        raise BadImage("not a known video")
    found = Thinned(8 * frames)
    with guarded(), opened_video(source) as (video, track):
        zero = float((track.start_time or 0) * track.time_base)
        if start > 0:
            video.seek(int((zero + start) / track.time_base), stream=track)
        before = takewhile(
            lambda frame: (frame.time or 0.0) - zero < end, video.decode(track)
        )
        inside = (f for f in before if (f.time or 0.0) - zero >= start)
        read_frames(inside, found, side)
    if not found.kept:
        raise BadImage(f"no frames from {start:g} to {end:g} seconds")
    return np.stack([found.kept[i] for i in middles(len(found.kept), frames)])


def _of_animation(
    file: Path, frames: int, side: int, start: float, end: float
) -> NDArray[np.uint8]:
    found, clock = Thinned(8 * frames), 0  # whole milliseconds
    with guarded(), opened(file) as animation:
        for i in range(min(getattr(animation, "n_frames", 1), MAX_FRAMES)):
            animation.seek(i)
            animation.load()
            if start <= clock / 1000 < end:
                found.add(animation, lambda page: page_of(page, side))
            clock += int(animation.info.get("duration") or _DEFAULT_SHOWN)
            if clock / 1000 >= end:
                break
    if not found.kept:
        raise BadImage(f"no frames from {start:g} to {end:g} seconds")
    return np.stack([found.kept[i] for i in middles(len(found.kept), frames)])
