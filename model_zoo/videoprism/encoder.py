"""The factorised encoder: space within every frame, then time at every place.

Model 2 of ViViT (Arnab et al. 2021, arXiv:2103.15691) without any pooling, as
VideoPrism uses it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.videoprism.layers import NORM_EPS, Block, lecun_, stretched


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of the encoder.

    Attributes:
        patch: p, side of a patch in pixels.
        places: (T, H, W) of the tables of positions, in tokens; other clips stretch
            them.
        width: D.
        spatial: blocks over the tokens of a frame.
        temporal: blocks over the frames of a place.
        heads: attention heads.
        mlp: hidden width of a block.

    Raises:
        UserError: a size below 1, or heads that do not divide the width.

    Example:
        >>> base = EncoderShape(patch=18, places=(16, 16, 16), width=768, spatial=12,
        ...                     temporal=4, heads=12, mlp=3072)
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in FactorizedEncoder(base).parameters())
        114365184
    """

    patch: int
    places: tuple[int, int, int]
    width: int
    spatial: int
    temporal: int
    heads: int
    mlp: int

    def __post_init__(self) -> None:
        for name in ("patch", "width", "spatial", "temporal", "heads", "mlp"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.width % self.heads:
            raise UserError(f"heads={self.heads} must divide width={self.width}.")

    def grid(self, clip: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tokens along (time, height, width) of a clip (T, H, W).

        Raises:
            UserError: if patches do not divide its frames.
        """
        frames, height, width = clip
        if height % self.patch or width % self.patch:
            raise UserError(
                f"frames of {height} x {width} pixels cannot be cut into patches of "
                f"{self.patch}; resize them (--image-size), or choose another patch."
            )
        return frames, height // self.patch, width // self.patch


class Encoded(NamedTuple):
    """What the encoder makes of clips.

    Attributes:
        tokens: `[B, T * N, D]`, frame by frame.
        spatial: the same after the spatial half alone.
    """

    tokens: Tensor
    spatial: Tensor


class FactorizedEncoder(nn.Module):
    """Clips `[B, T, H, W, 3]` with values in [0, 1] to tokens; a `VideoEncoder`.

    Tokens that are not seen have no part in it: nobody attends to them, and what comes
    out at their places means nothing.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        width, (frames, height, columns) = shape.width, shape.places
        self.patches = nn.Linear(3 * shape.patch**2, width)
        self.space = nn.Parameter(_places(height * columns, width))
        self.time = nn.Parameter(_places(frames, width))
        self.spatial = self._blocks(shape.spatial)
        self.spatial_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.temporal = self._blocks(shape.temporal)
        self.temporal_norm = nn.LayerNorm(width, eps=NORM_EPS)
        lecun_(self)
        with torch.no_grad():  # a grey patch starts as nothing, not as most of a token
            self.patches.bias.copy_(-0.5 * self.patches.weight.sum(1))

    def forward(
        self, clips: Tensor, seen: Tensor | None = None, kept: Tensor | None = None
    ) -> Encoded:
        """Tokens after both halves, and after the first.

        Args:
            clips: `[B, T, H, W, 3]`.
            seen: bool `[B, T * N]`; None is all. Padding frames are unseen tokens.
            kept: int64 `[B, n]`, places that are kept in every frame, the same tubes
                through all of them; the rest is cut out and N is n then.
        """
        outputs, spatial, _ = self._run(clips, seen, kept)
        return Encoded(self.temporal_norm(outputs[-1]).flatten(1, 2), spatial)

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Tokens `[B, T, h, w, D]` of the last blocks, the last of them normalised.

        Args:
            clips: float `[B, 3, T, H, W]`, as `clip_pixels` makes them.
            last: number of blocks.
        """
        pixels = (clips.permute(0, 2, 3, 4, 1) + 1.0) * (128.0 / 255.0)
        outputs, _, grid = self._run(pixels, None, None)
        outputs = outputs[-last:]
        outputs[-1] = self.temporal_norm(outputs[-1])
        return [torch.unflatten(tokens, 2, grid[1:]) for tokens in outputs]

    def adapter_sites(self) -> Mapping[str, int]:
        """The perceptron of every block."""
        halves = {"spatial": self.shape.spatial, "temporal": self.shape.temporal}
        return {
            f"{half}.{i}.mlp": self.shape.width
            for half, count in halves.items()
            for i in range(count)
        }

    def _run(
        self, clips: Tensor, seen: Tensor | None, kept: Tensor | None
    ) -> tuple[list[Tensor], Tensor, tuple[int, int, int]]:
        """Every block's tokens `[B, T, N, D]`; the first half's; the grid."""
        batch, frames, height, width = clips.shape[:4]
        grid = self.shape.grid((frames, height, width))
        x = self.patches(patchify(clips, self.shape.patch))
        x = x + stretched(self.space, self.shape.places[1:], grid[1:])
        if kept is not None:
            chosen = kept[:, None, :, None].expand(-1, frames, -1, x.shape[-1])
            x = torch.gather(x, 2, chosen)
        blocked = None
        if seen is not None:
            blocked = ~seen.reshape(batch, frames, -1)
        outputs = []
        x = x.flatten(0, 1)
        for block in self.spatial:
            x = block(x, None if blocked is None else blocked.flatten(0, 1))
            outputs.append(torch.unflatten(x, 0, (batch, frames)))
        x = torch.unflatten(self.spatial_norm(x), 0, (batch, frames))
        spatial = x.flatten(1, 2)
        x = (x + self._times(frames)[:, None]).transpose(1, 2)
        count = x.shape[1]
        x = x.flatten(0, 1)
        if blocked is not None:
            blocked = blocked.transpose(1, 2).flatten(0, 1)
        for block in self.temporal:
            x = block(x, blocked)
            outputs.append(torch.unflatten(x, 0, (batch, count)).transpose(1, 2))
        return outputs, spatial, grid

    def _times(self, frames: int) -> Tensor:
        """Positions in time `[T, D]`; a picture is the first frame of a clip."""
        if frames == 1:
            return self.time[:1]
        return stretched(self.time, self.shape.places[:1], (frames,))

    def _blocks(self, count: int) -> nn.ModuleList:
        shape = self.shape
        return nn.ModuleList(
            Block(shape.width, shape.heads, shape.mlp) for _ in range(count)
        )


def patchify(clips: Tensor, patch: int) -> Tensor:
    """Frames `[B, T, H, W, 3]` cut into patches `[B, T, N, 3 * p * p]`, row by row."""
    batch, frames, height, width, colours = clips.shape
    rows, columns = height // patch, width // patch
    cut = clips.reshape(batch, frames, rows, patch, columns, patch, colours)
    return cut.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, frames, rows * columns, -1)


def _places(count: int, width: int) -> Tensor:
    return nn.init.normal_(torch.empty(count, width), std=count**-0.5)
