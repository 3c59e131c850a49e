"""Private local fine-tuning of heads while the backbone stands still.

In the head-only steps the backbone still has the weights it was handed out with, the
same for all virtual clients. So every row is embedded once, in one batched forward
pass without a graph, however many steps the head takes.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedemb.local import LocalModel, LocalTraining, Work
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features, Parameters


def fit_heads(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> dict[str, Tensor]:
    """Head parameters `[V, ...]` after the head-only steps of `recipe`."""
    heads = {name: value.clone() for name, value in work.heads.items()}
    steps = [s for s in work.steps() if not recipe.trains_backbone(s)]
    if not heads or not steps:
        return heads
    features = embed_rows(model, layout, theta, work.batch)
    velocity = {name: torch.zeros_like(value) for name, value in heads.items()}
    rate = recipe.learning_rate * recipe.head_lr_scale

    def loss(head: Parameters, features: Features, batch: Batch) -> Tensor:
        return head_loss(model, head, features, batch)

    gradients = vmap(grad(loss))
    for step in steps:
        found = gradients(heads, _gather(work, features, step), work.at(step))
        for name, value in heads.items():
            velocity[name].mul_(recipe.momentum).add_(found[name])
            value.sub_(moving(velocity[name] * rate, work.active(step)))
    return heads


def moving(change: Tensor, active: Tensor) -> Tensor:
    """`change` `[V, ...]` of the active clients; zero for the others, were it NaN."""
    return torch.where(active.view(-1, *[1] * (change.dim() - 1)), change, 0.0)


def embed_rows(
    model: LocalModel, layout: FlatLayout, theta: Tensor, batch: Batch
) -> Features:
    """Features of all rows at the shared weights, without a graph."""
    backbone = _Features(model)
    named = {f"model.backbone.{k}": v for k, v in layout.unflatten(theta).items()}
    with torch.no_grad():
        features: Features = functional_call(backbone, named, (batch,))
    return features


class _Features(nn.Module):
    def __init__(self, model: LocalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Features:
        return self.model.task.features(self.model.backbone, batch)


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
    named = {f"head.{name}": value for name, value in head.items()}
    loss: Tensor = functional_call(_HeadLoss(model), named, (features, batch))
    return loss


def _gather(work: Work, features: Features, step: int) -> Features:
    if isinstance(features, Tensor):
        return work.gather(features, step)
    return {name: work.gather(value, step) for name, value in features.items()}
