"""The vision transformer over space-time tubes that VideoGLUE's public code judges.

Dosovitskiy et al. (2021), arXiv:2010.11929, with the tube embedding and the separable
positions of video masked autoencoders (Feichtenhofer et al. 2022, arXiv:2205.09113).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.text.transformer import Block


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

    Raises:
        UserError: a tube that does not divide the clip, or a class token with separable
            positions.
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

    def __post_init__(self) -> None:
        if any(a % b for a, b in zip(self.clip, self.tube, strict=True)):
            raise UserError(
                f"tube={self.tube} must divide the clip {self.clip} (frames, height, "
                "width)."
            )
        if self.class_token and self.separable:
            raise UserError("a class token needs joint positions: separable=False.")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along (time, height, width)."""
        t, h, w = (a // b for a, b in zip(self.clip, self.tube, strict=True))
        return t, h, w


class ViT3D(nn.Module):
    """Clips `[B, 3, T, H, W]` to embeddings `[B, D]`, the mean of normalised tokens.

    Example:
        >>> ViT3D(ViTShape())(torch.zeros(2, 3, 8, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.shape = shape
        t, h, w = shape.grid
        width = shape.width
        self.tubes = nn.Linear(3 * shape.tube[0] * shape.tube[1] * shape.tube[2], width)
        if shape.separable:
            self.time = _table(t, width)
            self.space = _table(h * w, width)
        else:
            self.place = _table(t * h * w + shape.class_token, width)
        if shape.class_token:
            self.leading = _table(1, width)
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
        tokens = self._blocks(clips)[-1]
        out: Tensor = self.embedding(self.norm(tokens).mean(1))
        return out

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Tokens `[B, t, h, w, D]` of the last blocks, the last of them normalised."""
        outputs = self._blocks(clips)[-last:]
        outputs[-1] = self.norm(outputs[-1])
        start = int(self.shape.class_token)
        return [
            torch.unflatten(tokens[:, start:], 1, self.shape.grid) for tokens in outputs
        ]

    def adapter_sites(self) -> Mapping[str, int]:
        """The perceptron of every block."""
        return {f"blocks.{i}.mlp": self.shape.width for i in range(self.shape.layers)}

    def _blocks(self, clips: Tensor) -> list[Tensor]:
        x = self._embedded(clips)
        blocked = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=x.device)
        outputs = []
        for block in self.blocks:
            x = block(x, blocked)
            outputs.append(x)
        return outputs

    def _embedded(self, clips: Tensor) -> Tensor:
        """Tokens with their places, `[B, tokens, D]`.

        A convolution whose stride is its kernel, written as a product: engines then
        have a rule for it.
        """
        t, h, w = self.shape.grid
        a, b, c = self.shape.tube
        cut = clips.reshape(len(clips), 3, t, a, h, b, w, c)
        rows = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(clips), t * h * w, -1)
        x: Tensor = self.tubes(rows)
        if self.shape.separable:
            times = self.time(_places(x, t)).repeat_interleave(h * w, dim=1)
            spaces = self.space(_places(x, h * w)).repeat(1, t, 1)
            separate: Tensor = x + times + spaces
            return separate
        if self.shape.class_token:
            x = torch.cat([self.leading(_places(x, 1)), x], dim=1)
        placed: Tensor = x + self.place(_places(x, x.shape[1]))
        return placed


def _table(places: int, width: int) -> nn.Embedding:
    table = nn.Embedding(places, width)
    nn.init.trunc_normal_(table.weight, std=0.02)
    return table


def _places(x: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=x.device).expand(len(x), count)
