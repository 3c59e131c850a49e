"""The denoiser: a diffusion transformer whose adaptive layers start at zero.

Peebles and Xie (2023, arXiv:2212.09748). Text reaches it by cross-attention, and its
pooled vector is added to the time (Chen et al., 2023, arXiv:2310.00426); labels reach
it as the original's do. At initialisation every block is the identity and the output is
exactly zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.imagen3.condition import Condition, given
from model_zoo.imagen3.layers import attend, frequencies, places

_FREQUENCIES = 256


@dataclass(frozen=True, kw_only=True)
class DiTShape:
    """Sizes of a diffusion transformer.

    Attributes:
        side: of the latents; they are square.
        channels: that come in.
        out_channels: that go out; the first ones are the prediction, as many as the
            latents have, and what is left predicts variances.
        patch: side of the patches that become tokens.
        width: of the tokens.
        depth: number of blocks.
        heads: attention heads of each; they divide the width.
        mlp_ratio: hidden width of the perceptrons, in widths.
        classes: labels it can be told, besides "none"; None for no labels.
        text: width of text tokens and pooled text vectors; None for no text.

    Raises:
        UserError: sizes that do not divide each other.
    """

    side: int
    channels: int = 4
    out_channels: int = 4
    patch: int = 2
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    classes: int | None = None
    text: int | None = None

    def __post_init__(self) -> None:
        if self.side % self.patch or self.width % self.heads or self.width % 4:
            raise UserError(
                f"patch={self.patch} must divide side={self.side}, and heads="
                f"{self.heads} and 4 divide width={self.width}."
            )

    @property
    def grid(self) -> int:
        """Tokens on a side."""
        return self.side // self.patch

    @property
    def features(self) -> int:
        """Width of what embeddings are taken from."""
        return self.width

    def build(self) -> "DiT":
        """A new transformer."""
        return DiT(self)


class DiT(nn.Module):
    """Noisy latents `[B, channels, side, side]` to `[B, out_channels, side, side]`.

    Example:
        >>> import torch
        >>> model = DiT(DiTShape(side=8, width=32, depth=2, heads=2, text=16))
        >>> text = Condition(torch.ones(3, 5, 16), torch.ones(3, 5), torch.ones(3, 16))
        >>> out = model(torch.randn(3, 4, 8, 8), torch.full((3,), 500.0), text)
        >>> out.shape, bool((out == 0).all())
        (torch.Size([3, 4, 8, 8]), True)
    """

    trainable_selections: Mapping[str, str] = MappingProxyType(
        {
            "denoiser": "enter.*,time.*,blocks.*,leave.*",
            "adaptive": "blocks.*.modulation.*,leave.*",
        }
    )

    def __init__(self, shape: DiTShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.enter = nn.Conv2d(shape.channels, width, shape.patch, stride=shape.patch)
        self.place = nn.Parameter(places(shape.grid, width), requires_grad=False)
        self.time = nn.ModuleDict({"moment": _perceptron(_FREQUENCIES, width)})
        if shape.classes is not None:
            self.time["label"] = nn.Embedding(shape.classes + 1, width)
        if shape.text is not None:
            self.time["text"] = _perceptron(shape.text, width)
        self.blocks = nn.ModuleList(
            DiTBlock(width, shape.heads, shape.mlp_ratio, shape.text)
            for _ in range(shape.depth)
        )
        self.leave = _Last(width, shape.patch**2 * shape.out_channels)
        self._initialise()

    def forward(self, noisy: Tensor, time: Tensor, told: Condition) -> Tensor:
        """The prediction for latents at `time` `[B]`, 0 (clean) to 1000 (noise)."""
        tokens, moment = self._hidden(noisy, time, told, self.shape.depth)
        return self._whole(self.leave(tokens, moment))

    def inner(
        self, noisy: Tensor, time: Tensor, told: Condition, share: float
    ) -> Tensor:
        """Tokens `[B, T, width]` after this share of the blocks, one at least."""
        layers = max(1, round(share * self.shape.depth))
        return self._hidden(noisy, time, told, layers)[0]

    def _hidden(
        self, noisy: Tensor, time: Tensor, told: Condition, layers: int
    ) -> tuple[Tensor, Tensor]:
        tokens = self.enter(noisy).flatten(2).transpose(1, 2) + self.place
        moment = self._moment(time, told)
        for block in list(self.blocks)[:layers]:
            tokens = block(tokens, moment, told)
        return tokens, moment

    def _moment(self, time: Tensor, told: Condition) -> Tensor:
        moment = self.time["moment"](frequencies(time, _FREQUENCIES))
        if self.shape.classes is not None:
            moment = moment + self.time["label"](given(told.label, "label"))
        if self.shape.text is not None:
            moment = moment + self.time["text"](given(told.pooled, "text"))
        return cast(Tensor, moment)

    def _whole(self, patches: Tensor) -> Tensor:
        """Patches `[B, T, p * p * C]` laid out as `[B, C, side, side]`."""
        grid, patch = self.shape.grid, self.shape.patch
        split = patches.reshape(-1, grid, grid, patch, patch, self.shape.out_channels)
        joined = split.permute(0, 5, 1, 3, 2, 4)
        return joined.reshape(-1, self.shape.out_channels, *[self.shape.side] * 2)

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.enter.weight.view(self.shape.width, -1))
        for layer in self.time.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
        closed = [layer for b in self.blocks for layer in cast(DiTBlock, b).closed()]
        for layer in (*closed, self.leave.modulation, self.leave.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class DiTBlock(nn.Module):
    """Attention, attention to the text, a perceptron; each adds nothing at first."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, text: int | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)
        if text is not None:
            self.query = nn.Linear(width, width)
            self.key_value = nn.Linear(text, 2 * width)
            self.read = nn.Linear(width, width)  # starts at zero
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(mlp_ratio * width, width),
        )
        self.modulation = nn.Linear(width, 6 * width)
        self.reads = text is not None

    def closed(self) -> list[nn.Linear]:
        """The layers that start at zero and make the block the identity."""
        return [self.modulation, *([self.read] if self.reads else [])]

    def forward(self, x: Tensor, moment: Tensor, told: Condition) -> Tensor:
        """Tokens `[B, T, width]`."""
        parts = self.modulation(F.silu(moment))[:, None].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        query, key, value = self.inward(_normal(x) * (1 + scale1) + shift1).chunk(3, -1)
        x = x + gate1 * self.outward(attend(query, key, value, self.heads))
        if self.reads:
            key, value = self.key_value(given(told.tokens, "text")).chunk(2, -1)
            found = attend(self.query(_normal(x)), key, value, self.heads, told.seen)
            x = x + self.read(found)
        out: Tensor = x + gate2 * self.mlp(_normal(x) * (1 + scale2) + shift2)
        return out


class _Last(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(moment))[:, None].chunk(2, -1)
        out: Tensor = self.linear(_normal(x) * (1 + scale) + shift)
        return out


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _perceptron(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, width), nn.SiLU(), nn.Linear(width, width))
