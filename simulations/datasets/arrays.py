"""Pixels that come as arrays: which are accepted, and how they become uint8."""

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.bad_rows import BadRows

_HALF_WHITE = 128


def as_images(
    images: NDArray[np.generic], name: str, bad: BadRows
) -> NDArray[np.uint8]:
    """Images uint8 `[n, H, W, C]` from `[n, H, W]`, `[n, H, W, C]` or `[n, C, H, W]`.

    C is 1 or 3; channels first are recognised where the last axis is neither. Accepted
    are uint8; booleans (True is 255); other integers within 0 .. 255; floats within
    [0, 1], scaled by 255; and floats within [0, 255] that reach at least 128. Float
    rows that are not finite go to `bad`.

    Raises:
        UserError: another shape or another range.
    """
    if images.ndim == 3:
        images = images[..., None]
    if (
        images.ndim == 4
        and images.shape[-1] not in (1, 3)
        and images.shape[1] in (1, 3)
    ):
        images = np.moveaxis(images, 1, -1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{name}: images have the shape {images.shape}; needed is [n, height, "
            "width] or [n, height, width, channels] with 1 or 3 channels, last."
        )
    if images.dtype == np.uint8:
        return np.asarray(images, dtype=np.uint8)
    if images.dtype == np.bool_:
        return np.asarray(images, dtype=np.uint8) * np.uint8(255)
    if not np.issubdtype(images.dtype, np.number) or np.iscomplexobj(images):
        raise UserError(f"{name}: images of type {images.dtype} are not pixels.")
    return _scaled(images, name, bad)


def _scaled(images: NDArray[np.generic], name: str, bad: BadRows) -> NDArray[np.uint8]:
    top = 255.0 if np.issubdtype(images.dtype, np.integer) else _white(images)
    out = np.empty(images.shape, dtype=np.uint8)
    for row, image in enumerate(images):
        pixels = np.asarray(image, dtype=np.float64)
        if not np.isfinite(pixels).all():
            bad.add(row, "pixels that are not finite")
            out[row] = 0
            continue
        if pixels.min() < 0 or pixels.max() > top:
            raise UserError(
                f"{name}: image {row} has values from {pixels.min():g} to "
                f"{pixels.max():g}; {images.dtype} pixels must lie in [0, {top:g}]. "
                "Scale them to [0, 1] (divide by what means white), or store uint8."
            )
        out[row] = np.rint(pixels * (255.0 / top))
    return out


def _white(images: NDArray[np.generic]) -> float:
    """What white is in float images: 255 where they reach beyond its half, else 1."""
    top = 0.0
    for image in images:  # one at a time: an archive may be large
        pixels = np.asarray(image, dtype=np.float64)
        top = max(top, float(np.max(pixels, where=np.isfinite(pixels), initial=0.0)))
    return 255.0 if top >= _HALF_WHITE else 1.0


def resized(images: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """Images stretched to `side` x `side`, averaging areas; as they are if None."""
    if side is None or images.shape[1:3] == (side, side):
        return images
    from PIL import Image

    channels = images.shape[-1]
    out = np.empty((len(images), side, side, channels), dtype=np.uint8)
    for row, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        small = picture.resize((side, side), Image.Resampling.BOX)
        out[row] = np.asarray(small).reshape(side, side, channels)
    return out
