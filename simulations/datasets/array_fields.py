"""Which arrays of an archive are the examples: images, clips or poses."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.arrays import as_images, resized
from simulations.datasets.bad_rows import BadRows
from simulations.datasets.cameras import JOINTS

Arrays = Mapping[str, NDArray[np.generic]]

_POSES = ("keypoints", "pose3d")
_CLIPS = ("clips", "captions")
_DIM = 64  # images that nowhere are brighter are probably scaled wrongly


def names_of_fields(members: Collection[str], image_column: str | None) -> list[str]:
    """Arrays to read as examples, by what the archive has: images unless it has none.

    Example:
        >>> names_of_fields(["images", "labels", "users"], None)
        ['images']
        >>> names_of_fields(["pose3d", "labels", "users"], None)
        ['pose3d']
    """
    if image_column is None and "images" not in members:
        for kind in (_POSES, _CLIPS):
            found = [name for name in kind if name in members]
            if found and (kind is _POSES or "clips" in found):
                return found
    return [image_column or "images"]


def fields_of(
    arrays: Arrays, names: Collection[str], name: str, side: int | None, bad: BadRows
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    """Fields of a data set from arrays; rows with what is not finite go to `bad`.

    Args:
        arrays: of n rows each.
        names: what `names_of_fields` said.
        name: of the data set, for messages.
        side: of images and clips in pixels; None is their own.
        bad: of n rows.

    Returns:
        `image` `[n, H, W, C]`; or `clip` `[n, T, H, W, C]` and perhaps `caption`; or
        `keypoints` `[n, V, T, 13, 2]`, `pose3d` `[n, T, 13, 3]` or both. And notices.

    Raises:
        UserError: another shape, type or range.
    """
    if not set(names) <= {*_POSES, *_CLIPS}:
        (image,) = names
        return _images(arrays[image], name, side, bad)
    if "clips" in names:
        return _clips(arrays, name, side, bad)
    if side is not None:
        raise UserError(f"{name}: image_size={side} does not apply to poses.")
    return {key: _poses(key, arrays[key], name, bad) for key in names}, ()


def _images(
    pixels: NDArray[np.generic], name: str, side: int | None, bad: BadRows
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    images = as_images(pixels, name, bad)
    top = int(images.max())
    notices: tuple[str, ...] = ()
    if 0 < top < _DIM:
        notices = (
            f"the brightest pixel is {top} of 255; if {top} means white, divide the "
            f"images by {top}.",
        )
    return {"image": resized(images, side)}, notices


def _clips(
    arrays: Arrays, name: str, side: int | None, bad: BadRows
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    clips = arrays["clips"]
    if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise UserError(
            f"{name}: clips have the shape {clips.shape}; needed is [n, frames, "
            "height, width, 3]."
        )
    rows, frames = clips.shape[:2]
    broken = BadRows(rows * frames)
    flat, notices = _images(clips.reshape(-1, *clips.shape[2:]), name, side, broken)
    for row in np.flatnonzero(~broken.good.reshape(rows, frames).all(1)).tolist():
        bad.add(row, "pixels that are not finite")
    pixels = flat["image"]
    found = {"clip": pixels.reshape(rows, frames, *pixels.shape[1:])}
    if "captions" in arrays:
        captions = arrays["captions"]
        if captions.ndim != 1 or captions.dtype.kind != "U":
            raise UserError(f"{name}: captions must be text, one for each clip.")
        found["caption"] = captions
    return found, notices


def _poses(
    key: str, poses: NDArray[np.generic], name: str, bad: BadRows
) -> NDArray[np.float32]:
    axes = {
        "pose3d": (4, "[n, frames, 13, 3]"),
        "keypoints": (5, "[n, views, frames, 13, 2]"),
    }
    ndim, said = axes[key]
    last = (len(JOINTS), 3 if key == "pose3d" else 2)
    if poses.ndim != ndim or poses.shape[-2:] != last or 0 in poses.shape:
        raise UserError(
            f"{name}: {key} has the shape {poses.shape}; needed is {said}, with the "
            f"joints {', '.join(JOINTS)}."
        )
    if poses.dtype.kind not in "fiu":
        raise UserError(f"{name}: {key} of type {poses.dtype} is no position.")
    found = np.asarray(poses, dtype=np.float32)
    finite = np.isfinite(found).reshape(len(found), -1).all(1)
    for row in np.flatnonzero(~finite).tolist():
        bad.add(row, f"{key} is not finite")
    return found
