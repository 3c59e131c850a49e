"""MobileNetV2 with GroupNorm, whole and cut after six blocks.

Sandler et al. (2018), arXiv:1801.04381; GroupNorm with 2 groups after every convolution
as in Xu et al. (2023), arXiv:2211.10844.
"""

from collections.abc import Mapping
from typing import ClassVar, TypeAlias

from torch import Tensor, nn

from model_zoo.image.norms import ConvNorm, glorot_

_EPS = 1e-3  # of the published GroupNorm layers
Rows: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""(expansion, filters, repeats, stride of the first) of each group of blocks."""

_ROWS: Rows = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def divisible(filters: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that loses at most a tenth of `filters`.

    Example:
        >>> divisible(24 * 0.5), divisible(16 * 0.25)
        (16, 8)
    """
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


class InvertedResidual(nn.Module):
    """Expand, convolve each channel alone, project; add the input where it fits."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, stride: int, groups: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            expand = nn.Conv2d(inputs, hidden, 1, bias=False)
            layers.append(ConvNorm(expand, groups, _EPS, "relu6"))
        depthwise = nn.Conv2d(
            hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False
        )
        layers.append(ConvNorm(depthwise, groups, _EPS, "relu6"))
        project = nn.Conv2d(hidden, outputs, 1, bias=False)
        layers.append(ConvNorm(project, groups, _EPS, "linear"))
        self.layers = nn.Sequential(*layers)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        x: Tensor = self.layers(images)
        return images + x if self.adds_input else x


class MobileNetV2(nn.Module):
    """MobileNetV2 with GroupNorm, average pooling and a dense embedding.

    2,387,840 parameters for colour images and 128-d embeddings. `frozen-conv` trains
    the normalisation and the embedding: 198,080 of them.

    Args:
        image_shape: (H, W, C), of any size.
        embedding_dim: D.
        alpha: multiplies the filters of all but the last convolution.
        last_filters: of the last convolution.
        rows: groups of blocks; see `Rows`.
        groups: of every GroupNorm.
    """

    trainable_selections: ClassVar[Mapping[str, str]] = {
        "frozen-conv": "*.norm.*,embedding.*"
    }

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        embedding_dim: int = 128,
        *,
        alpha: float = 1.0,
        last_filters: int = 1280,
        rows: Rows = _ROWS,
        groups: int = 2,
    ) -> None:
        super().__init__()
        filters = divisible(32 * alpha)
        stem = nn.Conv2d(image_shape[2], filters, 3, stride=2, padding=1, bias=False)
        self.stem = ConvNorm(stem, groups, _EPS, "relu6")
        blocks: list[nn.Module] = []
        for expansion, row_filters, repeats, row_stride in rows:
            outputs = divisible(row_filters * alpha)
            for repeat in range(repeats):
                stride = row_stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(filters, outputs, expansion, stride, groups)
                )
                filters = outputs
        self.blocks = nn.Sequential(*blocks)
        last = nn.Conv2d(filters, last_filters, 1, bias=False)
        self.last = ConvNorm(last, groups, _EPS, "relu6")
        self.embedding = nn.Linear(last_filters, embedding_dim)
        glorot_(self)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D]`."""
        x = self.last(self.blocks(self.stem(images)))
        embedded: Tensor = self.embedding(x.mean((2, 3)))
        return embedded


class SmallMobileNetV2(MobileNetV2):
    """The first six blocks of MobileNetV2 and a last convolution of 640 filters.

    159,296 parameters for colour images and 128-d embeddings; `frozen-conv` trains
    86,848 of them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (64, 64, 3),
        embedding_dim: int = 128,
        *,
        alpha: float = 1.0,
        last_filters: int = 640,
        groups: int = 2,
    ) -> None:
        super().__init__(
            image_shape,
            embedding_dim,
            alpha=alpha,
            last_filters=last_filters,
            rows=_ROWS[:3],
            groups=groups,
        )
