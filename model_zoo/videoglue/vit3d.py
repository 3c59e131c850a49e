"""The vision transformer over space-time tubes that VideoGLUE's public code judges.

Dosovitskiy et al. (2021), arXiv:2010.11929, with the tube embedding and the separable
positions of video masked autoencoders (Feichtenhofer et al. 2022, arXiv:2205.09113).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.blocks import Block, through
from model_zoo.video.tubes import TubeShape, TubeTokens, place_table, places


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """Sizes of the transformer.

    Attributes:
        clip: (T, H, W) that it is built for.
        tube: (t, h, w) of one token.
        width: D.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of a block.
        class_token: whether a learned token leads; positions are joint then.
        separable: whether positions are a sum of a place in time and one in space.
        embedding_dim: D of the embedding after a linear layer; None is the width.
        pool: normalised tokens to an embedding, `mean` or `max`. Small transformers
            that start from nothing collapse with the mean.

    Raises:
        UserError: a tube that does not divide the clip, a class token with separable
            positions, or an unknown pool.
    """

    clip: tuple[int, int, int] = (8, 32, 32)
    tube: tuple[int, int, int] = (2, 8, 8)
    width: int = 64
    layers: int = 4
    heads: int = 4
    mlp: int = 128
    class_token: bool = False
    separable: bool = True
    embedding_dim: int | None = None
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max"):
            raise UserError(f"pool={self.pool!r} must be mean or max.")
        if self.class_token and self.separable:
            raise UserError("a class token needs joint positions: separable=False.")
        self.tubes.grid  # noqa: B018 - checks that tubes divide the clip

    @property
    def tubes(self) -> TubeShape:
        """How clips become tokens."""
        return TubeShape(
            clip=self.clip,
            tube=self.tube,
            width=self.width,
            separable=self.separable,
        )


class ViT3D(nn.Module):
    """Clips `[B, 3, T, H, W]` to embeddings `[B, D]`, pooled from normalised tokens.

    Example:
        >>> ViT3D(ViTShape())(torch.zeros(2, 3, 8, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.tokens = TubeTokens(shape.tubes)
        if shape.class_token:
            self.leading = place_table(1, width)
            self.leading_place = place_table(1, width)
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, shape.mlp, "gelu") for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.embedding = (
            nn.Linear(width, shape.embedding_dim)
            if shape.embedding_dim
            else nn.Identity()
        )

    def forward(self, clips: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, D]
        """One embedding per clip."""
        tokens = self.norm(self._blocks(clips)[-1])
        pooled = tokens.mean(1) if self.shape.pool == "mean" else tokens.amax(1)
        out: Tensor = self.embedding(pooled)
        return out

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Tokens `[B, t, h, w, D]` of the last blocks, the last of them normalised."""
        outputs = self._blocks(clips)[-last:]
        outputs[-1] = self.norm(outputs[-1])
        start = int(self.shape.class_token)
        return [
            torch.unflatten(tokens[:, start:], 1, self.shape.tubes.grid)
            for tokens in outputs
        ]

    def adapter_sites(self) -> Mapping[str, int]:
        """The perceptron of every block."""
        return {f"blocks.{i}.mlp": self.shape.width for i in range(self.shape.layers)}

    def _blocks(self, clips: Tensor) -> list[Tensor]:
        x = self.tokens(clips)
        if self.shape.class_token:
            first = places(x, 1)
            x = torch.cat([self.leading(first) + self.leading_place(first), x], dim=1)
        return through(self.blocks, x)
