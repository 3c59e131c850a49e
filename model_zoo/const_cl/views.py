"""Two views of every clip, and boxes drawn at random, from a virtual client's seed."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.video.encoder import clip_pixels

REGIONS = ("random", "things")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a view is made of a clip.

    Attributes:
        frames: T' of a view; where the clip has more, the view starts anywhere.
        stride: frames of the clip from one frame of a view to the next.
        least_area: of the crop, as a share of the frame.
        flip: whether half of the views are mirrored.
        light: largest change of brightness and of contrast, as a share.
        boxes: N, random boxes of a view.
        regions: `random` boxes as published, or `things`: those that the data have of
            things in the middle frame, as a detector's would be, -1 out of sight.

    Raises:
        UserError: a number out of range, or other regions.
    """

    frames: int
    stride: int = 1
    least_area: float = 0.3
    flip: bool = True
    light: float = 0.3
    boxes: int = 8
    regions: str = "random"

    def __post_init__(self) -> None:
        if self.regions not in REGIONS:
            raise UserError(
                f"regions={self.regions!r} must be one of {', '.join(REGIONS)}."
            )
        if min(self.frames, self.stride, self.boxes) < 1:
            raise UserError(
                f"frames={self.frames}, stride={self.stride} and boxes={self.boxes} "
                "must be at least 1."
            )
        if not 0 < self.least_area <= 1 or not 0 <= self.light < 1:
            raise UserError(
                f"least_area={self.least_area} must be in (0, 1] and light="
                f"{self.light} in [0, 1)."
            )

    @property
    def span(self) -> int:
        """Frames of a clip from the first to the last of a view.

        Example:
            >>> Augmentation(frames=16, stride=2).span
            31
        """
        return (self.frames - 1) * self.stride + 1


def augmented(
    clips: NDArray[np.generic],
    offsets: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    how: Augmentation,
    view: int,
    things: NDArray[np.generic] | None = None,
) -> tuple[Tensor, Tensor]:
    """View number `view` of every clip `[n, 3, T', H, W]`, and its boxes `[n, N, 4]`.

    A group's views depend on its own seed and clips alone.

    Args:
        clips: `[n, T, H, W, 3]`.
        offsets: of the groups, which are virtual clients.
        seeds: one per group.
        how: a view is made.
        view: number of the view; others have other randomness.
        things: boxes `[n, T, N, 4]` whose view is returned instead of random ones.

    Raises:
        UserError: clips shorter than a view.
    """
    count, length = clips.shape[:2]
    if length < how.span:
        raise UserError(
            f"clips of {length} frames are shorter than {how.frames} frames at "
            f"stride={how.stride}, which span {how.span}. Take longer clips, or a "
            "lower stride."
        )
    words = np.empty((count, 7 + 4 * how.boxes))
    for group, seed in enumerate(seeds):
        rows = slice(int(offsets[group]), int(offsets[group + 1]))
        draw = np.random.Generator(np.random.Philox([int(seed), view]))
        words[rows] = draw.random((rows.stop - rows.start, words.shape[1]))
    start = np.floor(words[:, 0] * (length - how.span + 1)).astype(np.int64)
    chosen = start[:, None] + how.stride * np.arange(how.frames)
    rows_of = np.arange(count)[:, None], chosen
    crop = Crop.drawn(words[:, 1:5], how)
    pixels = _lit(crop.clips(clip_pixels(clips[rows_of])), words[:, 5:7], how)
    if things is None:
        return pixels, random_boxes(words[:, 7:])
    keyframe = chosen[:, how.frames // 2]
    return pixels, crop.boxes(torch.from_numpy(things[np.arange(count), keyframe]))


def middle(clips: NDArray[np.generic], how: Augmentation) -> Tensor:
    """The middle frames of clips, unchanged, `[n, 3, T', H, W]`."""
    start = (clips.shape[1] - how.span) // 2
    return clip_pixels(clips[:, start : start + how.span : how.stride])


def random_boxes(words: NDArray[np.float64]) -> Tensor:
    """Boxes (ymin, xmin, ymax, xmax) from uniform numbers `[n, 4 N]`, as published.

    Corners anywhere, widths of 0.1 to 0.5, heights half to twice the width; cut off
    just inside the frame.
    """
    left, top, width, ratio = np.split(words.reshape(len(words), -1, 4), 4, axis=-1)
    width = 0.1 + 0.4 * width
    bottom = np.minimum(top + width * (0.5 + 1.5 * ratio), 0.999)
    right = np.minimum(left + width, 0.999)
    corners = np.concatenate([np.minimum(top, bottom), np.minimum(left, right)], -1)
    boxes = np.concatenate([corners, bottom, right], axis=-1)
    return torch.from_numpy(boxes.astype(np.float32))


@dataclass(frozen=True)
class Crop:
    """Square crops of clips, resized back; the same for all frames of a clip.

    Places in [-1, 1] of a view are `scale * place + shift` of the frame.

    Attributes:
        scale: to the right and downwards, `[n, 2]`; negative where mirrored.
        shift: likewise.
    """

    scale: Tensor
    shift: Tensor

    @staticmethod
    def drawn(words: NDArray[np.float64], how: Augmentation) -> "Crop":
        """From uniform numbers `[n, 4]`."""
        drawn = torch.from_numpy(words.astype(np.float32))
        side = (how.least_area + (1 - how.least_area) * drawn[:, 0]).sqrt()
        mirror = torch.ones_like(side)
        if how.flip:
            mirror = torch.where(drawn[:, 3] < 0.5, -1.0, 1.0)
        shift = (1 - side)[:, None] * (2 * drawn[:, 1:3] - 1)
        return Crop(torch.stack([side * mirror, side], -1), shift)

    def clips(self, clips: Tensor) -> Tensor:
        """What is seen of clips `[n, C, T, H, W]`."""
        matrix = torch.cat([torch.diag_embed(self.scale), self.shift[..., None]], -1)
        n, channels, frames, height, width = clips.shape
        flat = clips.reshape(n, channels * frames, height, width)
        grid = F.affine_grid(matrix, list(flat.shape), align_corners=False)
        cropped = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return cropped.view_as(clips)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Where boxes `[n, N, 4]` are then; -1 if their middle is out of sight.

        Example:
            >>> half = Crop(torch.tensor([[-0.5, 0.5]]), torch.tensor([[-0.5, -0.5]]))
            >>> half.boxes(torch.tensor([[[0.0, 0.0, 0.25, 0.125], [0.6, 0, 1, 1]]]))
            tensor([[[ 0.0000,  0.7500,  0.5000,  1.0000],
                     [-1.0000, -1.0000, -1.0000, -1.0000]]])
        """
        corners = torch.unflatten(boxes.float(), -1, (2, 2)).flip(-1)  # [..., 2, xy]
        scale, shift = self.scale[:, None, None], self.shift[:, None, None]
        moved = ((2 * corners - 1 - shift) / scale + 1) / 2
        low, high = moved.amin(2), moved.amax(2)
        middle = (low + high) / 2
        seen = (boxes[..., 0] >= 0) & ((middle >= 0) & (middle <= 1)).all(-1)
        found = torch.cat([low.flip(-1), high.flip(-1)], -1).clamp(0, 1)
        return torch.where(seen[..., None], found, -1.0)


def _lit(clips: Tensor, words: NDArray[np.float64], how: Augmentation) -> Tensor:
    drawn = torch.from_numpy(words.astype(np.float32)) * 2 - 1
    contrast, brightness = (how.light * drawn).unbind(-1)
    shape = (-1, 1, 1, 1, 1)
    return clips * (1 + contrast.view(shape)) + brightness.view(shape)
