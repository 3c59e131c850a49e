"""ResNet-50 with GroupNorm.

He et al. (2016), arXiv:1512.03385; GroupNorm with 32 groups as in Xu et al. (2023),
arXiv:2211.10844.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.image.norms import ConvNorm

_EPS = 1e-5


class PenalizedConv2d(nn.Conv2d):
    """A convolution whose kernel enters the loss directly, through an L2 penalty.

    It is a class of its own so that engines which form weight gradients from a layer's
    input and output alone do not apply their rule to it.
    """


class PenalizedLinear(nn.Linear):
    """A dense layer whose weights enter the loss directly, through an L2 penalty."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (strided) and 1 x 1 convolutions beside a shortcut."""

    def __init__(
        self, inputs: int, width: int, stride: int, groups: int, conv: type[nn.Conv2d]
    ) -> None:
        super().__init__()
        outputs = 4 * width
        spatial = conv(width, width, 3, stride=stride, padding=1, bias=False)
        self.layers = nn.Sequential(
            ConvNorm(conv(inputs, width, 1, bias=False), groups, _EPS, "relu"),
            ConvNorm(spatial, groups, _EPS, "relu"),
            ConvNorm(conv(width, outputs, 1, bias=False), groups, _EPS, "linear"),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            skip = conv(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = ConvNorm(skip, groups, _EPS, "linear")

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        return F.relu(self.layers(images) + self.shortcut(images))


class ResNet50(nn.Module):
    """ResNet-50 with GroupNorm, pooling and a dense embedding.

    23,770,304 parameters for colour images and 128-d embeddings. `frozen-conv` is the
    published selection of 15,480,000: the convolutions of the second and third group
    stand still, whatever the number of groups.

    Args:
        image_shape: (H, W, C).
        embedding_dim: D.
        blocks: bottlenecks in each group; the width doubles from group to group.
        width: of the first group's bottlenecks.
        groups: of every GroupNorm.
        pooling: `average` over the whole map, or `avg32`: 3 x 3 windows of stride 2.
        kernel_l2: weight, in the loss, of the sum of squares of all kernels and of the
            embedding's weights; 1e-4 as published, 0 for none.

    Raises:
        UserError: for an unknown pooling, or if the images are too small for `avg32`.
    """

    trainable_selections: ClassVar[Mapping[str, str]] = {
        "frozen-conv": "stem.*,blocks.[!12].*,*.norm.*,embedding.*"
    }

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        embedding_dim: int = 128,
        *,
        blocks: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 32,
        pooling: str = "average",
        kernel_l2: float = 0.0,
    ) -> None:
        super().__init__()
        if pooling not in ("average", "avg32"):
            raise UserError(f"pooling={pooling!r} must be average or avg32.")
        self.pooling, self.kernel_l2 = pooling, kernel_l2
        conv = PenalizedConv2d if kernel_l2 else nn.Conv2d
        linear = PenalizedLinear if kernel_l2 else nn.Linear
        stem = conv(image_shape[2], width, 7, stride=2, padding=3, bias=False)
        self.stem = ConvNorm(stem, groups, _EPS, "relu")
        inputs, rows = width, []
        for group, repeats in enumerate(blocks):
            wide = width * 2**group
            row: list[nn.Module] = []
            for repeat in range(repeats):
                stride = 2 if group > 0 and repeat == 0 else 1
                row.append(Bottleneck(inputs, wide, stride, groups, conv))
                inputs = 4 * wide
            rows.append(nn.Sequential(*row))
        self.blocks = nn.Sequential(*rows)
        positions = self._positions(image_shape, 2 ** (len(blocks) + 1))
        self.embedding = linear(inputs * positions, embedding_dim)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D]`."""
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        x = self.blocks(x)
        x = (
            x.mean((2, 3))
            if self.pooling == "average"
            else F.avg_pool2d(x, 3, 2).flatten(1)
        )
        embedded: Tensor = self.embedding(x)
        return embedded

    def penalty(self) -> Tensor | None:
        """What the weights add to the loss: a scalar, or None without `kernel_l2`."""
        if not self.kernel_l2:
            return None
        layers = [m for m in self.modules() if isinstance(m, PenalizedConv2d)]
        weights = [m.weight for m in layers] + [
            self.embedding.weight,
            self.embedding.bias,
        ]
        return self.kernel_l2 * torch.stack([w.square().sum() for w in weights]).sum()

    def _positions(self, image_shape: tuple[int, int, int], stride: int) -> int:
        """Positions that are left after pooling a map of one position per `stride`."""
        if self.pooling == "average":
            return 1
        sides = [-(-side // stride) for side in image_shape[:2]]
        if min(sides) < 3:
            least = 2 * stride + 1
            raise UserError(
                f"images of {image_shape[0]} x {image_shape[1]} are too small for "
                f"avg32 pooling, which needs {least} x {least}; use average pooling."
            )
        return ((sides[0] - 3) // 2 + 1) * ((sides[1] - 3) // 2 + 1)

    def _initialise(self) -> None:
        """He-normal kernels (by fan-in) and a small normal embedding, as published."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.embedding.weight, std=0.01)
        nn.init.zeros_(self.embedding.bias)
