"""Convolutions with normalisation, and the resizing that dense prediction needs.

Normalisation is by group and within one example (Wu and He 2018, arXiv:1803.08494), so
that rows stay apart; it has as many parameters as the published batch normalisation.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError

_EPS = 1e-3
_STRIDES = (4, 8, 16, 32)


def refuse_other_strides(output_stride: int) -> None:
    """Encoders halve the grid two to five times.

    Raises:
        UserError: if `output_stride` is none of 4, 8, 16 and 32.
    """
    if output_stride not in _STRIDES:
        raise UserError(f"output_stride={output_stride} must be 4, 8, 16 or 32.")


class Norm(Protocol):
    """Makes a normalisation of `[B, C, ...]` with a weight and a bias per channel."""

    def __call__(self, channels: int, groups: int | None = None) -> nn.Module:
        """For C `channels`; `groups` are normalised apart, None lets it choose."""
        ...


def group_norm(channels: int, groups: int | None = None) -> nn.Module:
    """GroupNorm, by default in at most 32 groups of at least 8 channels.

    Example:
        >>> group_norm(256).num_groups, group_norm(72).num_groups
        (32, 9)
    """  # noqa: E501 - torch's own representation
    if groups is None:
        most = min(32, max(1, channels // 8))
        groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=_EPS)


def batch_norm(channels: int, groups: int | None = None) -> nn.Module:
    """The published BatchNorm, for comparison only: it mixes examples.

    The core refuses to train a backbone that has one.
    """
    del groups
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=0.01)


def activation(name: str, values: Tensor) -> Tensor:
    """`relu`, `hard-swish` or `linear` of `values`."""
    if name == "relu":
        return F.relu(values)
    return F.hardswish(values) if name == "hard-swish" else values


class ConvNorm(nn.Module):
    """A bias-free convolution that keeps the grid, its normalisation, an activation.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the square kernel, odd.
        stride: every how manieth position is kept.
        rate: atrous rate, the distance of the kernel's taps.
        depthwise: whether every channel is convolved alone.
        act: `relu`, `hard-swish` or `linear`.
        norm: makes the normalisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        rate: int = 1,
        depthwise: bool = False,
        act: str = "relu",
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=rate * (kernel // 2),
            dilation=rate,
            groups=inputs if depthwise else 1,
            bias=False,
        )
        self.norm = norm(outputs)
        self.act = act

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', ceil(H / stride), ceil(W / stride)]`."""
        return activation(self.act, self.norm(self.conv(images)))


def fusing_conv(
    inputs: int, outputs: int, kernel: int, *, separable: bool, norm: Norm
) -> nn.Module:
    """A convolution; if `separable`, one per channel and then one per position."""
    if not separable:
        return ConvNorm(inputs, outputs, kernel, norm=norm)
    return nn.Sequential(
        ConvNorm(inputs, inputs, kernel, depthwise=True, norm=norm),
        ConvNorm(inputs, outputs, norm=norm),
    )


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of `[B, C, H, W]` that keeps the corners where they are.

    With H_out = k (H - 1) + 1 every input point is an output point.
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """Channels of a coarse map, resized to the grid of a fine one, and of that one."""
    height, width = fine.shape[-2:]
    return torch.cat([resize(coarse, (height, width)), fine], dim=1)


def initialise_(module: nn.Module) -> None:
    """He-normal kernels (by fan-out); normalisations stay as their owners set them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


NORMS = {"group": group_norm, "batch": batch_norm}
conv_1x1 = partial(ConvNorm, kernel=1)
