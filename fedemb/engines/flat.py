"""The fast engines for several local steps: flat buffers and plain autograd.

The flat engine trains clients one at a time, with the backbone's own layers. Where
every trained layer has a form with weights of several clients (`fedemb.engines.forms`),
a few can be trained at a time, which is faster for small backbones, whose layers are
too cheap to call once per client: the stacked engine multiplies matrices, the grouped
engine convolves in groups.
"""

from functools import partial

import torch
from torch import Tensor

from fedemb.engines.buffers import Stack, trained_by
from fedemb.engines.forms import Form
from fedemb.engines.grouped import GROUPED
from fedemb.engines.heads import (
    concatenated,
    features_by_row,
    fit_heads,
    head_loss,
    losses_of,
    step_by,
)
from fedemb.engines.rows import channels_last
from fedemb.engines.stacked import STACKED
from fedemb.local import LocalModel, LocalTraining, Work
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Parameters

FORMS = {"stacked": STACKED, "grouped": GROUPED}


def flat_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    Heads are fitted together, backbones are trained one after another. A single
    backbone step uses the very features that its heads were fitted to.
    """
    moves = [step for step in work.steps() if recipe.trains_backbone(step)]
    if recipe.head_steps and len(moves) == 1:
        return _after_heads(model, layout, theta, work, recipe, moves[0])
    return _deltas(model, layout, theta, work, recipe, None, together=1)


def deltas_in_form(
    name: str,
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    All are trained together, in the form of that name.

    Raises:
        ValueError: if the backbone has trained layers without that form.
    """
    form = FORMS[name]
    if not form.takes(model.backbone, layout):
        raise ValueError(
            f"a trained layer of this backbone has no {name} form; use --engine flat."
        )
    return _deltas(model, layout, theta, work, recipe, form, together=len(work.rows))


stacked_deltas = partial(deltas_in_form, "stacked")
grouped_deltas = partial(deltas_in_form, "grouped")


def _deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    form: Form | None,
    together: int,
) -> Tensor:
    clients = len(work.rows)
    heads = fit_heads(model, layout, theta, work, recipe)
    stack = _stack(model, layout, theta, together, form)
    deltas = theta.new_empty(clients, layout.size)
    for start in range(0, clients, together):
        own = slice(start, start + together)
        part = work if together == clients else work.clients(own)
        stack.reset(theta)
        _train(stack, model, part, {k: v[own] for k, v in heads.items()}, recipe)
        stack.deltas(theta, out=deltas[own])
    return deltas


def _after_heads(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    step: int,
) -> Tensor:
    """Forward passes of all clients, their heads, then their backward passes."""
    stack = _stack(model, layout, theta, 1, None)
    stack.reset(theta)
    deltas = theta.new_zeros(len(work.rows), layout.size)
    clients = torch.nonzero(work.active(step)).flatten().tolist()
    batches = [_alone(work, client, step) for client in clients]
    features = [model.features(stack.module, batch) for batch in batches]
    read = [work.rows[client, step] for client in clients]
    rows = torch.cat([own[own >= 0] for own in read]) if read else None
    known = (
        None
        if rows is None
        else features_by_row(work, concatenated(features), rows, recipe)
    )
    heads = fit_heads(model, layout, theta, work, recipe, known)
    for client, batch, own in zip(clients, batches, features, strict=True):
        head = {name: values[client] for name, values in heads.items()}
        stack.velocity.zero_()
        loss = head_loss(model, head, own, batch)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        # The weights stay: graphs of the clients to come were built with them.
        torch.mul(stack.velocity, -recipe.learning_rate, out=deltas[client])
    return deltas


def _alone(work: Work, client: int, step: int) -> Batch:
    batch = work.one(client, step)
    return {name: channels_last(values) for name, values in batch.items()}


def _stack(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    clients: int,
    form: Form | None,
) -> Stack:
    """The stack that this model used last, or a new one if it does not fit."""
    form = form if clients > 1 else None  # a single client has the backbone's layers
    kept = model.scratch
    if not isinstance(kept, Stack) or not kept.fits(theta, clients, form):
        kept = Stack(model.backbone, layout, theta, clients, form)
        model.scratch = kept
    return kept


def _train(
    stack: Stack,
    model: LocalModel,
    work: Work,
    heads: Parameters,
    recipe: LocalTraining,
) -> None:
    """The steps that move the backbones, in lock-step."""
    joint = recipe.head_steps is None
    velocity = {name: torch.zeros_like(value) for name, value in heads.items()}
    values = {name: value.clone() for name, value in heads.items()}
    leaves = {
        name: trained_by(value, velocity[name]) if joint else value
        for name, value in values.items()
    }
    rate = recipe.learning_rate * recipe.head_lr_scale
    for step in work.steps():
        if not recipe.trains_backbone(step):
            continue
        stack.velocity.mul_(recipe.momentum)
        for buffer in velocity.values():
            buffer.mul_(recipe.momentum)
        active = work.active(step)
        if not bool(active.any()):
            return
        loss = _loss(stack, model, work, leaves, step)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        stack.step(recipe, active)
        if joint:
            for name, value in values.items():
                step_by(value, velocity[name], rate, active)


def _loss(
    stack: Stack, model: LocalModel, work: Work, heads: Parameters, step: int
) -> Tensor:
    """The sum of the clients' losses at a step."""
    if stack.form is None:
        batch = _alone(work, 0, step)
        features = model.features(stack.module, batch)
        return head_loss(model, {k: v[0] for k, v in heads.items()}, features, batch)
    batch = work.at(step)
    features = model.features(stack.module, stack.form.as_one_batch(batch))
    own = stack.form.by_client(features, stack.clients)
    return losses_of(model)(heads, own, batch).sum()
