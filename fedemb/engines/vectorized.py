"""Many virtual clients at once: parameters stacked, `torch.func` over the stack."""

from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedemb.engines.heads import fit_heads, step_by
from fedemb.engines.serial import local_parameters
from fedemb.local import LocalModel, LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Parameters
from fedemb.work import Work


def vectorized_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    All clients take their steps in lock-step; a client whose rows have run out stands
    still while the others finish.
    """
    heads = fit_heads(model, layout, theta, work, recipe)
    joint = recipe.head_steps is None
    wanted: tuple[int, ...] = (0, 1) if joint and heads else (0,)
    gradients = vmap(grad(partial(_loss, model, layout), argnums=wanted))
    backbones = theta.expand(len(work.rows), -1).clone()
    velocity = torch.zeros_like(backbones)
    head_velocity = {name: torch.zeros_like(value) for name, value in heads.items()}
    rate, head_rate = recipe.learning_rate, recipe.learning_rate * recipe.head_lr_scale
    for step in work.steps():
        if not recipe.trains_backbone(step):
            continue
        batch = work.at(step)
        found = gradients(backbones, heads, batch)
        active = work.active(step)
        velocity.mul_(recipe.momentum).add_(found[0])
        step_by(backbones, velocity, rate, active)
        if joint:
            for name, value in heads.items():
                head_velocity[name].mul_(recipe.momentum).add_(found[1][name])
                step_by(value, head_velocity[name], head_rate, active)
    return backbones.sub_(theta)


def _loss(
    model: LocalModel, layout: FlatLayout, theta: Tensor, head: Parameters, batch: Batch
) -> Tensor:
    loss: Tensor = functional_call(
        model, local_parameters(layout, theta, head), (batch,)
    )
    return loss
