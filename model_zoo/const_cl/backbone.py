"""The 3D ResNet with two heads: two branches that share all but the last group.

Its convolutions, and why they are 2D, are in `blocks.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.const_cl.blocks import Bottleneck, Stem

if TYPE_CHECKING:
    from model_zoo.const_cl.heads import Reconstructor

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ResNetShape:
    """Sizes of the network.

    Attributes:
        stem: filters of the first convolution.
        kernel: (t, h, w) of the first convolution.
        stride: (t, h, w) of the first convolution.
        pool: whether a 3 x 3 maximum over space with stride 2 follows it.
        pool_every: stride in time of that maximum, over 3 frames if above 1.
        blocks: bottlenecks of each group.
        widths: of each group; outputs are four times as wide.
        temporal: kernel in time of the first convolution of a block: per group, one
            number for all blocks or one for each.
        gated: whether the last block of every group ends in a gate.
        norm_groups: of GroupNorm.
        branches: 2 has the local branch, 1 the global one alone.

    Raises:
        UserError: lists of different lengths, even kernels in time, or a number out of
            range.
    """

    stem: int = 64
    kernel: Triple = (5, 7, 7)
    stride: Triple = (2, 2, 2)
    pool: bool = True
    pool_every: int = 1
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    temporal: tuple[int | tuple[int, ...], ...] = (1, 1, 3, 3)
    gated: bool = False
    norm_groups: int = 32
    branches: int = 2

    def __post_init__(self) -> None:
        if not len(self.blocks) == len(self.widths) == len(self.temporal):
            raise UserError(
                f"blocks={self.blocks}, widths={self.widths} and temporal="
                f"{self.temporal} need one number per group."
            )
        kernels = [self.kernels(group) for group in range(len(self.blocks))]
        if [len(row) for row in kernels] != list(self.blocks):
            raise UserError(
                f"temporal={self.temporal} needs one kernel per group, or one for "
                f"every block of it; blocks={self.blocks}."
            )
        if any(k % 2 == 0 for k in (*sum(kernels, ()), self.kernel[0])):
            raise UserError(
                f"temporal={self.temporal} and kernel={self.kernel}: kernels in time "
                "must be odd."
            )
        if self.pool_every < 1:
            raise UserError(f"pool_every={self.pool_every} must be at least 1.")
        if self.branches not in (1, 2):
            raise UserError(f"branches={self.branches} must be 1 or 2.")

    @property
    def outputs(self) -> int:
        """Channels of the last group."""
        return 4 * self.widths[-1]

    def kernels(self, group: int) -> tuple[int, ...]:
        """Kernels in time of the blocks of a group.

        Example:
            >>> ResNetShape(temporal=(1, 1, 3, (1, 3, 1))).kernels(3)
            (1, 3, 1)
        """
        given = self.temporal[group]
        return (given,) * self.blocks[group] if isinstance(given, int) else given


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

    Attributes:
        decoder: what carries regions across, where it is aggregated as well, or None;
            it is no part of the network that is used afterwards.

    Example:
        >>> import torch
        >>> shape = ResNetShape(stem=8, kernel=(3, 3, 3), stride=(1, 2, 2), pool=False,
        ...                     blocks=(1, 1), widths=(4, 8), temporal=(1, 3),
        ...                     norm_groups=2)
        >>> TwoHeadedResNet(shape)(torch.zeros(2, 3, 4, 16, 16)).shape
        torch.Size([2, 32])
    """

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.decoder: Reconstructor | None = None
        self.stem = Stem(
            shape.stem,
            shape.kernel,
            shape.stride,
            groups=shape.norm_groups,
            pool=shape.pool,
            pool_every=shape.pool_every,
        )
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


def _group(shape: ResNetShape, number: int, inputs: int) -> nn.Sequential:
    width = shape.widths[number]
    rows = []
    for block, kernel in enumerate(shape.kernels(number)):
        stride = 2 if number and not block else 1
        gated = shape.gated and block == shape.blocks[number] - 1
        rows.append(
            Bottleneck(inputs, width, kernel, stride, shape.norm_groups, gated=gated)
        )
        inputs = 4 * width
    return nn.Sequential(*rows)
