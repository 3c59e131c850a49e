"""Views: several mildly distorted copies of every image, for local training.

Where a user has one example of a class, only a second view of the same example can say
what belongs together (Chen et al. 2020, arXiv:2002.05709). Views are made inside the
virtual client, from its own rows and its own seed, and never leave it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

AUGMENTS = ("affine", "affine-colour")
_TURN = math.radians(15)
_SHEAR, _ZOOM, _SHIFT = 0.2, 0.2, 0.15
_LIGHT = 0.4


def views_of(
    images: Tensor,
    offsets: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    views: int,
    augment: str = "affine",
) -> Tensor:
    """`views` distorted copies of each image: `[n, C, H, W]` -> `[n, views, C, H, W]`.

    `affine` turns by up to 15 degrees, shears by up to 0.2, zooms by up to 20 % along
    either axis and shifts by up to 15 % of half a side, all uniform; beyond its border
    an image goes on with the pixels of the border. `affine-colour` also scales contrast
    and shifts brightness by up to 40 %, each channel a little differently.

    Args:
        images: rows of all groups, values in [-1, 1].
        offsets: `[groups + 1]`; group g owns rows `offsets[g]:offsets[g + 1]`.
        seeds: `[groups]`; the views of a group depend on its own rows and seed alone.
        views: copies of each image.
        augment: one of `AUGMENTS`.
    """
    n, channels, height, width = images.shape
    if n == 0:
        return images.new_zeros(0, views, channels, height, width)
    drawn = _uniforms(offsets, seeds, views, 6 + 2 * (channels + 1))
    turn, shear, zoom_x, zoom_y, shift_x, shift_y = drawn[:, :6].unbind(1)
    angle = _TURN * turn
    cos, sin = angle.cos(), angle.sin()
    x, y = torch.exp(_ZOOM * zoom_x), torch.exp(_ZOOM * zoom_y)
    slant = _SHEAR * shear
    top = torch.stack([x * cos, x * (slant * cos - sin), _SHIFT * shift_x], 1)
    bottom = torch.stack([y * sin, y * (slant * sin + cos), _SHIFT * shift_y], 1)
    maps = torch.stack([top, bottom], 1)
    grid = _grid(maps, height, width)
    copies = images.repeat_interleave(views, 0)
    copies = F.grid_sample(copies, grid, padding_mode="border", align_corners=False)
    if augment == "affine-colour":
        copies = _recoloured(copies, drawn[:, 6:])
    return torch.unflatten(copies, 0, (n, views))


def _grid(maps: Tensor, height: int, width: int) -> Tensor:
    """What `affine_grid` computes from `[n, 2, 3]`, `[n, H, W, 2]`, in a third of it.

    The map of a pixel is a share of its column and a share of its row: one sum for each
    pixel, where a product of matrices takes three.
    """
    columns = (2 * torch.arange(width) + 1) / width - 1
    rows = (2 * torch.arange(height) + 1) / height - 1
    along = maps[:, None, :, 0] * columns[:, None]
    down = maps[:, None, :, 1] * rows[:, None] + maps[:, None, :, 2]
    return along[:, None] + down[:, :, None]


def _recoloured(images: Tensor, drawn: Tensor) -> Tensor:
    """Contrast and brightness, common to all channels and a little of each channel."""
    channels = images.shape[1]
    contrast, light = drawn[:, : channels + 1], drawn[:, channels + 1 :]
    contrast = torch.exp(_LIGHT * (contrast[:, :1] + contrast[:, 1:] / 4))
    light = _LIGHT * (light[:, :1] + light[:, 1:] / 4)
    changed = images * contrast[..., None, None] + light[..., None, None]
    return changed.clamp(-1.0, 1.0)


def _uniforms(
    offsets: NDArray[np.int64], seeds: NDArray[np.uint64], views: int, count: int
) -> Tensor:
    """Uniform on [-1, 1), float32 `[n * views, count]`, drawn group by group."""
    parts = [
        np.random.Generator(np.random.Philox(key=[int(seed), _STREAM])).random(
            (int(size) * views, count), dtype=np.float32
        )
        for size, seed in zip(np.diff(offsets), seeds, strict=True)
    ]
    empty = np.zeros((0, count), np.float32)
    return torch.from_numpy(np.concatenate([empty, *parts])) * 2 - 1


_STREAM = 0x7669657773  # keeps this stream apart from the one that orders the rows
