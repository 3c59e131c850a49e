"""The readable reference: one virtual client after another, plain autograd.

Every other engine is tested against this one.
"""

import torch
from torch import Tensor
from torch.func import functional_call

from fedemb.local import LocalModel, LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Parameters
from fedemb.work import Work


def serial_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the clients of `work`."""
    deltas = [
        _train_one(model, layout, theta, work, recipe, client)
        for client in range(len(work.rows))
    ]
    return torch.stack(deltas)


def _train_one(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    client: int,
) -> Tensor:
    backbone = theta.clone()
    head = {name: values[client].clone() for name, values in work.heads.items()}
    velocity = torch.zeros_like(theta)
    head_velocity = {name: torch.zeros_like(value) for name, value in head.items()}
    head_rate = recipe.learning_rate * recipe.head_lr_scale
    for step, batch in enumerate(work.of(client)):
        gradient, head_gradient = _gradients(model, layout, backbone, head, batch)
        if recipe.trains_backbone(step):
            velocity = recipe.momentum * velocity + gradient
            backbone = backbone - recipe.learning_rate * velocity
        if recipe.trains_head(step):
            for name in head:
                head_velocity[name] = (
                    recipe.momentum * head_velocity[name] + head_gradient[name]
                )
                head[name] = head[name] - head_rate * head_velocity[name]
    return backbone - theta


def _gradients(
    model: LocalModel, layout: FlatLayout, theta: Tensor, head: Parameters, batch: Batch
) -> tuple[Tensor, Parameters]:
    """The gradient of the loss, for the backbone `[P]` and for the head."""
    theta = theta.detach().requires_grad_()
    head = {name: value.detach().requires_grad_() for name, value in head.items()}
    loss = functional_call(model, local_parameters(layout, theta, head), (batch,))
    inputs = [theta, *head.values()]
    if not loss.requires_grad:
        return torch.zeros_like(theta), {
            k: torch.zeros_like(v) for k, v in head.items()
        }
    gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return gradients[0], dict(zip(head, gradients[1:], strict=True))


def local_parameters(
    layout: FlatLayout, theta: Tensor, head: Parameters
) -> dict[str, Tensor]:
    """Parameters of a `LocalModel`, by its names."""
    named = {
        f"backbone.{name}": value for name, value in layout.unflatten(theta).items()
    }
    return named | {f"head.{name}": value for name, value in head.items()}
