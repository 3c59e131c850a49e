"""What ConST-CL is measured by: clips told apart, and regions found again."""

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.devices import device_of
from fedemb.identity import embed_all, labels_of
from fedemb.metrics import identity_metrics
from model_zoo.const_cl.backbone import TwoHeadedResNet
from model_zoo.const_cl.matching import carried_over, follow
from model_zoo.const_cl.views import Augmentation, augmented
from model_zoo.video.retrieval import retrieval_metrics

if TYPE_CHECKING:
    from model_zoo.const_cl.task import ConstClTask

_GALLERY = 256  # clips whose views and regions are looked for
_BLOCK = 64


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
    metrics |= follow(network, seen, boxes, task.head.region)
    frames = task.augmentation.frames
    return metrics | carried_over(network, seen, boxes, frames, task.head.region)


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
