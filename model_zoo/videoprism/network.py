"""The backbones of the two stages: video with text, and a student with its teacher."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.heads import unit_rows
from fedemb.protocols import Parameters
from model_zoo.text.transformer import TextShape, TextTower
from model_zoo.videoprism.encoder import EncoderShape, FactorizedEncoder
from model_zoo.videoprism.layers import Block, MaxPooler, Pooler, lecun_

TEACHER = "teacher."
_TAUGHT = ("video.", "auxiliary.", "pooler.")


@dataclass(frozen=True, kw_only=True)
class DualShape:
    """Sizes of video and text together.

    Attributes:
        video: the encoder's.
        text: the text tower's, as wide as the encoder.
        auxiliary: blocks over all tokens before the pooler.
        pooler: width of the pooler's attention, in widths of the encoder; with 0, the
            largest value of every channel is taken instead.
    """

    video: EncoderShape
    text: TextShape
    auxiliary: int = 2
    pooler: int = 4


class MeanTokens(nn.Module):
    """The encoder alone; an embedding is the mean of its tokens."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.video = FactorizedEncoder(shape)

    def forward(self, clips: Tensor) -> Tensor:
        """Means `[B, D]` of the tokens of clips `[B, 3, T, H, W]`, x / 128 - 1."""
        return self.video.grids(clips, 1)[0].mean((1, 2, 3))


class PooledTokens(nn.Module):
    """The encoder and a pooler as wide as it: a classifier without its last layer."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.video = FactorizedEncoder(shape)
        self.pooler = Pooler(shape.width, shape.heads)
        lecun_(self.pooler)

    def forward(self, clips: Tensor) -> Tensor:
        """Pooled tokens `[B, D]` of clips `[B, 3, T, H, W]`, x / 128 - 1."""
        pooled: Tensor = self.pooler(self.video.grids(clips, 1)[0].flatten(1, 3))
        return pooled


class VideoSide(nn.Module):
    """The encoder, blocks over all its tokens, and the pooler of the contrast."""

    def __init__(self, shape: DualShape) -> None:
        super().__init__()
        video = shape.video
        self.video = FactorizedEncoder(video)
        self.auxiliary = nn.ModuleList(
            Block(video.width, video.heads, video.mlp) for _ in range(shape.auxiliary)
        )
        self.pooler = (
            Pooler(video.width, video.heads, shape.pooler * video.width)
            if shape.pooler
            else MaxPooler(video.width)
        )
        lecun_(self.auxiliary)
        lecun_(self.pooler)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector `[B, D]`, of any length, for the tokens `[B, n, D]` of clips."""
        for block in self.auxiliary:
            tokens = block(tokens)
        pooled: Tensor = self.pooler(tokens)
        return pooled


class VideoText(VideoSide):
    """Clips and captions in one space of unit vectors; 247,623,424 at base size."""

    def __init__(self, shape: DualShape) -> None:
        super().__init__(shape)
        self.text = TextTower(shape.text)
        lecun_(self.text.blocks)

    def see(self, clips: Tensor, kept: Tensor | None = None) -> Tensor:
        """Unit-length embeddings `[B, D]` of clips `[B, T, H, W, 3]`.

        With `kept` `[B, n]`, only these places of every frame are looked at.
        """
        return unit_rows(self.pool(self.video(clips, kept=kept).tokens))

    def read(self, ids: Tensor) -> Tensor:
        """Unit-length embeddings `[B, D]` of texts `[B, L]`."""
        return unit_rows(self.text(ids))


class Distilled(VideoText):
    """The student in the place of the encoder, beside a frozen copy of its teacher.

    Pooler and text tower are those of the first stage. Train `video.*` alone.
    """

    def __init__(self, shape: DualShape) -> None:
        super().__init__(shape)
        self.teacher = VideoSide(shape).requires_grad_(False)

    def teach(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher makes of whole clips, without gradients.

        Tokens `[B, n, D]`, and one vector `[B, D]` of each clip.
        """
        with torch.no_grad():
            tokens = self.teacher.video(clips).tokens
            return tokens, self.teacher.pool(tokens)


def begin_distillation(earlier: Parameters) -> dict[str, Tensor]:
    """The state of `Distilled` from that of `VideoText`: everything, and the teacher.

    The first stage is a private release, so a copy of it costs nothing.

    Example:
        >>> state = {"video.time": torch.ones(1), "text.norm.bias": torch.ones(2)}
        >>> sorted(begin_distillation(state))
        ['teacher.video.time', 'text.norm.bias', 'video.time']
    """
    copied = {
        TEACHER + name: value.clone()
        for name, value in earlier.items()
        if name.startswith(_TAUGHT)
    }
    return {**earlier, **copied}


def without_teacher(earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of `VideoText` from that of `Distilled`: the student and its towers."""
    return {k: v for k, v in earlier.items() if not k.startswith(TEACHER)}
