"""The other denoiser: a U-Net whose levels attend to the text.

Rombach et al. (2022, arXiv:2112.10752); with the default sizes it is the one of Stable
Diffusion 1.5 (859,520,964 parameters).
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.imagen3.autoencoder import Residual
from model_zoo.imagen3.condition import Condition, given
from model_zoo.imagen3.layers import attend, frequencies


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """Sizes of a U-Net.

    Attributes:
        side: of the latents; they are square.
        channels: that come in.
        out_channels: that go out.
        width: of the first level.
        multiples: of `width`, one per level; every level but the last halves the side,
            and every level but the last attends.
        blocks: residual blocks of each level on the way down; one more on the way up.
        heads: attention heads; None is one for every 64 channels.
        text: width of text tokens.
        groups: of the group normalisations.

    Raises:
        UserError: sizes that do not divide each other.
    """

    side: int
    channels: int = 4
    out_channels: int = 4
    width: int = 320
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    heads: int | None = 8
    text: int = 768
    groups: int = 32

    def __post_init__(self) -> None:
        levels = len(self.multiples)
        if levels < 2 or self.side % 2 ** (levels - 1) or self.width % self.groups:
            raise UserError(
                f"multiples={self.multiples} must name two levels or more, which halve "
                f"side={self.side}, and groups={self.groups} divide width={self.width}."
            )

    @property
    def classes(self) -> None:
        """A U-Net is told no labels."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.width * multiple for multiple in self.multiples)

    @property
    def features(self) -> int:
        """Channels of the map that embeddings are taken from."""
        return self.widths[-2]

    def heads_of(self, width: int) -> int:
        """Attention heads at a width."""
        return self.heads or max(1, width // 64)

    def build(self) -> "UNet":
        """A new U-Net."""
        return UNet(self)


class UNet(nn.Module):
    """Noisy latents `[B, channels, side, side]` to `[B, out_channels, side, side]`.

    The last layer starts at zero, and so does the output.

    Example:
        >>> shape = UNetShape(side=8, width=8, multiples=(1, 2), blocks=1, text=16,
        ...                   groups=4, heads=2)
        >>> text = Condition(torch.ones(3, 5, 16), torch.ones(3, 5))
        >>> UNet(shape)(torch.randn(3, 4, 8, 8), torch.full((3,), 9.0), text).shape
        torch.Size([3, 4, 8, 8])
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.moment = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width),
            nn.SiLU(),
            nn.Linear(4 * shape.width, 4 * shape.width),
        )
        self.enter = nn.Conv2d(shape.channels, shape.width, 3, padding=1)
        kept = [shape.width]  # channels of what the way up is handed across
        self.down, before = nn.ModuleList(), shape.width
        for level, width in enumerate(shape.widths):
            last = level == len(shape.widths) - 1
            for _ in range(shape.blocks):
                self.down.append(_Step(shape, before, width, attends=not last))
                before = width
                kept.append(width)
            if not last:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = _Step(shape, before, before, attends=True)
        self.after = _Step(shape, before, before, attends=False)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(shape.widths))):
            attends = level < len(shape.widths) - 1
            steps = nn.ModuleList()
            for _ in range(shape.blocks + 1):
                steps.append(_Step(shape, before + kept.pop(), width, attends=attends))
                before = width
            if level:
                steps.append(nn.Conv2d(width, width, 3, padding=1))
            self.up.append(steps)
        self.leave = nn.Sequential(
            nn.GroupNorm(shape.groups, shape.width),
            nn.SiLU(),
            nn.Conv2d(shape.width, shape.out_channels, 3, padding=1),
        )
        nn.init.zeros_(cast(Tensor, self.leave[-1].weight))
        nn.init.zeros_(cast(Tensor, self.leave[-1].bias))

    def forward(self, noisy: Tensor, time: Tensor, told: Condition) -> Tensor:
        """The prediction for latents at `time` `[B]`, 0 (clean) to 1000 (noise)."""
        return cast(Tensor, self.leave(self._climb(noisy, time, told, len(self.up))))

    def inner(
        self, noisy: Tensor, time: Tensor, told: Condition, share: float
    ) -> Tensor:
        """The map after the second level on the way up, as tokens `[B, T, D]`.

        The published place (Tang et al., 2023, arXiv:2306.03881); `share` is not used.
        """
        del share
        return self._climb(noisy, time, told, 2).flatten(2).transpose(1, 2)

    def _climb(
        self, noisy: Tensor, time: Tensor, told: Condition, levels: int
    ) -> Tensor:
        moment = self.moment(frequencies(time, self.shape.width))
        x: Tensor = self.enter(noisy)
        kept = [x]
        for step in self.down:
            x = step(x, moment, told) if isinstance(step, _Step) else step(x)
            kept.append(x)
        x = self.after(self.middle(x, moment, told), moment, told)
        for steps in list(self.up)[:levels]:
            for step in cast(nn.ModuleList, steps):
                if isinstance(step, _Step):
                    x = step(torch.cat([x, kept.pop()], 1), moment, told)
                else:
                    x = step(F.interpolate(x, scale_factor=2.0))
        out: Tensor = x
        return out


class _Step(nn.Module):
    """A residual block, and a transformer where the level attends."""

    def __init__(
        self, shape: UNetShape, before: int, after: int, *, attends: bool
    ) -> None:
        super().__init__()
        self.block = Residual(before, after, shape.groups, 4 * shape.width)
        self.transformer = (
            _Transformer(after, shape.heads_of(after), shape.text, shape.groups)
            if attends
            else None
        )

    def forward(self, x: Tensor, moment: Tensor, told: Condition) -> Tensor:
        out: Tensor = self.block(x, moment)
        if self.transformer is not None:
            out = self.transformer(out, told)
        return out


class _Transformer(nn.Module):
    """Attention among places, attention to the text, and a gated perceptron."""

    def __init__(self, width: int, heads: int, text: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.enter = nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(text, 2 * width, bias=False)
        self.read = nn.Linear(width, width)
        self.gated = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, told: Condition) -> Tensor:
        tokens = self.enter(self.norm(x).flatten(2).transpose(1, 2))
        query, key, value = self.inward(self.norms[0](tokens)).chunk(3, -1)
        tokens = tokens + self.outward(attend(query, key, value, self.heads))
        key, value = self.key_value(given(told.tokens, "text")).chunk(2, -1)
        query = self.query(self.norms[1](tokens))
        tokens = tokens + self.read(attend(query, key, value, self.heads, told.seen))
        wide, gate = self.gated(self.norms[2](tokens)).chunk(2, -1)
        tokens = tokens + self.out(wide * F.gelu(gate))
        out: Tensor = x + self.leave(tokens).transpose(1, 2).reshape(x.shape)
        return out
