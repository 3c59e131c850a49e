"""Things of a clip found again later in it, by the regions of the local branch."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedemb.devices import device_of
from model_zoo.const_cl.backbone import TwoHeadedResNet
from model_zoo.const_cl.heads import region_features
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.roi import roi_align

_BLOCK = 64
_NEAR = 20 / 320  # of the frame: OTB's 20 pixels in frames of about 320


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
    right, chance, centres, overlaps = [], [], [], []
    for start in range(0, len(clips), _BLOCK):
        with torch.inference_mode():
            maps = _local_maps(network, clips[start : start + _BLOCK]).float().cpu()
        part = torch.from_numpy(boxes[start : start + _BLOCK].astype(np.float32))
        first, last = maps[:, :, 0], maps[:, :, -1]
        before, after = part[:, 0], part[:, -1]
        there = (before[..., 0] >= 0) & (after[..., 0] >= 0)
        query = _regions(first, before, cells)
        key = _regions(last, after, cells)
        scores = query @ key.transpose(1, 2)
        right.append(_own(scores, there))
        several = there & (there.sum(1, keepdim=True) > 1)
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
        "region_matching": float(torch.cat(right).mean()),
        "region_matching_chance": float(torch.cat(chance).mean()),
    }


def carried_over(
    network: TwoHeadedResNet,
    clips: NDArray[np.generic],
    boxes: NDArray[np.generic],
    frames: int,
    cells: int,
) -> dict[str, float]:
    """Match things in the middle of a clip's first frames with those of its last.

    What the local loss asks: `view_matching` of regions as they are and, where the
    network has a decoder, `carried_matching` of what that makes of them. Chance is that
    of `region_matching`.

    Args:
        network: trained.
        clips: `[n, T, H, W, 3]`.
        boxes: (ymin, xmin, ymax, xmax) in [0, 1], -1 out of sight, `[n, T, K, 4]`.
        frames: of either part.
        cells: along each side that a box is cut into.
    """
    device = device_of(network)
    ends = slice(0, frames), slice(clips.shape[1] - frames, clips.shape[1])
    right: dict[str, list[Tensor]] = {"view_matching": []}
    if network.decoder is not None:
        right["carried_matching"] = []
    for start in range(0, len(clips), _BLOCK):
        rows = slice(start, start + _BLOCK)
        with torch.inference_mode():
            maps = [_local_maps(network, clips[rows, end]) for end in ends]
            places = [
                torch.from_numpy(boxes[rows, end][:, frames // 2].astype(np.float32))
                for end in ends
            ]
            found = [
                region_features(m, box.clamp(0, 1).to(device), cells)
                for m, box in zip(maps, places, strict=True)
            ]
            queries = {"view_matching": found[0]}
            if network.decoder is not None:
                memory = network.decoder.memory(maps[1])
                queries["carried_matching"] = network.decoder(found[0], memory)
        there = (places[0][..., 0] >= 0) & (places[1][..., 0] >= 0)
        key = F.normalize(found[1], dim=-1)
        for name, query in queries.items():
            scores = F.normalize(query, dim=-1) @ key.transpose(1, 2)
            right[name].append(_own(scores.float().cpu(), there))
    return {name: float(torch.cat(part).mean()) for name, part in right.items()}


def _local_maps(network: TwoHeadedResNet, clips: NDArray[np.generic]) -> Tensor:
    pixels = clip_pixels(clips).to(device_of(network))
    return F.normalize(network.maps(pixels).local, dim=1)


def _own(scores: Tensor, there: Tensor) -> Tensor:
    """Whether things `[B, K]` are most like themselves, where there are several."""
    best = scores.masked_fill(~there[:, None, :], -2.0).argmax(-1)
    several = there & (there.sum(1, keepdim=True) > 1)
    return (best == torch.arange(scores.shape[1]))[several].float()


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
