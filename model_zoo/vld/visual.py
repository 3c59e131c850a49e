"""The visual half: frames one by one, then a few tokens for the whole clip."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.blocks import Block, through
from model_zoo.text.transformer import waves
from model_zoo.video.tubes import TubeShape, TubeTokens, place_table, places
from model_zoo.vld.attention import ReadingBlock


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """Sizes of an image transformer without a class token.

    Attributes:
        patch: side of a patch in pixels; it divides the frame.
        width: D.
        layers: blocks.
        heads: attention heads of each.
        mlp: hidden width of each.

    Raises:
        UserError: a number below 1, or heads that do not divide the width.
    """

    patch: int
    width: int
    layers: int
    heads: int
    mlp: int

    def __post_init__(self) -> None:
        for name in ("patch", "width", "layers", "heads", "mlp"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.width % self.heads:
            raise UserError(f"heads={self.heads} must divide width={self.width}.")


class FrameEncoder(nn.Module):
    """A vision transformer for single frames (Dosovitskiy et al. 2021)."""

    def __init__(self, shape: VitShape, side: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        patch = (1, shape.patch, shape.patch)
        self.patches = TubeTokens(
            TubeShape(clip=(1, *side), tube=patch, width=shape.width, separable=False)
        )
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, shape.mlp, "gelu")
            for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.patches.shape.grid[1:]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames `[N, 3, H, W]` to normalised tokens `[N, h * w, D]`."""
        normed: Tensor = self.norm(self.outputs(frames)[-1])
        return normed

    def outputs(self, frames: Tensor) -> list[Tensor]:
        """What every block makes of the frames, earliest first."""
        return through(self.blocks, self.patches(frames[:, :, None]))


def frames_of(clips: Tensor) -> Tensor:
    """Clips `[B, 3, T, H, W]` as frames `[B * T, 3, H, W]`."""
    return clips.transpose(1, 2).flatten(0, 1)


class FramePlaces(nn.Module):
    """A learned place in time for every token of a frame.

    It starts as sine waves, so that order is there to be found before anything is
    learned. Without it, whoever reads a set of frames cannot tell their order.
    """

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.table = place_table(frames, width)
        if not self.table.weight.is_meta:
            with torch.no_grad():
                self.table.weight.copy_(0.5 * waves(frames, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, T, N, D]` with their places."""
        placed: Tensor = (
            tokens + self.table(places(tokens, tokens.shape[1]))[:, :, None]
        )
        return placed


class Visual(nn.Module):
    """Clips to `queries` tokens of the language model's width.

    Frames are encoded one by one; learned queries then read all tokens of all frames
    once (the resampler of Alayrac et al. 2022, arXiv:2204.14198, with one layer). How
    the paper merges frames is unknown; this is our choice.
    """

    def __init__(
        self,
        vit: VitShape,
        clip: tuple[int, int, int],
        queries: int,
        language_width: int,
    ) -> None:
        super().__init__()
        self.vit = FrameEncoder(vit, clip[1:])
        self.frames = FramePlaces(clip[0], vit.width)
        self.queries = place_table(queries, vit.width)
        self.resampler = ReadingBlock(vit.width, vit.heads, vit.mlp, itself=False)
        self.norm = nn.LayerNorm(vit.width)
        self.project = nn.Linear(vit.width, language_width)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips `[B, 3, T, H, W]` to `[B, Q, W]`."""
        tokens = torch.unflatten(self.vit(frames_of(clips)), 0, (-1, clips.shape[2]))
        return self.resample(self.frames(tokens))

    def resample(self, tokens: Tensor) -> Tensor:
        """Placed tokens `[B, T, N, D]` to `[B, Q, W]`."""
        memory = tokens.flatten(1, 2)
        count = self.queries.num_embeddings
        read = self.resampler(self.queries(places(memory, count)), memory)
        out: Tensor = self.project(self.norm(read))
        return out
