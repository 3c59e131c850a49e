"""The 3D ResNet with two heads: two branches that share all but the last group.

Every convolution of the published network is separable in space and time but the first,
so all are written as 2D convolutions of re-arranged clips: over frames, over time
alone, and, in the first, over frames stacked as channels. Counts are the same, and
engines have a rule for them. GroupNorm stands for batch normalisation, whose statistics
no noise protects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.image.norms import group_norm

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ResNetShape:
    """Sizes of the network.

    Attributes:
        stem: filters of the first convolution.
        kernel: (t, h, w) of the first convolution.
        stride: (t, h, w) of the first convolution.
        pool: whether a 3 x 3 maximum over space with stride 2 follows it.
        blocks: bottlenecks of each group.
        widths: of each group; outputs are four times as wide.
        temporal: kernel in time of the first convolution of every block, per group.
        norm_groups: of GroupNorm.
        branches: 2 has the local branch, 1 the global one alone.

    Raises:
        UserError: lists of different lengths, or even kernels in time.
    """

    stem: int = 64
    kernel: Triple = (5, 7, 7)
    stride: Triple = (2, 2, 2)
    pool: bool = True
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    temporal: tuple[int, ...] = (1, 1, 3, 3)
    norm_groups: int = 32
    branches: int = 2

    def __post_init__(self) -> None:
        if not len(self.blocks) == len(self.widths) == len(self.temporal):
            raise UserError(
                f"blocks={self.blocks}, widths={self.widths} and temporal="
                f"{self.temporal} need one number per group."
            )
        if any(k % 2 == 0 for k in (*self.temporal, self.kernel[0])):
            raise UserError(
                f"temporal={self.temporal} and kernel={self.kernel}: kernels in time "
                "must be odd."
            )
        if self.branches not in (1, 2):
            raise UserError(f"branches={self.branches} must be 1 or 2.")

    @property
    def outputs(self) -> int:
        """Channels of the last group."""
        return 4 * self.widths[-1]


class Maps(NamedTuple):
    """What the network makes of clips, `[B, C, t, h, w]` each.

    Attributes:
        holistic: of the branch that the global loss sees.
        local: of the branch that the local loss sees; the same with one branch.
    """

    holistic: Tensor
    local: Tensor


class TwoHeadedResNet(nn.Module):
    """Clips `[B, 3, T, H, W]` to embeddings `[B, C]`: the mean of the global branch.

    Example:
        >>> shape = ResNetShape(stem=8, kernel=(3, 3, 3), stride=(1, 2, 2), pool=False,
        ...                     blocks=(1, 1), widths=(4, 8), temporal=(1, 3),
        ...                     norm_groups=2)
        >>> TwoHeadedResNet(shape)(torch.zeros(2, 3, 4, 16, 16)).shape
        torch.Size([2, 32])
    """

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = Stem(shape)
        groups, inputs = [], shape.stem
        for number in range(len(shape.blocks)):
            groups.append(_group(shape, number, inputs))
            inputs = 4 * shape.widths[number]
        self.shared = nn.ModuleList(groups[:-1])
        self.holistic = groups[-1]
        if shape.branches == 2:
            last = len(shape.blocks) - 1
            before = 4 * shape.widths[last - 1] if last else shape.stem
            self.local = _group(shape, last, before)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, clips: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, C]
        """One embedding per clip."""
        return self.maps(clips).holistic.mean((2, 3, 4))

    def maps(self, clips: Tensor) -> Maps:
        """The outputs of both branches."""
        x = self._shared(clips)[-1]
        holistic = self.holistic(x)
        return Maps(holistic, self.local(x) if self.shape.branches == 2 else holistic)

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Outputs `[B, t, h, w, C]` of the last groups, the global branch's at last."""
        outputs = self._shared(clips)
        outputs.append(self.holistic(outputs[-1]))
        return [x.movedim(1, -1) for x in outputs[-last:]]

    def adapter_sites(self) -> Mapping[str, int]:
        """The end of every block but those of the local branch."""
        return {
            f"{name}.end": layer.outputs
            for name, layer in self.named_modules()
            if isinstance(layer, Bottleneck) and not name.startswith("local.")
        }

    def _shared(self, clips: Tensor) -> list[Tensor]:
        outputs = [self.stem(clips)]
        for group in self.shared:
            outputs.append(group(outputs[-1]))
        return outputs


class Stem(nn.Module):
    """A strided convolution over space and time, normalised, and a maximum."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        t, h, w = shape.kernel
        self.frames, self.every, self.pool = t, shape.stride[0], shape.pool
        self.conv = nn.Conv2d(
            3 * t,
            shape.stem,
            (h, w),
            stride=shape.stride[1:],
            padding=(h // 2, w // 2),
            bias=False,
        )
        self.norm = group_norm(shape.stem, shape.norm_groups)

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
        return over_frames(lambda y: F.max_pool2d(y, 3, stride=2, padding=1), x)


class Bottleneck(nn.Module):
    """Convolutions over time, over space, and over channels, beside a shortcut."""

    def __init__(
        self, inputs: int, width: int, temporal: int, stride: int, groups: int
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
        self.end = nn.Identity()  # where an adapter may stand

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to `[B, C', T, H', W']`."""
        first, second, third = self.norms
        y = torch.relu(first(over_time(self.time, x)))
        y = torch.relu(second(over_frames(self.space, y)))
        y = third(over_frames(self.widen, y))
        if self.skip is not None and self.skip_norm is not None:
            x = self.skip_norm(over_frames(self.skip, x))
        out: Tensor = self.end(torch.relu(x + y))
        return out


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


def _group(shape: ResNetShape, number: int, inputs: int) -> nn.Sequential:
    width = shape.widths[number]
    rows = []
    for block in range(shape.blocks[number]):
        stride = 2 if number and not block else 1
        kernel = shape.temporal[number]
        rows.append(Bottleneck(inputs, width, kernel, stride, shape.norm_groups))
        inputs = 4 * width
    return nn.Sequential(*rows)
