"""The fast engine for several local steps: one buffer for all weights, plain autograd.

The weights of the clients in work are views of one flat buffer, and so are their
velocities of another. Autograd adds gradients into the velocities as it finds them, so
a step of SGD with momentum is two passes over memory, whatever the number of layers,
and neither optimizer objects nor functional calls cost anything.

The flat engine trains clients one at a time, with the backbone's own layers. Where
every trained layer has a stacked form (`fedemb.engines.stacked`), the stacked engine
trains a few at a time, which is faster for small backbones, whose layers are too cheap
to call once per client.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import vmap

from fedemb.devices import sent
from fedemb.engines.alone import multiply_alone
from fedemb.engines.heads import (
    concatenated,
    features_by_row,
    fit_heads,
    head_loss,
    step_by,
)
from fedemb.engines.layers import share_no_weights, trained_layers
from fedemb.engines.rows import as_one_batch, by_client, channels_last
from fedemb.engines.stacked import STACKED, can_stack, stored_order
from fedemb.local import LocalModel, LocalTraining, Work
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Parameters


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
    return _deltas(model, layout, theta, work, recipe, together=1)


def stacked_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    Raises:
        ValueError: if the backbone has trained layers without a stacked form.
    """
    if not stackable(model.backbone, layout):
        raise ValueError(
            "a trained layer of this backbone has no stacked form; use --engine flat."
        )
    return _deltas(model, layout, theta, work, recipe, together=len(work.rows))


def _deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
    together: int,
) -> Tensor:
    clients = len(work.rows)
    heads = fit_heads(model, layout, theta, work, recipe)
    stack = _stack(model, layout, theta, together)
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
    stack = _stack(model, layout, theta, 1)
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


def stackable(backbone: nn.Module, layout: FlatLayout) -> bool:
    """Whether trained parameters lie in layers with a stacked form, each in one."""
    layers = trained_layers(backbone, layout)
    return share_no_weights(layers) and all(can_stack(layer) for layer in layers)


class Stack:
    """The backbones of a few clients, and their velocities, in flat buffers.

    Attributes:
        module: takes the rows of all clients as one batch, client after client.
        values, velocity: flat; the blocks of the parameters lie one behind the other,
            each `[V, *shape]`.
    """

    def __init__(
        self, backbone: nn.Module, layout: FlatLayout, theta: Tensor, clients: int
    ) -> None:
        self.clients, self._layout = clients, layout
        self._orders = [
            _order(backbone, name, len(shape), stacked=clients > 1)
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        ]
        self.values = theta.new_zeros(clients * layout.size)
        self.velocity = theta.new_zeros(clients * layout.size)
        pairs = zip(self._stored(self.values), self._stored(self.velocity), strict=True)
        leaves = {
            name: _leaf(value, velocity)
            for name, (value, velocity) in zip(layout.names, pairs, strict=True)
        }
        self.module = _with_leaves(backbone, layout, leaves, clients)

    def fits(self, theta: Tensor, clients: int) -> bool:
        """Whether it can be used again for so many clients."""
        same = (self.values.dtype, self.values.device) == (theta.dtype, theta.device)
        return same and self.clients == clients

    def reset(self, theta: Tensor) -> None:
        """Hand out the backbone."""
        self.velocity.zero_()
        if self.clients == 1:  # the buffer is in the layout's order
            self.values.copy_(theta)
            return
        parts = self._layout.unflatten(theta).values()
        for block, part in zip(self._blocks(self.values), parts, strict=True):
            block.copy_(part)

    def step(self, recipe: LocalTraining, active: Tensor) -> None:
        """Move every active client by its velocity; the others stand still for good.

        `active`, bool `[V]`, is on the host.
        """
        if not bool(active.all()):
            idle = sent(torch.nonzero(~active).flatten(), self.velocity.device)
            for block in self._blocks(self.velocity):
                block.index_fill_(0, idle, 0.0)
        self.values.add_(self.velocity, alpha=-recipe.learning_rate)

    def deltas(self, theta: Tensor, out: Tensor) -> None:
        """Final minus initial values, into `out` `[V, P]`."""
        if self.clients == 1:
            torch.sub(self.values, theta, out=out[0])
            return
        parts = self._layout.unflatten(theta).values()
        columns = self._layout.unflatten(out).values()
        for block, part, column in zip(
            self._blocks(self.values), parts, columns, strict=True
        ):
            torch.sub(block, part, out=column)

    def _stored(self, buffer: Tensor) -> Iterator[Tensor]:
        """Every parameter as its layer wants it; without `V` for a single client."""
        lengths = [self.clients * n for n in self._layout.lengths]
        many = () if self.clients == 1 else (self.clients,)
        for part, shape, order in zip(
            torch.split(buffer, lengths), self._layout.shapes, self._orders, strict=True
        ):
            yield part.view(*many, *(shape[axis] for axis in order))

    def _blocks(self, buffer: Tensor) -> Iterator[Tensor]:
        """Every parameter in the layout's order of axes, `[V, *shape]`."""
        for part, order in zip(self._stored(buffer), self._orders, strict=True):
            block = part[None] if self.clients == 1 else part
            back = [order.index(axis) + 1 for axis in range(len(order))]
            yield block.permute(0, *back)


