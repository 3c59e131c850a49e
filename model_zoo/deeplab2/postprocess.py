"""From classes, centres and offsets to panoptic maps.

Cheng et al. (2020), arXiv:1911.10194: things are pixels that point at the same centre,
and a majority of their classes names them (Yang et al. 2019, arXiv:1902.05093).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PostSpec:
    """How predictions are turned into segments.

    Attributes:
        threshold: centres are above it.
        kernel: centres are the largest in a window of this side, odd.
        keep: centres at most; those above the score of the last one are kept.
        stuff_area: smaller stuff becomes void.

    Raises:
        UserError: for an even kernel or a number below 1.
    """

    threshold: float = 0.1
    kernel: int = 13
    keep: int = 400
    stuff_area: int = 2048

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd and positive.")
        if self.keep < 1 or self.stuff_area < 0:
            raise UserError(
                f"keep={self.keep} must be at least 1, stuff_area={self.stuff_area} at "
                "least 0."
            )


def find_centers(heat: Tensor, spec: PostSpec) -> tuple[Tensor, Tensor]:
    """Centres (y, x) `[N, 2]` and scores `[N]` of a heat-map `[H, W]`.

    Example:
        >>> heat = torch.tensor([[0.0, 0.9, 0.2], [0.0, 0.3, 0.05]])
        >>> find_centers(heat, PostSpec(kernel=3))[0].tolist()
        [[0, 1]]
    """
    heat = torch.where(heat > spec.threshold, heat, 0.0)
    largest = F.max_pool2d(heat[None], spec.kernel, 1, spec.kernel // 2)[0]
    heat = torch.where(heat == largest, heat, 0.0)
    least = 0.0
    if int((heat > 0).sum()) > spec.keep:
        least = float(heat.flatten().topk(spec.keep).values[-1])
    centers = (heat > least).nonzero()
    return centers, heat[centers[:, 0], centers[:, 1]]


def group_pixels(
    classes: Tensor, heat: Tensor, offset: Tensor, things: Iterable[int], spec: PostSpec
) -> tuple[Tensor, Tensor]:
    """The instance of every pixel, and the score of its centre.

    Args:
        classes: `[H, W]`.
        heat: of centres, `[H, W]`.
        offset: from pixel to centre (y, x), `[2, H, W]`.
        things: classes with instances.
        spec: thresholds.

    Returns:
        int64 `[H, W]` counted from 1 and 0 outside things; float `[H, W]`, 0 there.

    Example:
        >>> classes, still = torch.tensor([[1, 1, 0]]), torch.zeros(2, 1, 3)
        >>> heat = torch.tensor([[0.0, 0.5, 0.0]])
        >>> group_pixels(classes, heat, still, [1], PostSpec(kernel=3))[0].tolist()
        [[1, 1, 0]]
    """
    centers, scores = find_centers(heat, spec)
    if not len(centers):
        return torch.zeros_like(classes), torch.zeros_like(heat)
    height, width = classes.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=heat.device),
        torch.arange(width, device=heat.device),
        indexing="ij",
    )
    pointed = (torch.stack([y, x]) + offset).flatten(1).T  # [H * W, 2]
    nearest = torch.cdist(pointed, centers.to(pointed)).argmin(1).view(height, width)
    thing = torch.isin(classes, torch.tensor(list(things), device=classes.device))
    return torch.where(thing, nearest + 1, 0), torch.where(thing, scores[nearest], 0.0)


def merge(
    classes: Tensor,
    instances: Tensor,
    things: Iterable[int],
    *,
    divisor: int,
    stuff_area: int,
    void: int,
) -> Tensor:
    """A panoptic map `class * divisor + instance` `[H, W]` from two maps.

    An instance takes the class that most of its thing pixels have; instances count from
    1 within a class. Stuff below `stuff_area` pixels, and whatever is left, is void.

    Args:
        classes: int64 `[H, W]`.
        instances: int64 `[H, W]`, 0 where there is none.
        things: classes with instances.
        divisor: larger than the number of instances of any class.
        stuff_area: in pixels.
        void: class of what is left.

    Example:
        >>> classes = torch.tensor([[1, 1, 2, 3]])
        >>> instances = torch.tensor([[1, 1, 0, 0]])
        >>> rest = {"divisor": 10, "stuff_area": 1, "void": 0}
        >>> merge(classes, instances, [1, 3], **rest).tolist()
        [[11, 11, 20, 0]]
    """
    wanted = list(things)
    thing = torch.isin(classes, torch.tensor(wanted, device=classes.device))
    out = torch.full_like(classes, void * divisor)
    counts: dict[int, int] = {}
    for number in sorted(set(instances.flatten().tolist())):
        mask = (instances == number) & thing
        if number == 0 or not bool(mask.any()):
            continue
        majority = int(classes[mask].bincount().argmax())
        counts[majority] = counts.get(majority, 0) + 1
        out[mask] = majority * divisor + counts[majority]
    for kind in sorted(set(classes.flatten().tolist())):
        mask = (classes == kind) & (instances == 0)
        if kind not in wanted and int(mask.sum()) >= max(stuff_area, 1):
            out[mask] = kind * divisor
    return out
