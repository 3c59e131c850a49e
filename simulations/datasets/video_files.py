"""From a video to a few small frames, trusting nothing in the file.

MP4, WebM and their like are decoded by PyAV (extra `video`); GIF, animated WebP and
folders of frames by Pillow alone.
"""

import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import NotAvailable
from simulations.datasets.images import (
    MAX_PIXELS,
    SUFFIXES,
    BadImage,
    decode,
    guarded,
    opened,
)

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 2 << 30
"""Larger files are refused unread."""

MAX_FRAMES = 20_000
"""Longer videos are refused: cut them into clips."""

MAX_WORK = 20_000_000_000
"""More pixels than this, over all frames, are not decoded: 20 minutes of 1080p at 8
frames a second."""

ANIMATIONS = frozenset({".gif", ".webp"})
VIDEOS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".webm": "matroska",
    ".mkv": "matroska",
    ".avi": "avi",
}
"""Container of each suffix. It is forced: a playlist in disguise, which names other
files or hosts to read, is then just a damaged file."""

_Frame = NDArray[np.uint8]


def decode_clip(source: Path, frames: int, side: int) -> NDArray[np.uint8]:
    """Evenly spaced frames of a whole video, uint8 `[frames, side, side, 3]`.

    The video is cut into `frames` parts of equal length, and the frame in the middle of
    each is taken; short videos repeat frames. Pictures are stretched to squares.

    Args:
        source: a file, or a folder of frames in the order of their names.
        frames: T.
        side: in pixels.

    Raises:
        BadImage: truncated, damaged, empty, too large, or not a video.
        NotAvailable: PyAV is needed and not installed.
    """
    if source.is_dir():
        return _from_folder(source, frames, side)
    suffix = source.suffix.lower()
    if suffix in ANIMATIONS:
        return _from_animation(source, frames, side)
    if suffix in VIDEOS:
        return _from_container(source, frames, side)
    raise BadImage("no such file" if not source.exists() else "not a known video")


def middles(total: int, frames: int) -> NDArray[np.int64]:
    """Numbers of the frames in the middle of equal parts, int64 `[frames]`.

    Example:
        >>> middles(16, 4).tolist(), middles(2, 4).tolist()
        ([2, 6, 10, 14], [0, 0, 1, 1])
    """
    return np.floor((np.arange(frames) + 0.5) * total / frames).astype(np.int64)


@dataclass
class Thinned:
    """Evenly spaced items of a stream of unknown length, in bounded memory.

    When twice `room` are held, every other one is dropped and only every other new one
    is kept from then on.

    Example:
        >>> some = Thinned(2)
        >>> for i in range(100):
        ...     some.add(i, lambda i: i)
        >>> some.kept
        [0, 32, 64, 96]
    """

    room: int
    kept: list[Any] = field(default_factory=list)
    seen: int = 0
    stride: int = 1

    def add(self, item: Any, make: Callable[[Any], Any]) -> None:
        """Take note of one more item; `make` is called if it is kept."""
        if self.seen % self.stride == 0:
            if len(self.kept) == 2 * self.room:
                self.kept = self.kept[::2]
                self.stride *= 2
            if self.seen % self.stride == 0:
                self.kept.append(make(item))
        self.seen += 1


def _from_folder(folder: Path, frames: int, side: int) -> _Frame:
    root = folder.resolve()
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    files.sort(key=lambda path: _in_order(path.name))
    if not files:
        raise BadImage("no frames")
    if len(files) > MAX_FRAMES:
        raise BadImage(f"more than {MAX_FRAMES:,} frames")
    for file in files:
        if file.is_symlink() and not file.resolve().is_relative_to(root):
            raise BadImage("a frame leads out of the folder")
    chosen = middles(len(files), frames)
    once = {i: decode(files[i], side, 3) for i in set(chosen.tolist())}
    return np.stack([once[i] for i in chosen.tolist()])


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sorts `frame_10` after `frame_9`."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def page_of(animation: "Image", side: int) -> _Frame:
    """The loaded frame of an animation, `[side, side, 3]`; transparency is white."""
    from PIL import Image

    page = Image.new("RGBA", animation.size, "white")
    page.alpha_composite(animation.convert("RGBA"))
    small = page.convert("RGB").resize(
        (side, side), Image.Resampling.BOX, reducing_gap=2
    )
    return np.asarray(small, dtype=np.uint8)


