"""Boxes: forms, overlaps, and the box that every token starts from.

A box is (cx, cy, w, h) or (x1, y1, x2, y2), in units of the picture's sides.
"""

import torch
from torch import Tensor

_LEAST = 1e-6


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) `[..., 4]` as (x1, y1, x2, y2).

    Example:
        >>> corners(torch.tensor([0.5, 0.5, 0.25, 0.5])).tolist()
        [0.375, 0.25, 0.625, 0.75]
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def centred(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) `[..., 4]` as (cx, cy, w, h)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and its generalised form, of corner boxes `[..., 4]`.

    The generalised form (Rezatofighi et al. 2019, arXiv:1902.09630) is IoU less the
    share of the smallest enclosing box that neither covers; it lies in (-1, 1]. The
    arguments broadcast. Empty boxes have IoU 0 and finite gradients.

    Example:
        >>> a, b = torch.tensor([0.0, 0, 2, 1]), torch.tensor([1.0, 0, 3, 1])
        >>> [round(float(x), 4) for x in overlaps(a, b)]
        [0.3333, 0.3333]
    """
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    both = _area(low, high)
    union = _area(first[..., :2], first[..., 2:]) + _area(
        second[..., :2], second[..., 2:]
    )
    union = (union - both).clamp(min=_LEAST**2)
    iou = both / union
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = _area(low, high).clamp(min=_LEAST**2)
    return iou, iou - (hull - union) / hull


def grid_bias(rows: int, columns: int) -> Tensor:
    """Logits of the boxes that tokens start from, `[rows * columns, 4]`.

    The box of a token has its centre at the centre of its cell, and the cell's size.

    Example:
        >>> [round(x, 3) for x in grid_bias(2, 2).sigmoid()[1].tolist()]
        [0.75, 0.25, 0.5, 0.5]
    """
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows,
        (torch.arange(columns) + 0.5) / columns,
        indexing="ij",
    )
    size = torch.tensor([1 / columns, 1 / rows]).expand(rows, columns, 2)
    boxes = torch.cat([x[..., None], y[..., None], size], dim=-1).reshape(-1, 4)
    return torch.logit(boxes.clamp(_LEAST, 1 - _LEAST))


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)
