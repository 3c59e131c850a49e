"""A head for every kind of problem: what it reads, what it answers, what it is told."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_zoo.videoglue.localization import ActionHead
from model_zoo.videoglue.poolers import MlapHead, PoolerHead
from model_zoo.videoglue.problems import Problem, targets_of
from model_zoo.videoglue.score import Adaptation, Group
from model_zoo.videoglue.temporal import (
    TemporalHead,
    TemporalShape,
    stretch_loss,
    stretch_targets,
)


def make_head(
    problem: Problem,
    widths: Sequence[int],
    adaptation: Adaptation,
    heads: int,
    windows: int,
    longest: int,
) -> nn.Module:
    """The head of a problem, new."""
    width = widths[-1]
    if problem.group is Group.SPATIO_TEMPORAL:
        return ActionHead(width, width, problem.classes, heads=heads)
    if problem.group is Group.TEMPORAL:
        shape = TemporalShape(
            tokens=sum(widths),
            windows=windows,
            longest=min(longest, windows),
            classes=problem.classes,
        )
        return TemporalHead(shape)
    if adaptation is Adaptation.MLAP:
        return MlapHead(widths, heads, problem.classes)
    return PoolerHead(width, heads, problem.classes)


def windows_of(problem: Problem, grids: Sequence[Tensor], rows: int) -> list[Tensor]:
    """Grids; of sequences mean tokens of windows, joined over blocks `[rows, L, D]`."""
    if problem.group is not Group.TEMPORAL:
        return list(grids)
    pooled = torch.cat([grid.mean((1, 2, 3)) for grid in grids], dim=-1)
    return [pooled.unflatten(0, (rows, -1))]  # type: ignore[no-untyped-call]


def one_of(problem: Problem, grids: Sequence[Tensor], clips: Tensor) -> list[Tensor]:
    """Grids of one clip as its head reads them; a sequence repeats its first window."""
    if problem.group is Group.TEMPORAL:
        grids = [grid.expand(clips.shape[1], -1, -1, -1, -1) for grid in grids]
    return windows_of(problem, grids, 1)


def boxes_of(problem: Problem, rows: Tensor | slice) -> Tensor | None:
    """Boxes `[n, K, 4]` of training clips, where the problem has boxes."""
    if problem.group is not Group.SPATIO_TEMPORAL:
        return None
    return torch.from_numpy(problem.train.fields["boxes"].astype(np.float32))[rows]


def logits_of(
    problem: Problem, head: nn.Module, grids: Sequence[Tensor], boxes: Tensor | None
) -> Tensor:
    """Logits `[B, classes]`, of boxes `[B, K, classes]`, of stretches [B, L, S, C]."""
    if problem.group is Group.TEMPORAL:
        found: Tensor = head(grids[0])
    elif boxes is not None:
        found = head(grids[-1], boxes.clamp(0, 1))
    else:
        found = head(grids)
    return found


def training_targets(problem: Problem, head: nn.Module) -> Tensor:
    """What the head is told of the training clips."""
    targets = targets_of(problem, problem.train)
    if not isinstance(head, TemporalHead):
        return targets
    maps = [
        stretch_targets(head.shape, own[:, 0], own[:, 1], own[:, 2].astype(np.int64))
        for own in (rows[rows[:, 2] >= 0] for rows in targets.numpy().astype(float))
    ]
    return torch.from_numpy(np.stack(maps))


def loss_of(
    problem: Problem, logits: Tensor, targets: Tensor, boxes: Tensor | None
) -> Tensor:
    """Cross-entropy of classes, of every class by itself, or of stretches."""
    if problem.group in (Group.APPEARANCE, Group.MOTION):
        return F.cross_entropy(logits, targets)
    if problem.group is Group.TEMPORAL:
        return stretch_loss(logits, targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if boxes is None:
        return losses.mean()
    there = (boxes[..., 0] >= 0).to(losses.dtype)[..., None]
    return (losses * there).sum() / (there.sum() * losses.shape[-1]).clamp(min=1)
