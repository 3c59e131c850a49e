"""ResNets, SWideRNets and their axial relatives, at any output stride.

He et al. (2016), arXiv:1512.03385; Chen et al. (2020), SWideRNet, arXiv:2011.11675;
Wang et al. (2020), Axial-DeepLab, arXiv:2003.07853.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.deeplab2.axial import AxialAttention2d, AxialSpec
from model_zoo.deeplab2.layers import (
    ConvNorm,
    Norm,
    group_norm,
    initialise_,
    refuse_other_strides,
)

STEMS = ("resnet", "beta", "wide")


@dataclass(frozen=True, kw_only=True)
class ResidualSpec:
    """An encoder of residual blocks.

    Attributes:
        stem: `resnet` (7 x 7), `beta` (three 3 x 3) or `wide` (3 x 3; wide encoders
            have a first stage of three blocks before they halve the grid again).
        blocks: residual blocks of the four stages with outputs res2 to res5.
        stem_filters: of the stem; the last of `beta` has twice as many.
        stem_stride: 2; 1 for small pictures, which halves all strides that follow.
        filters: f of stage 1; stage s has f 2^(s - 1), and outputs 4 times as many.
        first_blocks: blocks of stage 1, in wide encoders.
        axial_beyond: blocks at this stride and beyond attend along the axes; 0: none.
        bottleneck: expansion of an axial block's inner width.
        axial: sizes of the attention.
        keep_path: probability that a block's branch is kept while training (Huang et
            al. 2016, arXiv:1603.09382), falling linearly to this in the last stage.

    Raises:
        UserError: for an unknown stem, or a probability outside (0, 1].
    """

    stem: str = "resnet"
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_filters: int = 64
    stem_stride: int = 2
    filters: int = 32
    first_blocks: int = 3
    axial_beyond: int = 0
    bottleneck: int = 2
    axial: AxialSpec = AxialSpec()
    keep_path: float = 1.0

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise UserError(f"stem={self.stem!r} must be one of {', '.join(STEMS)}.")
        if not 0 < self.keep_path <= 1:
            raise UserError(f"keep_path={self.keep_path} must be in (0, 1].")


class ResidualBlock(nn.Module):
    """One residual unit: what comes in is activated first, what goes out is not.

    The last normalisation starts at zero, so that a new block is its shortcut.

    Args:
        inputs: channels in.
        widths: two for 3 x 3, 3 x 3; three for 1 x 1, 3 x 3 or attention, 1 x 1.
        stride: of the first spatial layer.
        rate: atrous rate of the 3 x 3 convolutions.
        second_rate: of the second convolution where there are two widths.
        axial: sizes of the attention in the middle, None for a convolution.
        norm: makes normalisations.
    """

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, ...],
        *,
        stride: int = 1,
        rate: int = 1,
        second_rate: int = 1,
        axial: AxialSpec | None = None,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.stride = stride
        last = widths[-1]
        layers: list[nn.Module]
        if len(widths) == 2:
            layers = [
                ConvNorm(inputs, widths[0], 3, stride=stride, rate=rate, norm=norm),
                ConvNorm(widths[0], last, 3, rate=second_rate, act="linear", norm=norm),
            ]
        elif axial is None:
            layers = [
                ConvNorm(inputs, widths[0], norm=norm),
                ConvNorm(widths[0], widths[1], 3, stride=stride, rate=rate, norm=norm),
                ConvNorm(widths[1], last, act="linear", norm=norm),
            ]
        else:
            attention = AxialAttention2d(
                widths[0], widths[1], axial, stride=stride, norm=norm
            )
            layers = [
                ConvNorm(inputs, widths[0], norm=norm),
                attention,
                nn.ReLU(),
                ConvNorm(attention.width.values, last, act="linear", norm=norm),
            ]
        self.branch = nn.Sequential(*layers)
        nn.init.zeros_(layers[-1].norm.weight)  # type: ignore[arg-type, union-attr]
        self.shortcut: nn.Module | None = None
        if inputs != last:
            self.shortcut = ConvNorm(
                inputs, last, stride=stride, act="linear", norm=norm
            )

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`; `keep` `[B]` scales the branch."""
        active = F.relu(images)
        straight = active[..., :: self.stride, :: self.stride]
        if self.shortcut is not None:
            straight = self.shortcut(active)
        branch: Tensor = self.branch(active)
        if keep is not None:
            branch = branch * keep[:, None, None, None]
        return straight + branch


