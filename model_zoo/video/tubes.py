"""Clips cut into tubes, as tokens that know their place."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TubeShape:
    """How clips become tokens.

    Attributes:
        clip: (T, H, W) that the positions are made for.
        tube: (t, h, w) of one token.
        width: D.
        separable: whether positions are a sum of a place in time and one in space.

    Raises:
        UserError: a tube that does not divide the clip.
    """

    clip: tuple[int, int, int]
    tube: tuple[int, int, int]
    width: int
    separable: bool = True

    def __post_init__(self) -> None:
        if any(a % b for a, b in zip(self.clip, self.tube, strict=True)):
            raise UserError(
                f"tube={self.tube} must divide the clip {self.clip} (frames, height, "
                "width): take clips of another length or size (--frames, "
                "--image-size), or a configuration with another tube."
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along (time, height, width)."""
        t, h, w = (a // b for a, b in zip(self.clip, self.tube, strict=True))
        return t, h, w


class TubeTokens(nn.Module):
    """Clips `[B, 3, T, H, W]` to tokens `[B, t * h * w, D]` with their places."""

    def __init__(self, shape: TubeShape) -> None:
        super().__init__()
        self.shape = shape
        t, h, w = shape.grid
        a, b, c = shape.tube
        self.project = nn.Linear(3 * a * b * c, shape.width)
        if shape.separable:
            self.time = place_table(t, shape.width)
            self.space = place_table(h * w, shape.width)
        else:
            self.place = place_table(t * h * w, shape.width)

    def forward(self, clips: Tensor) -> Tensor:
        """A convolution whose stride is its kernel, written as a product.

        Engines have a rule for products.
        """
        t, h, w = self.shape.grid
        a, b, c = self.shape.tube
        count = clips.shape[0]  # not len: a number of rows would be fixed by export
        cut = clips.reshape(count, 3, t, a, h, b, w, c)
        rows = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(count, t * h * w, -1)
        x: Tensor = self.project(rows)
        if not self.shape.separable:
            joint: Tensor = x + self.place(places(x, t * h * w))
            return joint
        times = self.time(places(x, t)).repeat_interleave(h * w, dim=1)
        separate: Tensor = x + times + self.space(places(x, h * w)).repeat(1, t, 1)
        return separate


def place_table(count: int, width: int) -> nn.Embedding:
    """Learned places; look them up with `places`."""
    table = nn.Embedding(count, width)
    nn.init.trunc_normal_(table.weight, std=0.02)
    return table


def places(x: Tensor, count: int) -> Tensor:
    """0 to count - 1 for every row of `x`, int64 `[B, count]`.

    A lookup per row, rather than one for all, is what per-row gradients need.
    """
    return torch.arange(count, device=x.device).expand(x.shape[0], count)
