"""The image tower and the dual encoder of CLIP (Radford et al. 2021, arXiv:2103.00020).

The text tower is the zoo's own, causal and read at the end of the text. Counts are
CLIP's to the digit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.blocks import Block
from model_zoo.text.transformer import TextShape, TextTower


@dataclass(frozen=True, kw_only=True)
class DualShape:
    """Sizes of an image and a text tower that share an embedding space.

    Attributes:
        patch: side of a patch, in pixels.
        side: of the pictures, in pixels.
        width: d of the image tower.
        layers: blocks of the image tower.
        heads: of its attention.
        text_width: of the text tower.
        text_layers: its blocks.
        text_heads: of its attention.
        text_length: longest text, in pieces.
        vocab_size: pieces.
        embedding_dim: e of the shared space.

    Raises:
        UserError: if patches do not divide the picture, or heads the width.
    """

    patch: int
    side: int
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    text_length: int
    vocab_size: int
    embedding_dim: int

    def __post_init__(self) -> None:
        if self.side % self.patch or self.side < self.patch:
            raise UserError(
                f"side={self.side} must be a multiple of patch={self.patch}; set "
                "data.image_size."
            )
        if self.width % self.heads or self.text_width % self.text_heads:
            raise UserError(
                f"heads={self.heads} and text_heads={self.text_heads} must divide "
                f"width={self.width} and text_width={self.text_width}."
            )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    def text(self) -> TextShape:
        """The text tower's shape."""
        return TextShape(
            vocab_size=self.vocab_size,
            length=self.text_length,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            causal=True,
            pool="eos",
            embedding_dim=self.embedding_dim,
        )


class ImageTower(nn.Module):
    """Pictures `[B, 3, H, W]` to tokens `[B, 1 + N, d]`, the class token first."""

    def __init__(self, shape: DualShape) -> None:
        super().__init__()
        width = shape.width
        self.patches = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        places = shape.grid**2 + 1
        self.positions = nn.Parameter(torch.randn(places, width) * width**-0.5)
        self.norm_before = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, 4 * width, "gelu") for _ in range(shape.layers)
        )
        self.norm_after = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """All tokens after the last norm."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(patches.shape[0], 1, -1)
        x = self.norm_before(torch.cat([first, patches], dim=1) + self.positions)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm_after(x)
        return tokens


class DualEncoder(nn.Module):
    """Pictures and texts in one space: e-dimensional, aligned by contrast."""

    def __init__(self, shape: DualShape) -> None:
        super().__init__()
        self.image = ImageTower(shape)
        self.projection = nn.Linear(shape.width, shape.embedding_dim, bias=False)
        self.text = TextTower(shape.text())
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, H, W]` and ids `[C, L]` -> embeddings `[B, e]` and `[C, e]`."""
        pictured = self.projection(self.image(images)[:, 0])
        return pictured, self.text(texts)


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings `[1 + g^2, d]` for another grid, `[1 + grid^2, d]`.

    Bilinear, the class token's kept; how a tower learned on small pictures reads large
    ones.
    """
    first, rest = positions[:1], positions[1:]
    old = math.isqrt(len(rest))
    plane = rest.T.reshape(1, -1, old, old)
    plane = nn.functional.interpolate(plane, (grid, grid), mode="bilinear")
    return torch.cat([first, plane[0].flatten(1).T])
