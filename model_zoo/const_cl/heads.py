"""The local head: a perceptron for clips, and a decoder that carries regions across.

Both stay on the virtual client; the paper discards them after training, too. Where the
published perceptron normalises over the batch, ours normalises every row by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.video.places import CODE, PlaceCode
from model_zoo.video.roi import roi_align


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Sizes of the local head.

    Attributes:
        channels: C of the backbone's maps.
        hidden: width of the perceptron.
        hidden_layers: hidden layers of the perceptron.
        embedding: width of its output.
        region: cells along each side that a box is cut into.
        context: frames that a region may look at, around the middle one.
        layers: of the decoder.
        units: attention units side by side in a layer.
        width: of a unit.
        outputs: width of regions that were carried across; None is `channels`, which
            the local loss needs.
        guided: whether regions are carried by the decoder. If not, there is none, and
            regions are compared as they are: the paper's ablation.

    Raises:
        UserError: an even number of context frames, or no layers in the decoder.
    """

    channels: int = 2048
    hidden: int = 2048
    hidden_layers: int = 3
    embedding: int = 128
    region: int = 4
    context: int = 5
    layers: int = 3
    units: int = 3
    width: int = 128
    outputs: int | None = None
    guided: bool = True

    def __post_init__(self) -> None:
        if self.context % 2 == 0:
            raise UserError(
                f"context={self.context} must be odd: as many frames before the middle "
                "one as after it."
            )
        if self.layers < 1:
            raise UserError(
                f"layers={self.layers} must be at least 1; guided=False leaves the "
                "decoder out."
            )


class LocalHead(nn.Module):
    """Both heads of one virtual client."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        width = shape.channels
        for _ in range(shape.hidden_layers):
            layers += [nn.Linear(width, shape.hidden, bias=False)]
            layers += [nn.LayerNorm(shape.hidden), nn.ReLU()]
            width = shape.hidden
        self.perceptron = nn.Sequential(*layers, nn.Linear(width, shape.embedding))
        self.reconstructor = Reconstructor(shape) if shape.guided else None

    def carried(self, regions: Tensor, maps: Tensor) -> Tensor:
        """Regions `[B, N, C]` as they should look in another view.

        Args:
            regions: of one view.
            maps: of the other view, unit-length features `[B, C, t, h, w]`; they play
                no part where nothing guides.
        """
        if self.reconstructor is None:
            return regions
        out: Tensor = self.reconstructor(regions, self.reconstructor.memory(maps))
        return out


class Reconstructor(nn.Module):
    """Carries region features of one view into the other, guided by its context."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        self.places = PlaceCode()
        memory = shape.channels + 2 * CODE
        widths = [shape.channels] + [shape.units * shape.width] * shape.layers
        self.layers = nn.ModuleList(
            Side(widths[i], memory, shape.width, shape.units)
            for i in range(shape.layers)
        )
        self.outward = nn.Linear(widths[-1], shape.outputs or shape.channels)

    def forward(self, regions: Tensor, memory: Tensor) -> Tensor:
        """Regions `[B, N, C]` of one view in the other, whose memory is `[B, m, D]`."""
        x = regions
        for layer in self.layers:
            x = layer(x, memory)
        out: Tensor = self.outward(x)
        return out

    def memory(self, maps: Tensor) -> Tensor:
        """Context of a view: all places of the middle frames, `[B, m, C + 16]`.

        Args:
            maps: unit-length features `[B, C, t, h, w]`.
        """
        frames = context_frames(maps.shape[2], self.shape.context)
        part = maps[:, :, frames].movedim(1, -1)
        return torch.cat([part, self.places(part)], dim=-1).flatten(1, 3)


class Side(nn.Module):
    """Units side by side, their outputs joined."""

    def __init__(self, inputs: int, memory: int, width: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(Unit(inputs, memory, width) for _ in range(units))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """`[B, N, inputs]` to `[B, N, units * width]`."""
        return torch.cat([unit(x, memory) for unit in self.units], dim=-1)


class Unit(nn.Module):
    """Attention whose query is its own shortcut, then a perceptron without one."""

    def __init__(self, inputs: int, memory: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(inputs, width)
        self.key = nn.Linear(memory, width)
        self.value = nn.Linear(memory, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """`[B, N, inputs]` to `[B, N, width]`."""
        query = self.query(x)
        logits = query @ self.key(memory).transpose(1, 2) / query.shape[-1] ** 0.5
        y = self.norm(query + logits.softmax(-1) @ self.value(memory))
        out: Tensor = self.outer(F.gelu(self.inner(y)))
        return out


def context_frames(frames: int, context: int) -> list[int]:
    """The frames that a region may look at.

    Raises:
        UserError: fewer frames than the context has.

    Example:
        >>> context_frames(8, 5)
        [2, 3, 4, 5, 6]
    """
    if context > frames:
        raise UserError(f"context={context} is more than a map's {frames} frames.")
    step, middle = frames // context, frames // 2
    return [middle + j * step for j in range(-(context // 2), context // 2 + 1)]


def region_features(maps: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Mean features of boxes in the middle frame, `[B, N, C]`.

    Args:
        maps: `[B, C, t, h, w]`.
        boxes: (ymin, xmin, ymax, xmax) in [0, 1], `[B, N, 4]`.
        size: cells along each side of a box.
    """
    middle = maps[:, :, maps.shape[2] // 2]
    return roi_align(middle, boxes.to(maps.dtype), size, 1).mean((-2, -1))
