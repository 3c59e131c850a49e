"""Where a token of a space-time grid stands, as a few learned channels."""

import torch
from torch import Tensor, nn

CODE = 8
"""Channels of a place in time, and as many of one in space."""


class PlaceCode(nn.Module):
    """Perceptrons 1 -> 4 -> 8 of the time and 2 -> 4 -> 8 of the place in space.

    Coordinates are counted from the middle of the grid, as in VideoGLUE's and
    ConST-CL's public heads.

    Example:
        >>> PlaceCode()(torch.zeros(2, 3, 4, 5, 7)).shape
        torch.Size([2, 3, 4, 5, 16])
    """

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, CODE))
        self.space = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, CODE))

    def forward(self, grid: Tensor) -> Tensor:
        """Codes `[B, t, h, w, 16]` of the places of a grid `[B, t, h, w, D]`."""
        axes = [
            torch.arange(n, dtype=grid.dtype, device=grid.device) - (n - 1) / 2
            for n in grid.shape[1:4]
        ]
        # Every row has its own, for engines that find gradients row by row.
        t, y, x = (
            axis.expand(len(grid), *grid.shape[1:4])
            for axis in torch.meshgrid(*axes, indexing="ij")
        )
        return torch.cat(
            [self.time(t[..., None]), self.space(torch.stack([y, x], -1))], dim=-1
        )
