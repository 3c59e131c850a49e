"""The three losses of Panoptic-DeepLab (Cheng et al. 2020, arXiv:1911.10194).

Each is one number per example, so that padding rows can be left out, and has no
data-dependent control flow, so that `torch.func` can vectorise it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """What the losses weigh.

    Attributes:
        semantic: weight of the pixel-wise cross-entropy.
        center: weight of the squared error of the heat-map.
        offset: weight of the absolute error of the offsets.
        top_k: share of the hardest pixels that the cross-entropy counts.

    Raises:
        UserError: for a negative weight or a share outside (0, 1].
    """

    semantic: float = 1.0
    center: float = 200.0
    offset: float = 0.01
    top_k: float = 0.2

    def __post_init__(self) -> None:
        for name in ("semantic", "center", "offset"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative.")
        if not 0 < self.top_k <= 1:
            raise UserError(f"top_k={self.top_k} must be in (0, 1].")


def mean_of_nonzero(values: Tensor, top_k: float = 1.0) -> Tensor:
    """Mean over the non-zero entries of each row, `[B, ...]` -> `[B]`; 0 if none is.

    With `top_k` < 1 only that share of the largest entries, zeros included, is kept.

    Example:
        >>> mean_of_nonzero(torch.tensor([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
        tensor([3., 0.])
    """
    flat = values.flatten(1)
    if top_k < 1:
        flat = flat.topk(max(1, round(top_k * flat.shape[1])), dim=1, sorted=False)[0]
    count = (flat != 0).to(flat).sum(1)
    return flat.sum(1) / count.clamp(min=1)


def semantic_loss(
    logits: Tensor, classes: Tensor, weight: Tensor, top_k: float
) -> Tensor:
    """Weighted cross-entropy of `[B, K, H, W]`, hardest pixels only, `[B]`.

    Pixels of class -1 (void) do not count, whatever their weight.
    """
    known = classes >= 0
    chosen = F.log_softmax(logits, dim=1).gather(1, classes.clamp(min=0)[:, None])[:, 0]
    return mean_of_nonzero(-chosen * weight * known.to(weight), top_k)


def center_loss(heat: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of `[B, H, W]`, `[B]`."""
    return mean_of_nonzero((heat - target).square() * weight)


def offset_loss(offset: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute error of `[B, 2, H, W]`, averaged over y and x, `[B]`."""
    return mean_of_nonzero((offset - target).abs().mean(1) * weight)


def semantic_losses(
    predicted: Mapping[str, Tensor], targets: Mapping[str, Tensor], spec: LossSpec
) -> dict[str, Tensor]:
    """The weighted loss `semantic`, `[B]`, alone."""
    semantic = semantic_loss(
        predicted["semantic"],
        targets["semantic"],
        targets["semantic_weight"],
        spec.top_k,
    )
    return {"semantic": spec.semantic * semantic}


def panoptic_losses(
    predicted: Mapping[str, Tensor], targets: Mapping[str, Tensor], spec: LossSpec
) -> dict[str, Tensor]:
    """The weighted losses `semantic`, `center`, `offset`, `[B]` each; add them up."""
    center = center_loss(
        predicted["center"], targets["center"], targets["center_weight"]
    )
    offset = offset_loss(
        predicted["offset"], targets["offset"], targets["offset_weight"]
    )
    return semantic_losses(predicted, targets, spec) | {
        "center": spec.center * center,
        "offset": spec.offset * offset,
    }


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses, `[B]`."""
    return torch.stack(list(losses.values())).sum(0)
