"""The hourglass that ends MaX-DeepLab-L's backbone: to fine grids and back.

Wang et al. (2021), MaX-DeepLab, arXiv:2012.00759.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.deeplab2.blocks import ResidualSpec, make_block
from model_zoo.deeplab2.layers import ConvNorm, Norm, group_norm, resize


def visited_stages(hourglasses: int, output_stride: int) -> tuple[int, ...]:
    """The stages whose grids and widths are visited, one after the other.

    From the last stage's grid to res2's, a factor of two at a time, and back.

    Raises:
        UserError: for an hourglass where res5 is on the grid of res2.

    Example:
        >>> visited_stages(1, 16)
        (3, 2, 3, 5)
    """
    if hourglasses and output_stride < 8:
        raise UserError(
            f"output_stride={output_stride} leaves no finer grid for an hourglass; use "
            "8, 16 or 32."
        )
    coarsest = output_stride.bit_length() - 1
    return hourglasses * (*range(coarsest - 1, 1, -1), *range(3, coarsest), 5)


class Hourglass(nn.Module):
    """A residual block on every visited grid.

    What a block gets is the sum of the features before it, projected and resized, and
    of the last two that were seen on its own grid.
    """

    def __init__(
        self, spec: ResidualSpec, output_stride: int, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.stages = visited_stages(spec.hourglasses, output_stride)
        projections, blocks = [], []
        for last, stage in zip((5, *self.stages), self.stages, strict=False):
            width, coarser = spec.width(stage), stage > last
            projections.append(
                ConvNorm(
                    spec.width(last),
                    width,
                    stride=2 if coarser else 1,
                    act="linear",
                    norm=norm,
                )
            )
            blocks.append(
                make_block(
                    spec,
                    width,
                    stage,
                    before=2**stage,
                    after=2**stage,
                    output_stride=output_stride,
                    norm=norm,
                )
            )
        self.projections = nn.ModuleList(projections)
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, features: Mapping[int, Tensor], keep: Sequence[Tensor | None]
    ) -> Tensor:
        """Features of the stages, not yet activated -> such features like stage 5's.

        Args:
            features: by stage, `[B, C, H, W]`.
            keep: `[B]` for every block, scales its branch; None keeps it.
        """
        seen = {stage: [values] for stage, values in features.items()}
        x = features[5]
        for stage, project, block, mask in zip(
            self.stages, self.projections, self.blocks, keep, strict=True
        ):
            known = seen[stage][-2:]
            height, width = known[0].shape[-2:]
            x = sum(known, start=resize(project(F.relu(x)), (height, width)))
            x = block(x, mask)
            seen[stage].append(x)
        return x
