"""Convolutions, without a slow place of the library that computes them."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def conv2d(
    images: Tensor,
    kernels: Tensor,
    offsets: Tensor | None,
    stride: Sequence[int],
    padding: str | Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """What `torch.nn.functional.conv2d` computes.

    oneDNN has no fast gradient of kernels that are larger than the images they are
    applied to, one channel at a time: 0.75 ms for 960 channels of 2 x 2 (2.9 ms in
    plain memory order), and 0.09 ms if the padding is written out before.

    Example:
        >>> import torch
        >>> images, kernels = torch.ones(1, 2, 2, 2), torch.ones(2, 1, 3, 3)
        >>> conv2d(images, kernels, None, (1, 1), (1, 1), (1, 1), 2).unique().tolist()
        [4.0]
    """
    if not isinstance(padding, str) and _outgrown(images, kernels, groups):
        rows, columns = padding
        images = F.pad(images, (columns, columns, rows, rows))
        padding = (0, 0)
    return F.conv2d(images, kernels, offsets, stride, padding, dilation, groups)


def _outgrown(images: Tensor, kernels: Tensor, groups: int) -> bool:
    """Whether single channels of images on a processor are smaller than kernels."""
    return (
        images.device.type == "cpu"
        and groups > 1
        and kernels.shape[1] == 1
        and any(
            side < own
            for side, own in zip(images.shape[2:], kernels.shape[2:], strict=True)
        )
    )
