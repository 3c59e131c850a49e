"""Private local fine-tuning of heads while the backbone stands still.

In the head-only steps the backbone still has the weights it was handed out with, the
same for all virtual clients. So every row is embedded once, in one batched forward
pass without a graph, however many steps the head takes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedemb.devices import sent
from fedemb.engines.rows import channels_last, in_plain_order, of_each
from fedemb.local import LocalModel, LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features, Parameters
from fedemb.work import Work

_BLOCK = 64  # rows embedded at a time: their activations stay in cache


def fit_heads(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    known: Features | None = None,
) -> dict[str, Tensor]:
    """Head parameters `[V, ...]` after the head-only steps of `recipe`.

    `known` are features of all rows at the shared weights, if they are there already.
    """
    heads = {name: value.clone() for name, value in work.heads.items()}
    steps = [s for s in work.steps() if not recipe.trains_backbone(s)]
    if not heads or not steps:
        return heads
    features = in_plain_order(
        embed_rows(model, layout, theta, work.batch) if known is None else known
    )
    needed = _fields_of_the_loss(model, work, features)
    velocity = {name: torch.zeros_like(value) for name, value in heads.items()}
    rate = recipe.learning_rate * recipe.head_lr_scale

    losses = losses_of(model)
    for step in steps:
        # Clients do not meet in the sum, so its gradient is each one's own: one plain
        # backward pass, which costs half of `vmap(grad)`.
        with torch.enable_grad():
            tracked = {k: v.detach().requires_grad_() for k, v in heads.items()}
            gathered, batch = _gather(work, features, step), work.at(step, needed)
            total = losses(tracked, gathered, batch).sum()
        if not total.requires_grad:
            break  # the loss reads no head
        found = torch.autograd.grad(
            total, list(tracked.values()), allow_unused=True, materialize_grads=True
        )
        active = work.active(step)
        for (name, value), gradient in zip(heads.items(), found, strict=True):
            velocity[name].mul_(recipe.momentum).add_(gradient)
            step_by(value, velocity[name], rate, active)
    return heads


def step_by(value: Tensor, velocity: Tensor, rate: float, active: Tensor) -> None:
    """Move the active clients' `[V, ...]`; the others stand still, were it NaN.

    `active`, bool `[V]`, is on the host.
    """
    if bool(active.all()):
        value.sub_(velocity, alpha=rate)
        return
    moving = sent(active, value.device).view(-1, *[1] * (value.dim() - 1))
    value.sub_(torch.where(moving, velocity * rate, 0.0))


def features_by_row(
    work: Work, features: Features, rows: Tensor, recipe: LocalTraining
) -> Features | None:
    """Features `[m, ...]` of some `rows` `[m]` (-1 is padding) as those of all rows.

    `rows` are on the host, as those of `work` are.

    None if the head-only steps read other rows than these.
    """
    steps = [s for s in work.steps() if not recipe.trains_backbone(s)]
    read = torch.nonzero(rows >= 0).flatten()
    count = len(next(iter(work.batch.values())))
    here = torch.zeros(count, dtype=torch.bool)
    here[rows[read]] = True
    wanted = work.rows[:, steps].flatten()
    if not bool(here[wanted[wanted >= 0]].all()):
        return None

    places, sources = sent(rows[read], work.device), sent(read, work.device)

    def placed(values: Tensor) -> Tensor:
        out = values.new_zeros(count, *values.shape[1:])
        out[places] = values.detach()[sources]
        return out

    return of_each(features, placed)


def embed_rows(
    model: LocalModel, layout: FlatLayout, theta: Tensor, batch: Batch
) -> Features:
    """Features of all rows at the shared weights, without a graph."""
    backbone = _Features(model)
    named = {f"model.backbone.{k}": v for k, v in layout.unflatten(theta).items()}
    rows = len(next(iter(batch.values())))
    parts: list[Features] = []
    with torch.no_grad():
        for start in range(0, rows, _BLOCK):
            block = {
                name: channels_last(values[start : start + _BLOCK])
                for name, values in batch.items()
            }
            parts.append(functional_call(backbone, named, (block,)))
    return concatenated(parts)


def concatenated(parts: list[Features]) -> Features:
    """Features of several batches as those of one."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if tensors:
        return torch.cat(tensors)
    tables = [part for part in parts if not isinstance(part, Tensor)]
    return {name: torch.cat([part[name] for part in tables]) for name in tables[0]}


class _Noted(dict[str, Tensor]):
    """A batch that notes which of its fields are read."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(self.keys())
        return super().__iter__()


def _fields_of_the_loss(
    model: LocalModel, work: Work, features: Features
) -> frozenset[str]:
    """Which fields of a batch a head's loss reads, so that no others are gathered.

    Images are read to make features, once, and seldom again.
    """
    one = work.clients(slice(0, 1))
    batch = _Noted({name: values[0] for name, values in one.at(0).items()})
    gathered = _gather(one, features, 0)
    first = (
        gathered[0]
        if isinstance(gathered, Tensor)
        else {name: values[0] for name, values in gathered.items()}
    )
    with torch.no_grad():
        head_loss(model, {k: v[0] for k, v in one.heads.items()}, first, batch)
    return frozenset(batch.read)


class _Features(nn.Module):
    def __init__(self, model: LocalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Features:
        return self.model.features(self.model.backbone, batch)


class _HeadLoss(nn.Module):
    def __init__(self, model: LocalModel) -> None:
        super().__init__()
        self.task, self.head = model.task, model.head

    def forward(self, features: Features, batch: Batch) -> Tensor:
        return self.task.loss(self.head, features, batch)


def head_loss(
    model: LocalModel, head: Parameters, features: Features, batch: Batch
) -> Tensor:
    """The loss of a step, given the features of its rows."""
    return _loss(_HeadLoss(model), head, features, batch)


def losses_of(model: LocalModel) -> Callable[[Parameters, Features, Batch], Tensor]:
    """Losses `[V]` of heads `[V, ...]`, features `[V, B, ...]` and batches `[V, B]`.

    Vectorised over clients, unless the task's own loss takes many (`takes_many`).
    """
    one = partial(_loss, _HeadLoss(model))
    takes_many = getattr(model.task, "takes_many", None)
    if takes_many is not None and takes_many(model.head):
        return one
    vectorised: Callable[[Parameters, Features, Batch], Tensor] = vmap(one)
    return vectorised


def _loss(own: _HeadLoss, head: Parameters, features: Features, batch: Batch) -> Tensor:
    named = {f"head.{name}": value for name, value in head.items()}
    loss: Tensor = functional_call(own, named, (features, batch))
    return loss


def _gather(work: Work, features: Features, step: int) -> Features:
    return of_each(features, lambda values: work.gather(values, step))
