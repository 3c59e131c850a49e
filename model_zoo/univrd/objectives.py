"""What both stages minimise, one number per picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_zoo.univrd.focal import Focal
from model_zoo.univrd.losses import (
    box_cost,
    box_loss,
    focal_cost,
    focal_sigmoid,
    focal_softmax,
)
from model_zoo.univrd.matching import match

_FOCAL = Focal()


@dataclass(frozen=True)
class Matched:
    """Tokens and the objects that they answer for: what both losses begin with.

    Attributes:
        logits: of names, `[B, N, Q]`.
        boxes: predicted, `[B, N, 4]`.
        truth: boxes `[B, n, 4]`.
        wanted: multi-hot names `[B, n, Q]`.
        present: `[B, n]`, 0 for padding.
        tokens: one-hot, `[B, n, N]`; rows of padding are zero.
    """

    logits: Tensor
    boxes: Tensor
    truth: Tensor
    wanted: Tensor
    present: Tensor
    tokens: Tensor


def matched(
    logits: Tensor,
    boxes: Tensor,
    truth: Tensor,
    wanted: Tensor,
    present: Tensor,
    focal: Focal = _FOCAL,
) -> Matched:
    """Match objects to tokens; the arguments are as of `Matched`.

    The cost is the focal cost of the object's names, plus L1 and -GIoU of its box.

    Example:
        >>> boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.3, 0.3]]])
        >>> named = torch.zeros(1, 1, 2), torch.ones(1, 1)
        >>> matched(torch.zeros(1, 2, 2), boxes, boxes[:, 1:], *named).tokens.tolist()
        [[[0.0, 1.0]]]
    """
    cost = focal_cost(logits, focal.alpha, focal.gamma)
    named = wanted @ cost.transpose(-1, -2)
    tokens = match(named + box_cost(boxes, truth), present)
    return Matched(logits, boxes, truth, wanted, present, tokens)


def detection_loss(found: Matched, asked: Tensor, focal: Focal = _FOCAL) -> Tensor:
    """Focal classification of all tokens, and boxes of the matched ones, `[B]`.

    Both are divided by the number of objects. There is no background class: a token
    without an object is a negative for the names that are asked for (`asked`
    `[B, Q]`), and for nothing else.
    """
    tokens, present = found.tokens, found.present
    targets = (tokens.transpose(-1, -2) @ found.wanted).clamp(max=1)
    named = focal_sigmoid(found.logits, targets, focal.alpha, focal.gamma)
    named = named * asked[:, None, :]
    placed = box_loss(tokens @ found.boxes, found.truth) * present
    objects = present.sum(1).clamp(min=1)
    return (named.sum((1, 2)) + placed.sum(1)) / objects


def merged_pairs(
    ends: Tensor, wanted: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Relations of the same pair as one, with several phrases.

    Args:
        ends: (subject, object) `[B, r, 2]`.
        wanted: one-hot phrases `[B, r, Q]`.
        present: `[B, r]`.

    Returns:
        Multi-hot phrases `[B, r, Q]`, and which rows still count: the first of a pair.
    """
    same = (ends[:, :, None] == ends[:, None, :]).all(-1).to(wanted)
    same = same * present[:, None, :] * present[:, :, None]
    earlier = torch.tril(same, diagonal=-1).sum(-1)
    return (same @ wanted).clamp(max=1), present * (earlier == 0).to(present)


def relation_loss(
    logits: Tensor,
    pointers: tuple[Tensor, Tensor],
    targets: tuple[Tensor, Tensor],
    wanted: Tensor,
    present: Tensor,
    asked: Tensor,
    focal: Focal = _FOCAL,
) -> Tensor:
    """Focal classification plus pointing at subject and object, `[B]`.

    The mean over all M relation queries, which are matched to relations by the same
    terms. A query without a relation points at nothing, and is a negative for the
    phrases that are asked for.

    Args:
        logits: of phrases, `[B, M, Q]`.
        pointers: logits of subject and object over tokens, `[B, M, N]` each.
        targets: one-hot tokens `[B, r, N]` each; zero rows do not count.
        wanted: multi-hot phrases `[B, r, Q]`.
        present: `[B, r]`.
        asked: `[B, Q]`.
        focal: constants of the losses.
    """
    pointing = sum(
        target @ focal_softmax(logit, focal.gamma).transpose(-1, -2)
        for logit, target in zip(pointers, targets, strict=True)
    )  # [B, r, M]
    named = focal_cost(logits, focal.alpha, focal.gamma)
    cost = wanted @ named.transpose(-1, -2) + pointing
    chosen = match(cost, present)
    labels = (chosen.transpose(-1, -2) @ wanted).clamp(max=1)
    named = focal_sigmoid(logits, labels, focal.alpha, focal.gamma)
    named = (named * asked[:, None, :]).sum((1, 2))
    return (named + (chosen * pointing).sum((1, 2))) / logits.shape[1]