def _from_animation(file: Path, frames: int, side: int) -> _Frame:
    with guarded(), opened(file) as animation:
        total = getattr(animation, "n_frames", 1)
        if total > MAX_FRAMES:
            raise BadImage(f"more than {MAX_FRAMES:,} frames")
        if total * animation.width * animation.height > MAX_WORK:
            raise BadImage("too many pixels over all frames")
        chosen = middles(total, frames).tolist()
        once = {}
        for i in range(max(chosen) + 1):  # a frame may be a change of the one before
            animation.seek(i)
            animation.load()
            if i in chosen:
                once[i] = page_of(animation, side)
        return np.stack([once[i] for i in chosen])


@contextmanager
def opened_video(file: Path) -> Iterator[tuple[Any, Any]]:
    """A video file's container and its first track of pictures; use inside `guarded`.

    Raises:
        BadImage: no regular file, too large, or without pictures.
        NotAvailable: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise NotAvailable(
            f"PyAV is needed to read {file.name}; pip install 'fedemb[video]', or "
            "bring GIF files or folders of frames."
        ) from error
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise BadImage("not a regular file")
    if status.st_size > MAX_BYTES:
        raise BadImage(f"file of more than {MAX_BYTES >> 30} GiB")
    container = VIDEOS[file.suffix.lower()]
    # An open file rather than a name: the reader can then open nothing else.
    with file.open("rb") as content, av.open(content, format=container) as video:
        if not video.streams.video:
            raise BadImage("no video in it")
        track = video.streams.video[0]
        if track.width * track.height > MAX_PIXELS:
            raise BadImage(f"{track.width} x {track.height} pixels, too large")
        yield video, track


def _from_container(file: Path, frames: int, side: int) -> _Frame:
    found = Thinned(8 * frames)
    with guarded(), opened_video(file) as (video, track):
        last = read_frames(video.decode(track), found, side)
        seconds = _seconds(video, track)
        _refuse_truncated(found.seen, track.frames, last, seconds)
    if not found.kept:
        raise BadImage("no frames")
    return np.stack([found.kept[i] for i in middles(len(found.kept), frames)])


def read_frames(stream: Iterable[Any], found: Thinned, side: int) -> float:
    """Take every frame; the end of the last in seconds, as far as it is known."""

    def small(frame: Any) -> _Frame:
        plain = frame.reformat(width=side, height=side, format="rgb24")
        return np.asarray(plain.to_ndarray(), dtype=np.uint8)

    last, work = 0.0, 0
    for frame in stream:
        work += frame.width * frame.height
        if frame.width * frame.height > MAX_PIXELS:  # it may change on the way
            raise BadImage(f"{frame.width} x {frame.height} pixels, too large")
        if work > MAX_WORK:
            raise BadImage("too many pixels over all frames")
        if found.seen >= MAX_FRAMES:
            raise BadImage(f"more than {MAX_FRAMES:,} frames")
        found.add(frame, small)
        last = frame.time or last
    return last


def _seconds(video: Any, track: Any) -> float:
    """What the file says about the length of its pictures; 0 if it does not."""
    if track.duration:
        return float(track.duration * track.time_base)
    if video.streams.audio:  # may go on for longer
        return 0.0
    return (video.duration or 0) / 1_000_000


def _refuse_truncated(seen: int, told: int, last: float, seconds: float) -> None:
    """Compare what was decoded with what the container promised."""
    if told and seen < told - 1 - told // 50:
        raise BadImage(f"truncated: {seen} of {told} frames")
    if seen > 1 and seconds > 1 and last < 0.75 * seconds:
        raise BadImage(f"truncated: {last:.1f} of {seconds:.1f} seconds")