def _order(backbone: nn.Module, name: str, axes: int, stacked: bool) -> tuple[int, ...]:
    owner, _, own = name.rpartition(".")
    layer = backbone.get_submodule(owner)
    wanted = stored_order(layer, own) if stacked else None
    return wanted or tuple(range(axes))


def _leaf(value: Tensor, velocity: Tensor) -> Tensor:
    """Shares memory with `value`; autograd adds its gradients to `velocity`."""
    leaf = value.detach().requires_grad_()
    leaf.grad = velocity.detach()
    if value.dim() == 4:
        # Convolutions give gradients in another memory order, in which adding is slow.
        leaf.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return leaf


def _stack(model: LocalModel, layout: FlatLayout, theta: Tensor, clients: int) -> Stack:
    """The stack that this model used last, or a new one if it does not fit."""
    kept = model.scratch
    if not isinstance(kept, Stack) or not kept.fits(theta, clients):
        kept = model.scratch = Stack(model.backbone, layout, theta, clients)
    return kept


def _with_leaves(
    backbone: nn.Module, layout: FlatLayout, leaves: Mapping[str, Tensor], clients: int
) -> nn.Module:
    """A copy of `backbone` that uses `leaves`; what is not trained is shared."""
    every = [*backbone.parameters(), *backbone.buffers()]
    twin = copy.deepcopy(backbone, {id(tensor): tensor for tensor in every})
    named = dict(backbone.named_parameters())
    of = {id(named[name]): leaf for name, leaf in leaves.items()}
    if clients == 1:
        for layer in twin.modules():
            for name, value in layer._parameters.items():
                if id(value) in of:
                    layer._parameters[name] = of[id(value)]  # type: ignore[assignment]
        multiply_alone(twin)
        return twin
    replaced = {}
    for layer in trained_layers(twin, layout):
        values = {
            name: of.get(id(value), _repeated(layer, name, value, clients))
            for name, value in layer.named_parameters(recurse=False)
        }
        replaced[layer] = STACKED[type(layer)](layer, values)
    for parent in list(twin.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    root: nn.Module = replaced.get(twin, twin)
    return root


def _repeated(layer: nn.Module, name: str, value: Tensor, clients: int) -> Tensor:
    """A parameter that is not trained, the same for every client."""
    order = stored_order(layer, name) or tuple(range(value.dim()))
    return value.permute(order).expand(clients, *(value.shape[a] for a in order))


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
        name: _leaf(value, velocity[name]) if joint else value
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
    if stack.clients == 1:
        batch = _alone(work, 0, step)
        features = model.features(stack.module, batch)
        return head_loss(model, {k: v[0] for k, v in heads.items()}, features, batch)
    batch = work.at(step)
    features = model.features(stack.module, as_one_batch(batch))
    losses: Tensor = vmap(lambda h, f, b: head_loss(model, h, f, b))(
        heads, by_client(features, stack.clients), batch
    )
    return losses.sum()
