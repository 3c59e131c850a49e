"""When something happens: proposals over a sequence of windows, scored for each class.

A small G-TAD (Xu et al. 2020, arXiv:1911.11462): blocks that join a window with its
neighbours in time and with its nearest ones in feature space; features sampled along
every candidate stretch; one score per class and stretch on a map of starts by lengths.
The published head scores stretches alone and takes classes from another model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.videoglue.metrics import Found, overlaps_of

Floats = NDArray[np.float64]

_CONTEXT = 0.25  # of a stretch's length, sampled before and after it too


@dataclass(frozen=True, kw_only=True)
class TemporalShape:
    """Sizes of the head.

    Attributes:
        tokens: D of a window's feature.
        windows: L, windows in a sequence.
        longest: windows in the longest stretch.
        classes: of the answer.
        width: of the graph's nodes.
        blocks: graph blocks.
        neighbours: nearest windows in feature space that a window is joined with.
        samples: along a stretch.

    Raises:
        UserError: a stretch longer than the sequence, or fewer windows than neighbours.
    """

    tokens: int
    windows: int
    longest: int
    classes: int
    width: int = 32
    blocks: int = 2
    neighbours: int = 3
    samples: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= self.windows:
            raise UserError(
                f"longest={self.longest} must be from 1 to windows={self.windows}."
            )
        if not 1 <= self.neighbours <= self.windows:
            raise UserError(
                f"neighbours={self.neighbours} must be from 1 to {self.windows}."
            )


class GraphBlock(nn.Module):
    """Joins nodes along time and along nearest features, `[B, D, L]` to the same."""

    def __init__(self, width: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.along_time = nn.Conv1d(width, width, 3, padding=1)
        self.along_features = nn.Conv1d(2 * width, width, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """Nodes after one block."""
        rows = nodes.transpose(1, 2)  # [B, L, D]
        nearest = torch.cdist(rows, rows).topk(self.neighbours, largest=False).indices
        picked = torch.gather(
            rows[:, None].expand(-1, rows.shape[1], -1, -1),
            2,
            nearest[..., None].expand(-1, -1, -1, rows.shape[2]),
        )  # [B, L, k, D]
        own = rows[:, :, None].expand_as(picked)
        edges = torch.cat([own, picked - own], dim=-1).flatten(1, 2).transpose(1, 2)
        joined = self.along_features(edges)
        joined = torch.unflatten(joined, 2, (rows.shape[1], self.neighbours)).amax(-1)
        return torch.relu(nodes + self.along_time(nodes) + joined)


class TemporalHead(nn.Module):
    """Scores of all stretches: features `[B, L, D]` to logits `[B, L, S, classes]`.

    Entry (i, s) is the stretch of s + 1 windows that starts with window i.
    """

    def __init__(self, shape: TemporalShape) -> None:
        super().__init__()
        self.shape = shape
        self.inward = nn.Conv1d(shape.tokens, shape.width, 3, padding=1)
        self.graph = nn.Sequential(
            *(GraphBlock(shape.width, shape.neighbours) for _ in range(shape.blocks))
        )
        self.aligned = nn.Conv2d(shape.width * shape.samples, 2 * shape.width, 1)
        self.score = nn.Sequential(
            nn.Conv2d(2 * shape.width, shape.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(shape.width, shape.classes, 1),
        )
        self.register_buffer("sampling", _sampling(shape), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of every stretch and class."""
        nodes = self.graph(torch.relu(self.inward(features.transpose(1, 2))))
        samples = torch.einsum("bcl,lisk->bckis", nodes, self.get_buffer("sampling"))
        maps: Tensor = self.score(torch.relu(self.aligned(samples.flatten(1, 2))))
        return maps.movedim(1, -1)


