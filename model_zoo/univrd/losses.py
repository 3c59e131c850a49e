"""Focal losses, box losses, and the matching costs that go with them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model_zoo.univrd.focal import Focal
from model_zoo.univrd.geometry import corners, overlaps

ALPHA, GAMMA = Focal().alpha, Focal().gamma


def focal_sigmoid(
    logits: Tensor, targets: Tensor, alpha: float | None = ALPHA, gamma: float = GAMMA
) -> Tensor:
    """Focal sigmoid cross-entropy of each logit (Lin et al. 2017, arXiv:1708.02002).

    Targets are multi-hot: names of overlapping label spaces do not compete.

    Args:
        logits: of any shape.
        targets: 0 or 1, of the same shape.
        alpha: weight of positives, 1 - alpha of negatives; None weighs all alike.
        gamma: how little easy examples count; 0 is plain sigmoid cross-entropy.

    Example:
        >>> x, y = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0])
        >>> plain = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        >>> torch.equal(focal_sigmoid(x, y, alpha=None, gamma=0.0), plain)
        True
    """
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    chance = torch.sigmoid(logits)
    missed = targets * (1 - chance) + (1 - targets) * chance
    loss = plain * missed**gamma if gamma else plain
    if alpha is None:
        return loss
    return loss * (alpha * targets + (1 - alpha) * (1 - targets))


def focal_softmax(logits: Tensor, gamma: float = GAMMA) -> Tensor:
    """Focal cross-entropy of every class, were it the true one: same shape.

    -(1 - p)^gamma log p with p the softmax over the last dimension.
    """
    log_chance = F.log_softmax(logits, dim=-1)
    return -((1 - log_chance.exp()) ** gamma) * log_chance


def focal_cost(
    logits: Tensor, alpha: float | None = ALPHA, gamma: float = GAMMA
) -> Tensor:
    """What it costs to call each logit positive rather than negative; same shape."""
    ones = torch.ones_like(logits)
    return focal_sigmoid(logits, ones, alpha, gamma) - focal_sigmoid(
        logits, 0 * ones, alpha, gamma
    )


def box_cost(predicted: Tensor, truth: Tensor) -> Tensor:
    """L1 of (cx, cy, w, h) less GIoU; `[..., N, 4]`, `[..., n, 4]` -> `[..., n, N]`."""
    rows, columns = truth[..., :, None, :], predicted[..., None, :, :]
    giou = overlaps(corners(rows), corners(columns))[1]
    return (rows - columns).abs().sum(-1) - giou


def box_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """L1 of the corners plus 1 - GIoU; `[..., 4]` each -> `[...]`."""
    first, second = corners(predicted), corners(truth)
    return (first - second).abs().sum(-1) + 1 - overlaps(first, second)[1]
