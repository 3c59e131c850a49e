"""Pictures as a backbone reads them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def pixels(images: NDArray[np.generic], max_side: int | None = None) -> Tensor:
    """`[n, H, W, C]`, bytes or floats in [0, 1], as float32 x / 128 - 1 `[n, C, H, W]`.

    The published preprocessing: values from -1 to 0.992. Pictures with a side beyond
    `max_side` are averaged over areas.

    Example:
        >>> pixels(np.full((1, 4, 4, 1), 192, np.uint8), max_side=2).tolist()
        [[[[0.5, 0.5], [0.5, 0.5]]]]
    """
    values = torch.from_numpy(np.ascontiguousarray(images))
    height, width, _ = reduced_shape(images.shape[1:], max_side)
    times = images.shape[1] // height
    if times > 1 and (height * times, width * times) == images.shape[1:3]:
        total, count = _sums_of_squares(values, times), times**2
    else:
        total, count = values.permute(0, 3, 1, 2).contiguous(), 1
        total = total.to(torch.float32, copy=True)  # never the caller's own memory
    if values.is_floating_point():
        total.mul_(255.0)
    found = total.div_(128.0).sub_(count)
    if count > 1:
        found.div_(count)
    return (
        found if found.shape[2:] == (height, width) else _pooled(found, height, width)
    )


def reduced_shape(shape: tuple[int, ...], max_side: int | None) -> tuple[int, ...]:
    """`(H, W, C)` with H and W of at most `max_side`, in proportion.

    Example:
        >>> reduced_shape((64, 128, 3), 32)
        (16, 32, 3)
    """
    height, width, *rest = shape
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return shape
    scale = max_side / longest
    return (max(1, round(height * scale)), max(1, round(width * scale)), *rest)


def _pooled(images: Tensor, height: int, width: int) -> Tensor:
    if len(images) == 0:
        return images.new_zeros(0, images.shape[1], height, width)
    return nn.functional.adaptive_avg_pool2d(images, (height, width))


def _sums_of_squares(images: Tensor, side: int) -> Tensor:
    """The sum of every `side` x `side` pixels, float32 `[n, C, H, W]`.

    Bytes are moved while they are bytes, a quarter of the memory, and added exactly.
    """
    rows = torch.unflatten(images, 2, (-1, side))
    squares = torch.unflatten(rows, 1, (-1, side))
    aside = squares.permute(2, 4, 0, 5, 1, 3).flatten(0, 1)
    return aside.sum(0, dtype=torch.float32)
