"""MobileNetV3, small and large, as encoders. Howard et al. (2019), arXiv:1905.02244."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.deeplab2.layers import (
    ConvNorm,
    Norm,
    group_norm,
    initialise_,
    refuse_other_strides,
)
from model_zoo.image.mobilenet_v2 import divisible


@dataclass(frozen=True)
class Row:
    """An inverted bottleneck, and whether its expanded features are an endpoint."""

    kernel: int
    stride: int
    filters: int
    expansion: float
    act: str = "relu"
    squeeze: bool = False
    endpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class MobileNetSpec:
    """An encoder of inverted bottlenecks.

    Attributes:
        rows: its bottlenecks.
        stem_endpoint: whether the stem is the endpoint `res1`.
        last: filters of the last convolution, which is `res5`.
        width: multiplies all filters.
    """

    rows: tuple[Row, ...]
    stem_endpoint: bool
    last: int
    width: float = 1.0

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise UserError(f"width={self.width} must be positive.")


class SqueezeExcite(nn.Module):
    """Channels weighed by a gate of their averages. Hu et al. (2018), 1709.01507."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = divisible(max(1, int(channels * 0.25)))
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, H, W]`."""
        squeezed = F.relu(self.reduce(images.mean((2, 3), keepdim=True)))
        return images * F.hardsigmoid(self.expand(squeezed))


class Bottleneck(nn.Module):
    """Expand, convolve each channel alone, gate, project; add the input if it fits."""

    def __init__(
        self, inputs: int, row: Row, filters: int, stride: int, rate: int, norm: Norm
    ) -> None:
        super().__init__()
        hidden = divisible(inputs * row.expansion) if row.expansion > 1 else inputs
        self.expand: nn.Module | None = None
        if row.expansion > 1:
            self.expand = ConvNorm(inputs, hidden, act=row.act, norm=norm)
        self.depthwise = ConvNorm(
            hidden,
            hidden,
            row.kernel,
            stride=stride,
            rate=rate,
            depthwise=True,
            act=row.act,
            norm=norm,
        )
        self.gate = SqueezeExcite(hidden) if row.squeeze else None
        self.project = ConvNorm(hidden, filters, act="linear", norm=norm)
        self.adds_input = row.stride == 1 and inputs == filters
        self.hidden = hidden

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, H, W]` -> output and expanded features."""
        x = images if self.expand is None else self.expand(images)
        expanded: Tensor = self.depthwise(x)
        x = expanded if self.gate is None else self.gate(expanded)
        x = self.project(x)
        return (x + images if self.adds_input else x), expanded


class MobileNetEncoder(nn.Module):
    """Images to endpoints `res2` ... `res5`; beyond `output_stride` strides become
    atrous rates and the weights stay.
    """

    def __init__(
        self,
        spec: MobileNetSpec,
        *,
        inputs: int = 3,
        output_stride: int = 32,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        refuse_other_strides(output_stride)
        channels = divisible(16 * spec.width)
        hard = "hard-swish"
        self.stem = ConvNorm(inputs, channels, 3, stride=2, act=hard, norm=norm)
        self.names: list[str | None] = []
        self.channels: dict[str, int] = {}
        current, rate, level = 2, 1, 1 + int(spec.stem_endpoint)
        blocks = []
        for row in spec.rows:
            stride, used = row.stride, 1
            if current == output_stride:
                stride, used, rate = 1, rate, rate * row.stride
            else:
                current *= row.stride
            filters = divisible(row.filters * spec.width)
            block = Bottleneck(channels, row, filters, stride, used, norm)
            channels = filters
            name = f"res{level}" if row.endpoint else None
            if name:
                level += 1
                self.channels[name] = block.hidden
            self.names.append(name)
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        last = divisible(spec.last * spec.width)
        self.last = ConvNorm(channels, last, act=hard, norm=norm)
        self.channels["res5"] = last
        initialise_(self)

    def forward(
        self, images: Tensor, uniform: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """`[B, C, H, W]` -> endpoints; `uniform` is not used, no branch is dropped."""
        del uniform
        x, out = self.stem(images), {}
        for name, block in zip(self.names, self.blocks, strict=True):
            x, expanded = block(x)
            if name:
                out[name] = expanded
        out["res5"] = self.last(x)
        return out


_H = "hard-swish"

MOBILE: Mapping[str, MobileNetSpec] = {
    "mobilenet_v3_small": MobileNetSpec(
        stem_endpoint=True,
        last=576,
        rows=(
            Row(3, 2, 16, 1, squeeze=True, endpoint=True),
            Row(3, 2, 24, 72 / 16),
            Row(3, 1, 24, 88 / 24, endpoint=True),
            Row(5, 2, 40, 4, _H, squeeze=True),
            Row(5, 1, 40, 6, _H, squeeze=True),
            Row(5, 1, 40, 6, _H, squeeze=True),
            Row(5, 1, 48, 3, _H, squeeze=True),
            Row(5, 1, 48, 3, _H, squeeze=True, endpoint=True),
            Row(5, 2, 96, 6, _H, squeeze=True),
            Row(5, 1, 96, 6, _H, squeeze=True),
            Row(5, 1, 96, 6, _H, squeeze=True),
        ),
    ),
    "mobilenet_v3_large": MobileNetSpec(
        stem_endpoint=False,
        last=960,
        rows=(
            Row(3, 1, 16, 1, endpoint=True),
            Row(3, 2, 24, 4),
            Row(3, 1, 24, 3, endpoint=True),
            Row(5, 2, 40, 3, squeeze=True),
            Row(5, 1, 40, 3, squeeze=True),
            Row(5, 1, 40, 3, squeeze=True, endpoint=True),
            Row(3, 2, 80, 6, _H),
            Row(3, 1, 80, 2.5, _H),
            Row(3, 1, 80, 2.3, _H),
            Row(3, 1, 80, 2.3, _H),
            Row(3, 1, 112, 6, _H, squeeze=True),
            Row(3, 1, 112, 6, _H, squeeze=True, endpoint=True),
            Row(5, 2, 160, 6, _H, squeeze=True),
            Row(5, 1, 160, 6, _H, squeeze=True),
            Row(5, 1, 160, 6, _H, squeeze=True),
        ),
    ),
}
"""The published MobileNets, by name."""
