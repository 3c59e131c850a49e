"""What both denoisers share: attention to tokens seen, and waves of time and place."""

import math

import torch
from torch import Tensor

from model_zoo import attention


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, seen: Tensor | None = None
) -> Tensor:
    """Multi-head attention, see `model_zoo.attention.attend`.

    Args:
        query: `[B, T, width]`.
        key: `[B, L, width]`.
        value: `[B, L, width]`.
        heads: that the width is split into.
        seen: `[B, L]`, 0 for keys that nothing attends to.
    """
    blocked = None if seen is None else seen[:, None, None, :] == 0
    return attention.attend(query, key, value, heads, blocked=blocked)


def frequencies(time: Tensor, width: int) -> Tensor:
    """Sinusoids of `time` `[B]` with periods up to 10,000, `[B, width]`.

    Example:
        >>> frequencies(torch.zeros(1), 4).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    half = width // 2
    steps = torch.arange(half, device=time.device, dtype=time.dtype)
    angle = time[:, None] * torch.exp(steps * (-math.log(10_000.0) / half))
    return torch.cat([angle.cos(), angle.sin()], -1)


def places(grid: int, width: int) -> Tensor:
    """Fixed sine-cosine positions of a square grid, `[grid * grid, width]`.

    Half of the width tells the column, the other half the row.
    """
    omega = torch.exp(torch.arange(width // 4) * (-math.log(10_000.0) / (width // 4)))
    angle = torch.arange(grid)[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], 1)  # [grid, width / 2]
    column = axis.repeat(grid, 1)
    return torch.cat([column, axis.repeat_interleave(grid, 0)], 1)
