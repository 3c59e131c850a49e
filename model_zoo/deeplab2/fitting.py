"""A head that is fitted to frozen features, and what it predicts.

A head is private to whoever needs one, so judging a backbone means giving it a new head
first: on public pictures, from a public seed, the same for every backbone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import beside, device_of
from model_zoo.deeplab2.augment import AugmentSpec
from model_zoo.deeplab2.losses import LossSpec
from model_zoo.deeplab2.network import LocalNetwork, SharedNetwork
from model_zoo.deeplab2.segmentation import SegmentationTask


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """How a head is fitted: Adam on all losses, with frozen features.

    Losses have their published weights whatever the task's are: a backbone that was
    trained without one of them is judged by a head that was not.
    All pixels count alike, and all of them: in the few steps of a fit the published
    choice of hard pixels and small instances would have no time to reach the rest.

    Attributes:
        rows: pictures to fit to, and as many to judge by, at most.
        steps: of Adam.
        batch_size: pictures per step.
        learning_rate: of Adam, falling linearly to zero.
        seed: of the head's first values and of the batches; public.
    """

    rows: int = 128
    steps: int = 150
    batch_size: int = 16
    learning_rate: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """A fitted head, and pictures that it has not seen.

    Attributes:
        head: in global label space.
        judged: every other row, for judging; the rows in between fitted the head.
    """

    head: LocalNetwork
    judged: Examples


def fit_to_half(
    task: SegmentationTask,
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec | None = None,
) -> Fitted:
    """A head fitted to half of the rows, which are spread evenly over `examples`."""
    fit = fit or FitSpec()
    count = min(len(examples), 2 * fit.rows)
    rows = np.linspace(0, len(examples) - 1, count).astype(np.int64)
    backbone.eval()
    head = fit_head(task, backbone, examples.only(rows[::2]), fit)
    return Fitted(head, examples.only(rows[1::2]))


def fit_head(
    task: SegmentationTask,
    backbone: nn.Module,
    examples: Examples,
    fit: FitSpec,
) -> LocalNetwork:
    """A new head, fitted to the frozen features of `examples`.

    Guarantees: the backbone is not changed; the head has all losses of a head of this
    task, whichever of them the backbone was trained without, in the global label space;
    and equal arguments give an equal head, for nothing is drawn but from `fit.seed`.

    Args:
        task: whose head it is.
        backbone: a `SharedNetwork` in evaluation mode.
        examples: pictures with maps, treated as public.
        fit: steps, rate, batch size and seed of Adam, whose rate falls to zero.
    """
    device = device_of(backbone)
    plain = replace(
        task,
        losses=LossSpec(top_k=1.0),
        targets=replace(task.targets, small_weight=1.0),
        classes_of="global",
        augmentation=AugmentSpec(),
    )
    batch = beside(backbone, plain.prepare(examples, np.zeros(1, np.uint64)))
    batch.pop("path", None)
    batch["weight"] = torch.ones(len(examples), device=device)
    features = _features(cast(SharedNetwork, backbone), batch["image"])
    head = cast(LocalNetwork, plain.make_head(plain.num_classes)).to(device)
    draw = torch.Generator().manual_seed(fit.seed)
    head.load_state_dict(head.fresh(draw))
    optimizer = torch.optim.Adam(head.parameters(), fit.learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 1.0 / fit.steps, total_iters=fit.steps
    )
    with torch.enable_grad():
        for _ in range(fit.steps):
            rows = torch.randperm(len(examples), generator=draw)[: fit.batch_size]
            rows = rows.to(device)
            optimizer.zero_grad()
            loss = plain.loss(
                head,
                {name: values[rows] for name, values in features.items()},
                {name: values[rows] for name, values in batch.items()},
            )
            torch.autograd.backward(loss)
            optimizer.step()
            decay.step()
    return head.eval()


def predictions(
    task: SegmentationTask, backbone: nn.Module, head: LocalNetwork, examples: Examples
) -> Iterator[dict[str, Tensor]]:
    """What a backbone and a head in global label space say, picture by picture."""
    device = device_of(backbone)
    images = task.prepare(_pictures(examples), np.zeros(1, np.uint64))["image"]
    for part in torch.split(images, 16):
        with torch.no_grad():
            pictures = part.to(device)
            size = (int(pictures.shape[2]), int(pictures.shape[3]))
            predicted = head(cast(SharedNetwork, backbone).dense(pictures), size)
        for row in range(len(part)):
            yield {name: values[row] for name, values in predicted.items()}


def _features(backbone: SharedNetwork, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        parts = [backbone.dense(part) for part in torch.split(images, 16)]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _pictures(examples: Examples) -> Examples:
    return Examples({"image": examples.fields["image"]}, examples.offsets)
