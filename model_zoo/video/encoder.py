"""What every video backbone of the zoo offers, so that one protocol judges them all."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class VideoEncoder(Protocol):
    """A backbone that turns clips into tokens on a space-time grid.

    Rows are independent. VideoGLUE (Yuan et al. 2024, arXiv:2307.03166) pools `grids`
    in its frozen and multi-layer adaptations and puts low-rank adapters beside the
    modules that `adapter_sites` names.
    """

    def grids(self, clips: Tensor, last: int) -> Sequence[Tensor]:
        """Outputs of the last blocks, earliest first.

        Args:
            clips: float `[B, 3, T, H, W]`, as `clip_pixels` makes them.
            last: number of blocks; fewer are returned where there are fewer.

        Returns:
            Tokens `[B, t, h, w, D]` each; grids and widths may differ between blocks.
        """
        ...

    def adapter_sites(self) -> Mapping[str, int]:
        """Names of sub-modules that adapters stand beside, and their widths.

        A named module maps `[..., width]` to `[..., width]`, or `[B, width, ...]` to
        the same if it is convolutional; an adapter adds to its output.
        """
        ...


def clip_pixels(clips: NDArray[np.generic]) -> Tensor:
    """Clips `[n, T, H, W, 3]` as float32 `[n, 3, T, H, W]`, x / 128 - 1.

    Example:
        >>> clip_pixels(np.zeros((2, 8, 4, 4, 3), np.uint8)).shape
        torch.Size([2, 3, 8, 4, 4])
    """
    values = torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 4, 1, 2, 3)
    if values.is_floating_point():
        values = values * 255.0
    # Bytes are moved while they are bytes, a quarter of the memory.
    moved = values.contiguous().to(torch.float32, copy=True)
    return moved.div_(128.0).sub_(1.0)
