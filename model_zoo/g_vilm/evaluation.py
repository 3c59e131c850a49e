"""What G-ViLM is measured by: retrieval, and whether groups and stretches are found."""

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.devices import beside
from fedemb.identity import embed_all, labels_of
from fedemb.metrics import identity_metrics
from model_zoo.g_vilm.network import DualEncoder
from model_zoo.video.retrieval import both_ways, first_of_each

if TYPE_CHECKING:
    from model_zoo.g_vilm.task import GVilmTask

_POINTED = 256  # clips whose groups are compared with boxes
_BLOCK = 128


def evaluate(
    task: "GVilmTask", backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Zero-shot retrieval both ways, grounding, grouping, and identity metrics.

    Retrieval is among the first clips of different captions, 256 at most.
    """
    fields = examples.fields
    labels = labels_of(examples)
    embeddings = embed_all(task, backbone, examples)
    metrics = identity_metrics(embeddings, labels)
    captions = fields["caption"].astype(str)
    rows = first_of_each(captions)
    texts = task.embed_texts(backbone, captions[rows])
    metrics |= both_ways(texts, embeddings[torch.from_numpy(rows)])
    some = examples.only(np.arange(min(len(examples), _POINTED), dtype=np.int64))
    if task.paste_source != "none":
        metrics["paste_accuracy"] = paste_accuracy(task, backbone, some)
    if "boxes" in fields:
        metrics |= pointing(task, backbone, some)
    return metrics


def paste_accuracy(task: "GVilmTask", backbone: nn.Module, examples: Examples) -> float:
    """Share of time steps of pasted clips that are most like others of their kind.

    A step that is alone of its kind has nothing to be like and is not judged; NaN if
    all are alone, as in clips of two tubes, or if no clip has another beside it.
    """
    if len(examples) < 2:
        return math.nan
    right = []
    with torch.inference_mode():
        batch = beside(backbone, task.prepare(examples, np.ones(1, np.uint64)))
        for start in range(0, len(examples), _BLOCK):
            rows = slice(start, start + _BLOCK)
            steps = cast(DualEncoder, backbone).see(batch["blended"][rows])["steps"]
            right.append(told_apart(steps, batch["mask"][rows]).cpu())
    judged = torch.cat(right)
    return float(judged.float().mean()) if len(judged) else math.nan


def told_apart(steps: Tensor, mask: Tensor) -> Tensor:
    """Which steps are nearer to the mean of the others of their kind than of the rest.

    A centre that counted the step itself would always be the nearer one.

    Args:
        steps: features of time steps, `[B, N_t, D]`.
        mask: 1 where the pasted clip shows, `[B, N_t]`.

    Returns:
        Booleans of the steps that can be judged.

    Example:
        >>> steps = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
        >>> told_apart(steps, torch.tensor([[1, 1, 0, 0]])).tolist()
        [True, True, True, True]
        >>> told_apart(steps, torch.tensor([[1, 0, 0, 0]])).tolist()
        [False, True, True]
        >>> told_apart(steps[:, 1:3], torch.tensor([[1, 0]])).tolist()
        []
    """
    alike = mask[:, :, None] == mask[:, None, :]
    own = alike & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    near, far = (
        F.cosine_similarity(steps, kind.to(steps.dtype) @ steps, dim=-1)
        for kind in (own, ~alike)
    )
    return (near > far)[own.any(-1) & (~alike).any(-1)]


def pointing(
    task: "GVilmTask", backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Share of the tokens of a noun's best group that lie in its box, and of any group.

    The boxes of a clip are in the order of its nouns.
    """
    dual = cast(DualEncoder, backbone)
    best, chance = [], []
    boxes = examples.fields["boxes"]
    with torch.inference_mode():
        for start in range(0, len(examples), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(examples)), dtype=np.int64)
            batch = task.prepare(examples.only(rows), np.ones(1, np.uint64))
            valid = batch["valid"] > 0
            batch = beside(dual, batch)
            seen = dual.video(batch["clip"])
            shared = dual.see(batch["clip"])["groups"]
            nouns = dual.read(batch["nouns"])
            winner = torch.einsum("bmd,bkd->bkm", shared, nouns).argmax(-1).cpu()
            inside = _inside(boxes[rows], seen.tokens.shape[1:4])
            for k in range(min(nouns.shape[1], inside.shape[1])):
                told = valid[:, k] & (inside[:, k].sum(1) > 0)
                shares = _shares(seen.assigned.cpu(), inside[:, k])
                own = shares[torch.arange(len(rows)), winner[:, k]]
                best.append(own[told])
                chance.append(inside[:, k].mean(1)[told])
    if not sum(len(part) for part in best):
        return {}
    return {
        "grounding_precision": float(torch.cat(best).mean()),
        "grounding_chance": float(torch.cat(chance).mean()),
    }


def _shares(assigned: Tensor, inside: Tensor) -> Tensor:
    """Of each group's tokens, the share inside; 0 for an empty group. `[B, M]`."""
    return (assigned * inside[:, None]).sum(-1) / assigned.sum(-1).clamp(min=1)


def _inside(boxes: NDArray[np.generic], grid: torch.Size) -> Tensor:
    """Which tokens' centres lie in which boxes, `[B, K, t * h * w]`.

    Args:
        boxes: (ymin, xmin, ymax, xmax) in [0, 1], -1 out of sight, `[B, T, K, 4]`.
        grid: tokens along time, height and width.
    """
    t, h, w = grid
    frames = (np.arange(t) * boxes.shape[1] // t).astype(np.int64)
    corners = torch.from_numpy(boxes[:, frames].astype(np.float32))[..., None, None, :]
    y = ((torch.arange(h) + 0.5) / h)[:, None]
    x = ((torch.arange(w) + 0.5) / w)[None, :]
    top, left, bottom, right = corners.unbind(-1)
    hit = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return hit.float().movedim(2, 1).flatten(2)
