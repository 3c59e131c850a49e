"""Residual blocks: two or three convolutions, or attention along the axes.

He et al. (2016), arXiv:1512.03385; Chen et al. (2020), SWideRNet, arXiv:2011.11675;
Wang et al. (2020), Axial-DeepLab, arXiv:2003.07853.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.deeplab2.axial import AxialAttention2d, AxialSpec
from model_zoo.deeplab2.layers import ConvNorm, Norm, group_norm

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
        hourglasses: how often features go to fine grids and back after the stages.
        keep_path: probability that a block's branch is kept while training (Huang et
            al. 2016, arXiv:1603.09382), falling linearly to this in the last stage.

    Raises:
        UserError: for an unknown stem, negative hourglasses, or a probability outside
            (0, 1].
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
    hourglasses: int = 0
    keep_path: float = 1.0

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise UserError(f"stem={self.stem!r} must be one of {', '.join(STEMS)}.")
        if self.hourglasses < 0:
            raise UserError(f"hourglasses={self.hourglasses} must not be negative.")
        if not 0 < self.keep_path <= 1:
            raise UserError(f"keep_path={self.keep_path} must be in (0, 1].")

    def width(self, stage: int) -> int:
        """Channels that come out of a stage.

        Example:
            >>> ResidualSpec().width(5)
            2048
        """
        return 4 * self.filters << (stage - 1)

    def keep(self, stage: int) -> float:
        """The probability that a branch of this stage is kept."""
        return 1 - (1 - self.keep_path) * (stage - 1) / 4


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


def make_block(
    spec: ResidualSpec,
    inputs: int,
    stage: int,
    *,
    before: int,
    after: int,
    output_stride: int,
    norm: Norm,
) -> ResidualBlock:
    """A block of a stage, whose kind depends on the strides before and after it.

    Beyond `output_stride` it does not stride; its convolutions are atrous instead.
    """
    f = spec.filters * 2 ** (stage - 1)
    axial = spec.axial if 0 < spec.axial_beyond <= before else None
    widths: tuple[int, ...] = (f, f, 4 * f)
    if axial is not None:
        widths = (f * spec.bottleneck, f, 4 * f)
    elif spec.stem == "wide":
        widths = (4 * f, 4 * f) if after < 32 else (f, 2 * f, 4 * f)
    return ResidualBlock(
        inputs,
        widths,
        stride=after // before if before < output_stride else 1,
        rate=max(1, before // output_stride),
        second_rate=max(1, after // output_stride),
        axial=axial,
        norm=norm,
    )