def stretch_targets(
    shape: TemporalShape, starts: Floats, ends: Floats, classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Best overlap of every stretch with a truth of each class, `[L, S, classes]`.

    Args:
        shape: of the head.
        starts: of the truths, in windows.
        ends: of the truths, in windows.
        classes: of the truths.
    """
    candidates = stretches(shape)
    out = np.zeros((len(candidates), shape.classes), np.float32)
    for start, end, k in zip(starts, ends, classes, strict=True):
        found = overlaps_of(np.array([start, end]), candidates)
        out[:, k] = np.maximum(out[:, k], found)
    return out.reshape(shape.windows, shape.longest, shape.classes)


def stretch_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of overlaps; those above a half weigh as much as all others.

    Args:
        logits: `[B, L, S, classes]`.
        targets: overlaps in [0, 1], of the same shape.
    """
    good = (targets > 0.5).to(logits.dtype)
    share = good.mean().clamp(1e-4, 1 - 1e-4)
    weight = good / (2 * share) + (1 - good) / (2 * (1 - share))
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)


def detect(
    shape: TemporalShape, scores: Floats, most: int = 20, sharpness: float = 0.4
) -> Found:
    """Stretches by score, near duplicates faded out (Bodla et al. 2017, Soft-NMS).

    Args:
        shape: of the head.
        scores: in [0, 1], `[B, L, S, classes]`.
        most: stretches kept per sequence and class.
        sharpness: the score of a stretch is multiplied by exp(-overlap^2 / sharpness)
            for each better one; the published sigma.

    Raises:
        UserError: a sharpness that is not positive.
    """
    if not sharpness > 0:
        raise UserError(
            f"sharpness={sharpness} must be positive; take a small one to keep nothing "
            "that overlaps."
        )
    candidates = stretches(shape)
    inside = candidates[:, 1] <= shape.windows
    count = min(most, int(inside.sum()))
    faded = np.exp(
        -(np.stack([overlaps_of(c, candidates) for c in candidates]) ** 2) / sharpness
    )
    left = scores.reshape(len(scores), len(candidates), shape.classes).astype(float)
    left = np.where(inside[None, :, None], left, -1.0)
    rows, classes = np.meshgrid(
        np.arange(len(left)), np.arange(shape.classes), indexing="ij"
    )
    best = np.empty((count, *rows.shape), np.int64)
    values = np.empty((count, *rows.shape))
    for i in range(count):
        best[i] = left.argmax(1)
        values[i] = left[rows, best[i], classes]
        left *= np.where(left > 0, faded[best[i]].transpose(0, 2, 1), 1.0)
        left[rows, best[i], classes] = -1.0
    return Found(
        where=np.broadcast_to(rows, best.shape).reshape(-1).astype(np.int64),
        places=candidates[best.reshape(-1)],
        classes=np.broadcast_to(classes, best.shape).reshape(-1).astype(np.int64),
        scores=values.reshape(-1),
    )


def stretches(shape: TemporalShape) -> Floats:
    """(start, end) of every stretch in windows, `[L * S, 2]`, as the map counts them.

    Example:
        >>> stretches(TemporalShape(tokens=4, windows=2, longest=2, classes=1,
        ...                         neighbours=1)).tolist()
        [[0.0, 1.0], [0.0, 2.0], [1.0, 2.0], [1.0, 3.0]]
    """
    starts = np.repeat(np.arange(shape.windows), shape.longest)
    lengths = np.tile(np.arange(1, shape.longest + 1), shape.windows)
    return np.stack([starts, starts + lengths], axis=1).astype(np.float64)


def _sampling(shape: TemporalShape) -> Tensor:
    """Linear interpolation at the samples of every stretch, `[L, L, S, samples]`."""
    places = stretches(shape)
    length = places[:, 1] - places[:, 0]
    fraction = np.linspace(-_CONTEXT, 1 + _CONTEXT, shape.samples)
    at = places[:, :1] - 0.5 + fraction[None, :] * length[:, None]
    at = at.clip(0, shape.windows - 1)
    near = np.abs(np.arange(shape.windows)[:, None, None] - at[None])
    weight = np.clip(1 - near, 0, None).astype(np.float32)
    grid = weight.reshape(shape.windows, shape.windows, shape.longest, shape.samples)
    return torch.from_numpy(grid)
