"""What ConST-CL is measured by: clips told apart, and regions found again."""

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.identity import embed_all
from fedemb.metrics import identity_metrics
from model_zoo.const_cl.backbone import TwoHeadedResNet
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.roi import roi_align

if TYPE_CHECKING:
    from model_zoo.const_cl.task import ConstClTask

_TRACKED = 256  # clips whose regions are followed
_BLOCK = 64
_NEAR = 20 / 320  # of the frame: OTB's 20 pixels in frames of about 320


def evaluate(
    task: "ConstClTask", backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Identity metrics of clips; matching and tracking of regions, given boxes."""
    labels = torch.from_numpy(examples.fields["label"].astype(np.int64))
    metrics = identity_metrics(embed_all(task, backbone, examples), labels)
    if "boxes" not in examples.fields:
        return metrics
    rows = np.arange(min(len(examples), _TRACKED), dtype=np.int64)
    some = examples.take(rows)
    network = cast(TwoHeadedResNet, backbone)
    return metrics | follow(network, some["clip"], some["boxes"], task.head.region)


def follow(
    network: TwoHeadedResNet,
    clips: NDArray[np.generic],
    boxes: NDArray[np.generic],
    cells: int,
) -> dict[str, float]:
    """Find the things of a clip's first map again in its last.

    Matching: among the boxes of the last map, the most alike. Tracking: among all
    places of the last map, the most alike (a Siamese correlation without learning), on
    a box of the first one's size; precision is the share of centres within a sixteenth
    of the frame, success the mean overlap curve (Wu et al. 2015, OTB).

    Args:
        network: trained.
        clips: `[n, T, H, W, 3]`.
        boxes: (ymin, xmin, ymax, xmax) in [0, 1], -1 out of sight, `[n, T, K, 4]`.
        cells: along each side that a box is cut into.
    """
    device = next(network.parameters()).device
    right, chance, centres, overlaps = [], [], [], []
    for start in range(0, len(clips), _BLOCK):
        pixels = clip_pixels(clips[start : start + _BLOCK]).to(device)
        with torch.inference_mode():
            maps = F.normalize(network.maps(pixels).local, dim=1).float().cpu()
        part = torch.from_numpy(boxes[start : start + _BLOCK].astype(np.float32))
        first, last = maps[:, :, 0], maps[:, :, -1]
        before, after = part[:, 0], part[:, -1]
        there = (before[..., 0] >= 0) & (after[..., 0] >= 0)
        query = _regions(first, before, cells)
        key = _regions(last, after, cells)
        scores = query @ key.transpose(1, 2)
        scores = scores.masked_fill(~there[:, None, :], -2.0)
        several = there & (there.sum(1, keepdim=True) > 1)
        own = torch.arange(scores.shape[1])
        right.append((scores.argmax(-1) == own)[several])
        chance.append(
            (1 / there.sum(1, keepdim=True).clamp(min=1)).expand_as(there)[several]
        )
        found = _tracked(query, last, before)
        middle = (found[..., :2] + found[..., 2:]) / 2 - (
            after[..., :2] + after[..., 2:]
        ) / 2
        centres.append(middle.norm(dim=-1)[there] <= _NEAR)
        overlaps.append(_overlap(found, after)[there])
    if not sum(len(part) for part in centres):
        return {}
    shared = torch.cat(overlaps)
    curve = [(shared > t).float().mean() for t in torch.linspace(0, 1, 21)]
    metrics = {
        "track_precision": float(torch.cat(centres).float().mean()),
        "track_success": float(torch.stack(curve).mean()),
    }
    if sum(len(part) for part in right):
        metrics["region_matching"] = float(torch.cat(right).float().mean())
        metrics["region_matching_chance"] = float(torch.cat(chance).mean())
    return metrics


def _regions(maps: Tensor, boxes: Tensor, cells: int) -> Tensor:
    found = roi_align(maps, boxes.clamp(0, 1), cells, 1).mean((-2, -1))
    return F.normalize(found, dim=-1)


def _tracked(query: Tensor, maps: Tensor, before: Tensor) -> Tensor:
    """Boxes of the first size around the places most alike, `[B, K, 4]`."""
    height, width = maps.shape[-2:]
    scores = torch.einsum("bkc,bchw->bkhw", query, maps).flatten(2)
    best = scores.argmax(-1)
    y, x = (best // width + 0.5) / height, (best % width + 0.5) / width
    half = (before[..., 2:] - before[..., :2]) / 2
    centre = torch.stack([y, x], dim=-1)
    return torch.cat([centre - half, centre + half], dim=-1)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    low, high = (
        torch.maximum(a[..., :2], b[..., :2]),
        torch.minimum(a[..., 2:], b[..., 2:]),
    )
    shared = (high - low).clamp(min=0).prod(-1)
    sizes = [(c[..., 2:] - c[..., :2]).clamp(min=0).prod(-1) for c in (a, b)]
    return shared / (sizes[0] + sizes[1] - shared).clamp(min=1e-9)
