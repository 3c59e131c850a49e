"""The two towers of G-ViLM: clips with group tokens, and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from fedemb.heads import unit_rows
from model_zoo.blocks import Block
from model_zoo.g_vilm.grouping import GroupingBlock
from model_zoo.text.transformer import TextShape, TextTower
from model_zoo.video.tubes import TubeShape, TubeTokens, place_table, places


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the video tower and of what both towers share.

    Attributes:
        clip: (T, H, W).
        tube: (t, h, w) of one token.
        width: of the video tower.
        layers: its blocks.
        heads: attention heads.
        mlp: hidden width of a block.
        groups: M, group tokens.
        grouping: after how many blocks groups gather tokens, ascending.
        shared: width of the embeddings that videos, groups and texts share.
        separable: positions of tubes.
        pool: tokens to a video embedding, `mean` or `max`. The paper does not say;
            small towers that start from nothing collapse with the mean.
        text: the text tower's sizes, without its projection.

    Raises:
        UserError: grouping at a depth that the tower does not have, or an unknown pool.
    """

    clip: tuple[int, int, int]
    tube: tuple[int, int, int]
    width: int
    layers: int
    heads: int
    mlp: int
    groups: int
    grouping: tuple[int, ...]
    shared: int
    text: TextShape
    separable: bool = True
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max"):
            raise UserError(f"pool={self.pool!r} must be mean or max.")
        inside = all(1 <= depth <= self.layers for depth in self.grouping)
        if not self.grouping or not inside or sorted(self.grouping) != [*self.grouping]:
            raise UserError(
                f"grouping={self.grouping} must be ascending depths from 1 to "
                f"layers={self.layers}."
            )

    @property
    def tubes(self) -> TubeShape:
        """How clips become tokens."""
        return TubeShape(
            clip=self.clip, tube=self.tube, width=self.width, separable=self.separable
        )


class Seen(NamedTuple):
    """What the video tower makes of clips.

    Attributes:
        tokens: `[B, t, h, w, D]`, none merged.
        groups: `[B, M, D]`.
        assigned: `[B, M, t * h * w]`, which token joined which group at last.
    """

    tokens: Tensor
    groups: Tensor
    assigned: Tensor


class VideoTower(nn.Module):
    """Clips to tokens and groups; a `VideoEncoder`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.tubes = TubeTokens(sizes.tubes)
        self.group_tokens = place_table(sizes.groups, width)
        self.blocks = nn.ModuleList(
            Block(width, sizes.heads, sizes.mlp, "gelu") for _ in range(sizes.layers)
        )
        self.grouping = nn.ModuleDict(
            {str(depth): GroupingBlock(width) for depth in sizes.grouping}
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, clips: Tensor) -> Seen:
        """Tokens and groups of clips `[B, 3, T, H, W]`."""
        outputs, groups, assigned = self._run(clips)
        return Seen(self._grid(self.norm(outputs[-1])), self.norm(groups), assigned)

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Tokens `[B, t, h, w, D]` of the last blocks, the last of them normalised."""
        outputs = self._run(clips)[0][-last:]
        outputs[-1] = self.norm(outputs[-1])
        return [self._grid(tokens) for tokens in outputs]

    def adapter_sites(self) -> Mapping[str, int]:
        """The perceptron of every block."""
        return {f"blocks.{i}.mlp": self.sizes.width for i in range(self.sizes.layers)}

    def _run(self, clips: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        tokens = self.tubes(clips)
        count = tokens.shape[1]
        groups = self.group_tokens(places(tokens, self.sizes.groups))
        assigned = torch.zeros_like(groups[..., :1]).expand(-1, -1, count)
        outputs = []
        for depth, block in enumerate(self.blocks, start=1):
            joint = block(torch.cat([tokens, groups], dim=1))
            tokens, groups = joint[:, :count], joint[:, count:]
            if str(depth) in self.grouping:
                groups, assigned = self.grouping[str(depth)](groups, tokens)
            outputs.append(tokens)
        return outputs, groups, assigned

    def _grid(self, tokens: Tensor) -> Tensor:
        grid: Tensor = torch.unflatten(tokens, 1, self.sizes.tubes.grid)
        return grid


class DualEncoder(nn.Module):
    """Both towers with their projections into one space."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = VideoTower(sizes)
        self.text = TextTower(sizes.text)
        self.to_shared = nn.Linear(sizes.width, sizes.shared, bias=False)
        self.groups_to_shared = nn.Linear(sizes.width, sizes.shared, bias=False)
        self.text_to_shared = nn.Linear(sizes.text.width, sizes.shared, bias=False)

    def see(self, clips: Tensor) -> dict[str, Tensor]:
        """Unit-length video `[B, S]` and group `[B, M, S]` embeddings; time steps z."""
        seen = self.video(clips)
        flat = seen.tokens.flatten(1, 3)
        pooled = flat.mean(1) if self.video.sizes.pool == "mean" else flat.amax(1)
        return {
            "video": unit_rows(self.to_shared(pooled)),
            "groups": unit_rows(self.groups_to_shared(seen.groups)),
            "steps": seen.tokens.mean((2, 3)),
        }

    def read(self, ids: Tensor) -> Tensor:
        """Unit-length embeddings `[..., S]` of texts `[..., L]`."""
        flat = ids.reshape(-1, ids.shape[-1])
        found = unit_rows(self.text_to_shared(self.text(flat)))
        return found.reshape(*ids.shape[:-1], -1)
