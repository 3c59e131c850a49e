"""Crops of clips, and where the boxes of things are in them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


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
    def drawn(words: NDArray[np.float64], least_area: float, flip: bool) -> "Crop":
        """From uniform numbers `[n, 4]`; the area is a share of the frame's.

        Args:
            words: for area, place and mirroring.
            least_area: of the crop.
            flip: whether half of them are mirrored.
        """
        drawn = torch.from_numpy(words.astype(np.float32))
        side = (least_area + (1 - least_area) * drawn[:, 0]).sqrt()
        mirror = torch.ones_like(side)
        if flip:
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
