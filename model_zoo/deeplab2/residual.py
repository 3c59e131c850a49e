"""ResNets, SWideRNets and their axial relatives, at any output stride.

He et al. (2016), arXiv:1512.03385; Chen et al. (2020), SWideRNet, arXiv:2011.11675;
Wang et al. (2020), Axial-DeepLab, arXiv:2003.07853; Wang et al. (2021), MaX-DeepLab,
arXiv:2012.00759 (its backbones, without the memory path).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_zoo.deeplab2.axial import AxialSpec
from model_zoo.deeplab2.blocks import ResidualSpec, make_block
from model_zoo.deeplab2.hourglass import Hourglass, visited_stages
from model_zoo.deeplab2.layers import (
    ConvNorm,
    Norm,
    group_norm,
    initialise_,
    refuse_other_strides,
)


class ResidualEncoder(nn.Module):
    """Images to endpoints `res2` ... `res5` at strides 4, 8, 16, 32, or at most
    `output_stride`: beyond it, strides become atrous rates and the weights stay (but
    those of an hourglass, which has as many blocks as it visits grids).

    With an hourglass, `res5` is what comes out of it, so that whatever reads `res5`
    trains all of the encoder.
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
        self.stages: list[int] = []
        every: list[nn.Module] = []
        for stage, count in _stages(spec):
            blocks = _stage(spec, channels, stage, count, output_stride, norm)
            channels = spec.width(stage)
            self.stages += [stage] * count
            every += blocks
        self.blocks = nn.ModuleList(every)
        self.hourglass: Hourglass | None = None
        self.keep = [spec.keep(stage) for stage in self.stages]
        if spec.hourglasses:
            self.hourglass = Hourglass(spec, output_stride, norm)
            self.keep += [spec.keep(stage) for stage in self.hourglass.stages]
        self.channels = {f"res{stage}": spec.width(stage) for stage in range(2, 6)}
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
        masks = [self._mask(index, uniform, x) for index in range(len(self.keep))]
        features: dict[int, Tensor] = {}
        inside = len(self.blocks)
        for stage, block, mask in zip(
            self.stages, self.blocks, masks[:inside], strict=True
        ):
            x = features[stage] = block(x, mask)
        if self.hourglass is not None:
            features[5] = self.hourglass(features, masks[inside:])
        return {f"res{stage}": F.relu(values) for stage, values in features.items()}

    def _mask(self, index: int, uniform: Tensor | None, like: Tensor) -> Tensor | None:
        """What a block's branch is multiplied by, `[B]`; None is one."""
        keep = self.keep[index]
        if uniform is None or keep == 1:
            return None
        return (uniform[:, index] < keep).to(like.dtype) / keep


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
    before, after = 2 ** max(stage - 1, 1), 2**stage
    return [
        make_block(
            spec,
            inputs if index == 0 else spec.width(stage),
            stage,
            before=before if index == 0 else after,
            after=after,
            output_stride=output_stride,
            norm=norm,
        )
        for index in range(count)
    ]


def _stages(spec: ResidualSpec) -> list[tuple[int, int]]:
    """Stages with their number of blocks; only wide encoders have a stage 1."""
    first = [(1, spec.first_blocks)] if spec.stem == "wide" else []
    return first + list(zip(range(2, 6), spec.blocks, strict=True))


def count_blocks(spec: ResidualSpec, output_stride: int) -> int:
    """Residual blocks of a whole encoder.

    Example:
        >>> count_blocks(RESIDUAL["max_deeplab_l_backbone"], 16)
        22
    """
    visited = visited_stages(spec.hourglasses, output_stride)
    return sum(blocks for _, blocks in _stages(spec)) + len(visited)


def wide_blocks(depth: float) -> tuple[int, int, int, int]:
    """Blocks of SWideRNet-(1, 1, depth): 3, 6, 3, 3 times the depth, rounded down.

    Example:
        >>> wide_blocks(4.5)
        (13, 27, 13, 13)
    """
    a, b, c, d = (int(n * depth) for n in (3, 6, 3, 3))
    return a, b, c, d


_BIG = AxialSpec(key_expansion=2, value_expansion=4)


def _wide(depth: float, *, axial: bool, hourglasses: int = 0) -> ResidualSpec:
    return ResidualSpec(
        stem="wide",
        blocks=wide_blocks(depth),
        axial_beyond=16 if axial else 0,
        bottleneck=4,
        axial=_BIG,
        hourglasses=hourglasses,
        keep_path=0.8,
    )


RESIDUAL: Mapping[str, ResidualSpec] = {
    "resnet50": ResidualSpec(),
    "resnet50_beta": ResidualSpec(stem="beta"),
    "max_deeplab_s_backbone": ResidualSpec(stem="beta", axial_beyond=16, keep_path=0.8),
    "max_deeplab_l_backbone": _wide(1, axial=True, hourglasses=1),
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
    """A published encoder on the meta device, at the published output stride of 16."""
    with torch.device("meta"):
        return ResidualEncoder(RESIDUAL[name], output_stride=16)
