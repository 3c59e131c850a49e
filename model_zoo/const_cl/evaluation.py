"""What ConST-CL is measured by: clips told apart, and regions found again."""

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.devices import device_of
from fedemb.identity import embed_all, labels_of
from fedemb.metrics import identity_metrics
from model_zoo.const_cl.backbone import TwoHeadedResNet
from model_zoo.const_cl.views import Augmentation, augmented
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.retrieval import retrieval_metrics
from model_zoo.video.roi import roi_align

if TYPE_CHECKING:
    from model_zoo.const_cl.task import ConstClTask

_GALLERY = 256  # clips whose views and regions are looked for
_BLOCK = 64
_NEAR = 20 / 320  # of the frame: OTB's 20 pixels in frames of about 320


def evaluate(
    task: "ConstClTask", backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Identity metrics, views found again; matching and tracking of regions by boxes.

    Views and regions are of clips spread evenly over all, 256 at most.
    """
    labels = labels_of(examples)
    metrics = identity_metrics(embed_all(task, backbone, examples), labels)
    count = min(len(examples), _GALLERY)
    some = examples.take(np.arange(count, dtype=np.int64) * len(examples) // count)
    network = cast(TwoHeadedResNet, backbone)
    metrics |= other_views(network, some["clip"], task.augmentation)
    if "boxes" not in examples.fields:
        return metrics
    every = task.augmentation.stride  # motion as fast as in training
    seen, boxes = some["clip"][:, ::every], some["boxes"][:, ::every]
    return metrics | follow(network, seen, boxes, task.head.region)


def other_views(
    network: TwoHeadedResNet, clips: NDArray[np.generic], how: Augmentation
) -> dict[str, float]:
    """How often a view of a clip is nearest to the other view of the same clip.

    What the global loss asks, of clips of many users at once, and of the embedding
    instead of the perceptron that stays on a client.

    Args:
        network: trained.
        clips: `[n, T, H, W, 3]`.
        how: views are made; always the same ones.
    """
    device = device_of(network)
    offsets, seeds = np.array([0, len(clips)]), np.ones(1, np.uint64)
    views = []
    for view in (0, 1):
        pixels, _ = augmented(clips, offsets, seeds, how, view)
        with torch.inference_mode():
            parts = [
                network(pixels[start : start + _BLOCK].to(device))
                for start in range(0, len(pixels), _BLOCK)
            ]
        views.append(F.normalize(torch.cat(parts).float().cpu(), dim=1))
    return retrieval_metrics(views[0], views[1], "view_to_view")


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
    of the frame, success the mean overlap curve (Wu et al. 2015, OTB). Where nothing is
    in sight at both ends, or nothing it could be taken for, they are NaN.

    Args:
        network: trained.
        clips: `[n, T, H, W, 3]`.
        boxes: (ymin, xmin, ymax, xmax) in [0, 1], -1 out of sight, `[n, T, K, 4]`.
        cells: along each side that a box is cut into.
    """
    device = device_of(network)
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
    shared = torch.cat(overlaps)
    curve = [(shared > t).float().mean() for t in torch.linspace(0, 1, 21)]
    return {
        "track_precision": float(torch.cat(centres).float().mean()),
        "track_success": float(torch.stack(curve).mean()),
        "region_matching": float(torch.cat(right).float().mean()),
        "region_matching_chance": float(torch.cat(chance).mean()),
    }


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
