"""Files a person asks about, as examples of the kind a run was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.errors import UserError
from simulations.datasets.images import BadImage, decode
from simulations.datasets.video_files import ANIMATIONS, VIDEOS, decode_clip

Fields = Mapping[str, NDArray[np.generic]]


def read_queries(paths: Sequence[Path], like: Examples) -> Examples:
    """A group per file: one row of an image, or the rows of an `.npz` file.

    Args:
        paths: image files where the first field of `like` holds images; videos,
            animations, folders of frames, or pictures as still clips where it holds
            clips; `.npz` files, whose arrays bear the names of its fields, for every
            kind.
        like: examples of the kind wanted. Fields that a file does not have are blank:
            zeros, or empty text.

    Raises:
        UserError: naming the first file that cannot be read, and why.
        NotAvailable: PyAV is needed and not installed.
    """
    parts = [_read(path, like.fields) for path in paths]
    rows = {
        name: np.concatenate([part[name] for part in parts]) for name in like.fields
    }
    sizes = [len(next(iter(part.values()))) for part in parts]
    return Examples(rows, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _read(path: Path, like: Fields) -> Fields:
    if path.suffix == ".npz":
        return _blanks(_arrays(path, like), like)
    name, first = next(iter(like.items()))
    shape = first.shape[1:]
    if len(shape) not in (3, 4) or shape[-1] not in (1, 3):
        raise UserError(
            f"{path} is not an .npz file; this run was trained on {name} of shape "
            f"{shape}: give .npz files with {_wanted(like)}."
        )
    moving = len(shape) == 4 and (
        path.is_dir() or path.suffix.lower() in (*ANIMATIONS, *VIDEOS)
    )
    try:
        found = _clip(path, shape) if moving else decode(path, shape[-3:-1], shape[-1])
    except (BadImage, OSError) as error:
        kind = "a clip" if moving else "an image"
        raise UserError(f"{path} cannot be read as {kind}: {error}.") from error
    if np.issubdtype(first.dtype, np.floating):
        found = (found / 255).astype(first.dtype)
    return _blanks({name: np.broadcast_to(found, (1, *shape))}, like)


def _clip(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    frames, height, width, colours = shape
    if height != width or colours != 3:
        raise BadImage(
            f"clips of {height} x {width} pixels in {colours} colours are read from "
            ".npz files alone"
        )
    return decode_clip(path, frames, height)


def _arrays(path: Path, like: Fields) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in like}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}.") from error
    first = next(iter(like))
    if first not in found:
        raise UserError(f"{path} has no array {first!r}; it needs {_wanted(like)}.")
    for name, values in found.items():
        if values.shape[1:] != like[name].shape[1:]:
            raise UserError(
                f"{path}: {name} has the shape {values.shape}, and the run was trained "
                f"on {_shown(like[name])}: one row per example, even for one alone."
            )
        if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
            raise UserError(
                f"{path}: {name} has values that are not finite; leave those rows out."
            )
        if len(values) != len(found[first]):
            raise UserError(
                f"{path}: {name} has {len(values)} rows and {first} has "
                f"{len(found[first])}; every array needs one row per example."
            )
    return found


def _wanted(like: Fields) -> str:
    """The array that an `.npz` file must have, and those that it may have."""
    first, *others = like
    more = f"; {', '.join(others)} if there are any" if others else ""
    return f"an array {first!r} {_shown(like[first])}{more}"


def _shown(values: NDArray[np.generic]) -> str:
    return f"[n, {', '.join(map(str, values.shape[1:]))}]"


def _blanks(found: Fields, like: Fields) -> Fields:
    count = len(next(iter(found.values())))
    return {
        name: found[name]
        if name in found
        else np.zeros((count, *values.shape[1:]), values.dtype)
        for name, values in like.items()
    }
