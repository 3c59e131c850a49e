"""The student: a video tower and a text tower that share a space."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model_zoo.blocks import Block, through
from model_zoo.vld.visual import FrameEncoder, FramePlaces, VitShape, frames_of


class VideoTower(nn.Module):
    """Attention within frames, then along time at every place; a `VideoEncoder`."""

    def __init__(
        self, vit: VitShape, clip: tuple[int, int, int], temporal_layers: int
    ) -> None:
        super().__init__()
        self.vit = FrameEncoder(vit, clip[1:])
        self.frames = FramePlaces(clip[0], vit.width)
        self.temporal = nn.ModuleList(
            Block(vit.width, vit.heads, vit.mlp, "gelu") for _ in range(temporal_layers)
        )
        self.norm = nn.LayerNorm(vit.width)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips `[B, 3, T, H, W]` to tokens `[B, T, h, w, D]`."""
        return self.grids(clips, 1)[0]

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Tokens `[B, T, h, w, D]` of the last blocks, the last of them normalised."""
        batch = clips.shape[0]
        outputs = self.vit.outputs(frames_of(clips))
        grids = [torch.unflatten(x, 0, (batch, -1)) for x in outputs]  # [B, T, N, D]
        x = self.frames(torch.unflatten(self.vit.norm(outputs[-1]), 0, (batch, -1)))
        tracks = x.transpose(1, 2).flatten(0, 1)  # [B * N, T, D]
        for seen in through(self.temporal, tracks):
            grids.append(torch.unflatten(seen, 0, (batch, -1)).transpose(1, 2))
        grids[-1] = self.norm(grids[-1])
        return [torch.unflatten(x, 2, self.vit.grid) for x in grids[-last:]]

    def adapter_sites(self) -> Mapping[str, int]:
        """The perceptron of every block."""
        width = self.vit.shape.width
        inside = (f"vit.blocks.{i}.mlp" for i in range(len(self.vit.blocks)))
        along = (f"temporal.{i}.mlp" for i in range(len(self.temporal)))
        return dict.fromkeys((*inside, *along), width)
