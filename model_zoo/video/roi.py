"""Features of boxes: bilinear samples on a grid inside each (He et al. 2017).

RoIAlign of arXiv:1703.06870, with plain tensors that `torch.func.vmap` batches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(features: Tensor, boxes: Tensor, size: int, samples: int = 2) -> Tensor:
    """Features of boxes on a `size` x `size` grid, `[B, K, C, size, size]`.

    Every cell is the mean of `samples` x `samples` bilinear samples. Places beyond the
    border take the border's value.

    Args:
        features: maps `[B, C, H, W]`.
        boxes: (ymin, xmin, ymax, xmax) in [0, 1] of the map's extent, `[B, K, 4]`.
        size: cells along each side.
        samples: per cell and side.

    Example:
        >>> whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> roi_align(ramp, whole, 2, 1)[0, 0, 0, 0].tolist()
        [0.5, 2.5]
    """
    count, per = boxes.shape[1], size * samples
    inside = (torch.arange(per, device=boxes.device, dtype=boxes.dtype) + 0.5) / per
    top, left, bottom, right = boxes.unbind(-1)
    y = top[..., None] + inside * (bottom - top)[..., None]  # [B, K, per]
    x = left[..., None] + inside * (right - left)[..., None]
    grid = torch.stack(
        [
            x[..., None, :].expand(*x.shape[:2], per, per),
            y[..., :, None].expand(*y.shape[:2], per, per),
        ],
        dim=-1,
    )
    # grid_sample counts from -1 to 1 across the whole map.
    sampled = F.grid_sample(
        features,
        (2 * grid - 1).flatten(1, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    sampled = torch.unflatten(sampled, 2, (count, per)).movedim(2, 1)
    cells = F.avg_pool2d(sampled.flatten(0, 1), samples)
    found: Tensor = torch.unflatten(cells, 0, (len(boxes), count))
    return found
