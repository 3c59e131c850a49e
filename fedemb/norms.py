"""Group norms of images in channels-last order, where torch's own take long.

With few channels in a group, torch walks channels-last images four numbers at a time:
a norm of 32 channels in 8 groups takes as long as a convolution that multiplies a
hundred times as much. Sums over positions and products of whole images, which are fast
in any order, compute the same. As in torch's kernel for this order, the variance is the
mean square less the squared mean.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_NARROW = 4  # channels of a group, at most, for which torch's kernel is slow
_WIDE = 128  # positions, at least, that pay for a dozen small operations


def group_norm(
    inputs: Tensor, groups: int, gains: Tensor, offsets: Tensor, epsilon: float
) -> Tensor:
    """What `torch.nn.functional.group_norm` computes of `[N, C, H, W]`.

    Example:
        >>> images = torch.rand(2, 8, 16, 16).to(memory_format=torch.channels_last)
        >>> gains, offsets = torch.rand(8), torch.rand(8)
        >>> normal = group_norm(images, 4, gains, offsets, 1e-5)
        >>> torch.allclose(normal, F.group_norm(images, 4, gains, offsets), atol=1e-5)
        True
    """
    if not _slow_in_torch(inputs, groups):
        return F.group_norm(inputs, groups, gains, offsets, epsilon)
    outputs: Tensor = _ChannelsLast.apply(  # type: ignore[no-untyped-call]
        inputs, groups, gains, offsets, epsilon
    )
    return outputs


def _slow_in_torch(inputs: Tensor, groups: int) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dim() == 4
        and inputs.shape[1] <= _NARROW * groups
        and inputs.shape[2] * inputs.shape[3] >= _WIDE
        and inputs.is_contiguous(memory_format=torch.channels_last)
        and not inputs.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


class _ChannelsLast(torch.autograd.Function):
    """Statistics are `[N, G, 1]`, sums over positions `[N, G, C / G]`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        groups: int,
        gains: Tensor,
        offsets: Tensor,
        epsilon: float,
    ) -> Tensor:
        rows = _rows(inputs)
        count = rows.shape[1] * rows.shape[2] // groups
        mean = _by_group(rows.sum(1), groups).sum(-1, True) / count
        square = _by_group((rows * rows).sum(1), groups).sum(-1, True) / count
        variance = (square - mean * mean).clamp_min_(0.0)
        inverse = variance.add_(epsilon).rsqrt_()
        scale = gains.view(groups, -1) * inverse
        shift = offsets.view(groups, -1) - mean * scale
        ctx.save_for_backward(inputs, gains, mean, inverse)
        return _images(torch.addcmul(_once(shift), rows, _once(scale)), inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gains, mean, inverse = ctx.saved_tensors
        groups, rows, above = mean.shape[1], _rows(inputs), _rows(upstream)
        count = rows.shape[1] * rows.shape[2] // groups
        total = _by_group(above.sum(1), groups)
        product = _by_group((above * rows).sum(1), groups)
        weights = gains.view(groups, -1)
        moment = (weights * total).sum(-1, True)
        slope = (moment * mean - (weights * product).sum(-1, True)) * inverse**3 / count
        level = -slope * mean - moment * inverse / count
        below = None
        if ctx.needs_input_grad[0]:
            scale, level = _once(weights * inverse), _once(level.expand_as(total))
            below = torch.addcmul(level, above, scale)
            below = below.addcmul_(rows, _once(slope.expand_as(total)))
            below = _images(below, inputs)
        own = ((product - mean * total) * inverse).sum(0).flatten()
        return below, None, own, total.sum(0).flatten(), None


def _rows(images: Tensor) -> Tensor:
    """`[N, C, H, W]` as `[N, H * W, C]`: a view in channels-last order."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def _images(rows: Tensor, like: Tensor) -> Tensor:
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def _by_group(sums: Tensor, groups: int) -> Tensor:
    """`[N, C]` as `[N, G, C / G]`."""
    return sums.view(len(sums), groups, -1)


def _once(values: Tensor) -> Tensor:
    """`[N, G, C / G]` as `[N, 1, C]`, the same at every position."""
    return values.flatten(1)[:, None]
