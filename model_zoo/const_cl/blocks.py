"""Convolutions over space and time, as 2D convolutions of re-arranged clips.

Every convolution of the published network is separable in space and time but the first.
They run over frames, over time alone, and, in the first, over frames stacked as
channels: counts are the same, and engines have a rule for them. GroupNorm stands for
batch normalisation, whose statistics no noise protects.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_zoo.image.norms import group_norm


class Stem(nn.Module):
    """A strided convolution over space and time, normalised, and a maximum.

    Args:
        filters: of the convolution.
        kernel: (t, h, w).
        stride: (t, h, w).
        groups: of the normalisation.
        pool: whether a 3 x 3 maximum over space with stride 2 follows.
        pool_every: stride in time of the maximum, over 3 frames if above 1.
    """

    def __init__(
        self,
        filters: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int],
        *,
        groups: int,
        pool: bool,
        pool_every: int,
    ) -> None:
        super().__init__()
        t, h, w = kernel
        self.frames, self.every = t, stride[0]
        self.pool, self.pool_every = pool, pool_every
        self.conv = nn.Conv2d(
            3 * t,
            filters,
            (h, w),
            stride=stride[1:],
            padding=(h // 2, w // 2),
            bias=False,
        )
        self.norm = group_norm(filters, groups)

    def forward(self, clips: Tensor) -> Tensor:
        """`[B, 3, T, H, W]` to `[B, C, T', H', W']`."""
        half = self.frames // 2
        padded = F.pad(clips, (0, 0, 0, 0, half, half))
        count = (clips.shape[2] - 1) // self.every + 1
        shifted = [
            padded[:, :, i : i + (count - 1) * self.every + 1 : self.every]
            for i in range(self.frames)
        ]
        x = torch.relu(self.norm(over_frames(self.conv, torch.cat(shifted, dim=1))))
        if not self.pool:
            return x
        x = over_frames(lambda y: F.max_pool2d(y, 3, stride=2, padding=1), x)
        if self.pool_every == 1:
            return x
        every = (self.pool_every, 1)
        return over_time(
            lambda y: F.max_pool2d(y, (3, 1), stride=every, padding=(1, 0)), x
        )


class Bottleneck(nn.Module):
    """Convolutions over time, over space, and over channels, beside a shortcut."""

    def __init__(
        self,
        inputs: int,
        width: int,
        temporal: int,
        stride: int,
        groups: int,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = outputs = 4 * width
        self.time = nn.Conv2d(
            inputs, width, (temporal, 1), padding=(temporal // 2, 0), bias=False
        )
        self.space = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.widen = nn.Conv2d(width, outputs, 1, bias=False)
        self.norms = nn.ModuleList(
            group_norm(channels, groups) for channels in (width, width, outputs)
        )
        self.skip = self.skip_norm = None
        if stride > 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.skip_norm = group_norm(outputs, groups)
        self.gate = Gate(outputs) if gated else None
        self.end = nn.Identity()  # where an adapter may stand

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to `[B, C', T, H', W']`."""
        first, second, third = self.norms
        y = torch.relu(first(over_time(self.time, x)))
        y = torch.relu(second(over_frames(self.space, y)))
        y = third(over_frames(self.widen, y))
        if self.gate is not None:
            y = self.gate(y)
        if self.skip is not None and self.skip_norm is not None:
            x = self.skip_norm(over_frames(self.skip, x))
        out: Tensor = self.end(torch.relu(x + y))
        return out


class Gate(nn.Module):
    """Every channel times a number in (0, 1) that the means of all channels set.

    Self-gating of S3D-G (Xie et al. 2018, arXiv:1712.04851): C^2 + C parameters.

    Example:
        >>> gate = Gate(2)
        >>> _ = [nn.init.zeros_(p) for p in gate.parameters()]
        >>> gate(torch.ones(1, 2, 3, 4, 4)).unique().tolist()
        [0.5]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.mix.weight, std=0.01)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to the same."""
        share = torch.sigmoid(self.mix(x.mean((2, 3, 4))))
        return x * share[..., None, None, None]


def over_frames(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A 2D layer on every frame of `[B, C, T, H, W]`."""
    frames = layer(x.transpose(1, 2).flatten(0, 1))
    back: Tensor = torch.unflatten(frames, 0, (x.shape[0], x.shape[2]))
    return back.transpose(1, 2)


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A 2D layer whose rows are time and whose columns are places."""
    found = layer(x.flatten(3))
    back: Tensor = torch.unflatten(found, 3, x.shape[3:])
    return back