class ResidualEncoder(nn.Module):
    """Images to endpoints `res2` ... `res5` at strides 4, 8, 16, 32, or at most
    `output_stride`: beyond it, strides become atrous rates and the weights stay.
    """

    def __init__(
        self,
        spec: ResidualSpec,
        *,
        inputs: int = 3,
        output_stride: int = 32,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        refuse_other_strides(output_stride)
        self.spec = spec
        self.stem, channels = _stem(spec, inputs, norm)
        self.names: list[str] = []
        self.keep: list[float] = []
        self.lengths: list[int] = []
        every: list[nn.Module] = []
        first = 1 if spec.stem == "wide" else 2
        for stage in range(first, 6):
            count = spec.first_blocks if stage == 1 else spec.blocks[stage - 2]
            blocks = _stage(spec, channels, stage, count, output_stride, norm)
            channels = 4 * spec.filters * 2 ** (stage - 1)
            keep = 1 - (1 - spec.keep_path) * (stage - 1) / 4
            self.keep += [keep] * count
            self.names.append(f"res{stage}")
            self.lengths.append(count)
            every += blocks
        self.blocks = nn.ModuleList(every)
        self.channels = {
            f"res{s}": 4 * spec.filters * 2 ** (s - 1) for s in range(2, 6)
        }
        initialise_(self)

    def forward(
        self, images: Tensor, uniform: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """`[B, C, H, W]` -> activated endpoints.

        Args:
            images: the input.
            uniform: `[B, blocks]` numbers in [0, 1) that decide which branches are
                kept, in training; None keeps all.
        """
        x = self.stem(images)
        out, index = {}, 0
        for name, length in zip(self.names, self.lengths, strict=True):
            for block in self.blocks[index : index + length]:
                keep = self.keep[index]
                mask = None
                if uniform is not None and keep < 1:
                    mask = (uniform[:, index] < keep).to(x.dtype) / keep
                x = block(x, mask)
                index += 1
            out[name] = F.relu(x)
        return out


def _stem(spec: ResidualSpec, inputs: int, norm: Norm) -> tuple[nn.Module, int]:
    f = spec.stem_filters
    if spec.stem == "beta":
        layers = (
            ConvNorm(inputs, f, 3, stride=spec.stem_stride, norm=norm),
            ConvNorm(f, f, 3, norm=norm),
            ConvNorm(f, 2 * f, 3, act="linear", norm=norm),
        )
        return nn.Sequential(*layers), 2 * f
    kernel = 7 if spec.stem == "resnet" else 3
    stem = ConvNorm(inputs, f, kernel, stride=spec.stem_stride, act="linear", norm=norm)
    return stem, f


def _stage(
    spec: ResidualSpec,
    inputs: int,
    stage: int,
    count: int,
    output_stride: int,
    norm: Norm,
) -> list[nn.Module]:
    """The blocks of a stage; its first one takes the stride, while there is one."""
    f = spec.filters * 2 ** (stage - 1)
    before = 2 ** max(stage - 1, 1)
    after = 2**stage
    blocks: list[nn.Module] = []
    for index in range(count):
        current = before if index == 0 else after
        stride = after // before if index == 0 and before < output_stride else 1
        axial = spec.axial if 0 < spec.axial_beyond <= current else None
        widths: tuple[int, ...] = (f, f, 4 * f)
        if axial is not None:
            widths = (f * spec.bottleneck, f, 4 * f)
        elif spec.stem == "wide":
            widths = (4 * f, 4 * f) if after < 32 else (f, 2 * f, 4 * f)
        blocks.append(
            ResidualBlock(
                inputs if index == 0 else 4 * f,
                widths,
                stride=stride,
                rate=max(1, current // output_stride),
                second_rate=max(1, after // output_stride),
                axial=axial,
                norm=norm,
            )
        )
    return blocks


def wide_blocks(depth: float) -> tuple[int, int, int, int]:
    """Blocks of SWideRNet-(1, 1, depth): 3, 6, 3, 3 times the depth, rounded down.

    Example:
        >>> wide_blocks(4.5)
        (13, 27, 13, 13)
    """
    a, b, c, d = (int(n * depth) for n in (3, 6, 3, 3))
    return a, b, c, d


_BIG = AxialSpec(key_expansion=2, value_expansion=4)


def _wide(depth: float, *, axial: bool) -> ResidualSpec:
    return ResidualSpec(
        stem="wide",
        blocks=wide_blocks(depth),
        axial_beyond=16 if axial else 0,
        bottleneck=4,
        axial=_BIG,
        keep_path=0.8,
    )


RESIDUAL: Mapping[str, ResidualSpec] = {
    "resnet50": ResidualSpec(),
    "resnet50_beta": ResidualSpec(stem="beta"),
    "max_deeplab_s_backbone": ResidualSpec(stem="beta", axial_beyond=16, keep_path=0.8),
    "axial_resnet_s": ResidualSpec(axial_beyond=2, filters=16),
    "axial_resnet_l": ResidualSpec(axial_beyond=2),
    "axial_deeplab_s": ResidualSpec(stem="beta", axial_beyond=2, filters=16),
    "axial_deeplab_l": ResidualSpec(stem="beta", axial_beyond=2),
    "swidernet_1": _wide(1, axial=False),
    "swidernet_3": _wide(3, axial=False),
    "swidernet_4.5": _wide(4.5, axial=False),
    "axial_swidernet_1": _wide(1, axial=True),
    "axial_swidernet_3": _wide(3, axial=True),
    "axial_swidernet_4.5": _wide(4.5, axial=True),
}
"""The published residual encoders, by name."""


def count(module: nn.Module) -> int:
    """Trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def meta_encoder(name: str) -> ResidualEncoder:
    """A published encoder on the meta device: shapes without values."""
    with torch.device("meta"):
        return ResidualEncoder(RESIDUAL[name])
