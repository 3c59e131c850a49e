"""From an image file to a small array, trusting nothing in the file."""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedemb.cores import usable_cores
from fedemb.errors import NotAvailable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
"""Larger images are refused unread: they are bombs or mistakes."""

MAX_BYTES = 256 << 20
"""Larger files are refused unread."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"})


class BadImage(ValueError):
    """An image cannot be used; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are read."""

    width: int
    height: int
    grey: bool


def read_header(source: Path | bytes) -> Header:
    """Size and kind of an image, without decoding it.

    Raises:
        BadImage: not an image, or larger than `MAX_PIXELS`.
    """
    with guarded(), opened(source) as image:
        return Header(image.width, image.height, image.mode in _GREY_MODES)


def decode(
    source: Path | bytes, side: int | tuple[int, int], channels: int
) -> NDArray[np.uint8]:
    """The first frame, upright, stretched to `side`, as uint8 `[H, W, channels]`.

    Transparent pixels become white; deep grey is scaled from [0, 1], [0, 255] or
    [0, 65535], the smallest that holds its values.

    Args:
        source: file, or the content of one.
        side: of the square, or (height, width).
        channels: 1 (grey) or 3 (RGB).

    Raises:
        BadImage: truncated, damaged, empty, too large, or not an image.
    """
    height, width = (side, side) if isinstance(side, int) else side
    with guarded(), opened(source) as found:
        from PIL import Image, ImageOps

        if found.format == "JPEG":  # decode at the nearest larger eighth of the size
            found.draft("L" if channels == 1 else "RGB", (width, height))
        image: Image.Image = ImageOps.exif_transpose(found)
        image = _plain(image, channels)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BOX, reducing_gap=2)
        return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def decode_all(
    sources: Sequence[Path | bytes],
    side: int | tuple[int, int],
    channels: int,
    workers: int | None = None,
) -> Iterator[NDArray[np.uint8] | BadImage]:
    """`decode` each in turn over threads, giving the error in place of a bad image.

    Decoding and resizing release the interpreter lock, so threads are enough.
    """

    def one(source: Path | bytes) -> NDArray[np.uint8] | BadImage:
        try:
            return decode(source, side, channels)
        except BadImage as error:
            return error

    workers = workers or usable_cores()
    if workers == 1 or len(sources) < 64:
        yield from map(one, sources)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(sources), 1024):  # bounds what waits to be taken
            yield from pool.map(one, sources[start : start + 1024])


def image_files(root: Path) -> dict[str, Path]:
    """Image files below a folder by name without suffix; links that lead out are not.

    The first of several equal names, in sorted order, is taken.
    """
    found: dict[str, Path] = {}
    real = root.resolve()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                path = Path(folder) / name
                if not path.is_symlink() or path.resolve().is_relative_to(real):
                    found.setdefault(stem, path)
    return found


def opened(source: Path | bytes) -> "Image":
    """An image, opened and measured but not decoded; call it inside `guarded`."""
    from PIL import Image

    if isinstance(source, Path):
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise BadImage("not a regular file")
        if status.st_size > MAX_BYTES:
            raise BadImage(f"file of more than {MAX_BYTES >> 20} MiB")
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.open(stream, formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise BadImage(f"{image.width} x {image.height} pixels, too large")
    return image


def _plain(image: "Image", channels: int) -> "Image":
    """The image in mode L or RGB."""
    from PIL import Image

    if image.mode in ("I", "F", "I;16", "I;16B"):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise BadImage("pixels that are not finite")
        top = next((t for t in (1.0, 255.0) if values.max() <= t), 65535.0)
        values = values.clip(0, top) * (255 / top)
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def guarded() -> Iterator[None]:
    """Turns everything that a broken image file can raise into `BadImage`."""
    try:
        yield
    except (BadImage, NotAvailable, MemoryError):
        raise
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except Exception as error:  # OSError, SyntaxError, struct.error, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        if reason.startswith("cannot identify"):
            reason = "not an image of a known format"
        raise BadImage(reason) from error
