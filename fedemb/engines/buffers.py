"""The weights of the clients in work as views of one flat buffer, and velocities too.

Autograd adds gradients into the velocities as it finds them, so a step of SGD with
momentum is two passes over memory, whatever the number of layers, and neither optimizer
objects nor functional calls cost anything.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fedemb.devices import zero_rows
from fedemb.engines.alone import hasten
from fedemb.engines.forms import Form
from fedemb.engines.layers import trained_layers
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout


class Stack:
    """The backbones of a few clients, and their velocities, in flat buffers.

    Attributes:
        form: of the layers; None for a single client, with the backbone's own layers.
        module: takes the rows of all clients as one batch, in the order of `form`.
        values, velocity: flat; the blocks of the parameters lie one behind the other,
            each `[V, *shape]`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layout: FlatLayout,
        theta: Tensor,
        clients: int,
        form: Form | None,
    ) -> None:
        self.clients, self.form, self._layout = clients, form, layout
        self._orders = [
            _order(form, *_owner(backbone, name), len(shape))
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        ]
        self.values = theta.new_zeros(clients * layout.size)
        self.velocity = theta.new_zeros(clients * layout.size)
        pairs = zip(self._stored(self.values), self._stored(self.velocity), strict=True)
        leaves = {
            name: trained_by(value, velocity)
            for name, (value, velocity) in zip(layout.names, pairs, strict=True)
        }
        self.module = _with_leaves(backbone, layout, leaves, clients, form)

    def fits(self, theta: Tensor, clients: int, form: Form | None) -> bool:
        """Whether it can be used again for so many clients."""
        same = (self.values.dtype, self.values.device) == (theta.dtype, theta.device)
        return same and self.clients == clients and self.form is form

    def reset(self, theta: Tensor) -> None:
        """Hand out the backbone."""
        self.velocity.zero_()
        if self.clients == 1:  # the buffer is in the layout's order
            self.values.copy_(theta)
            return
        parts = self._layout.unflatten(theta).values()
        for own, part, order in zip(
            self._stored(self.values), parts, self._orders, strict=True
        ):
            # Transposed once, not once for each client.
            own.copy_(part.permute(order).contiguous())

    def stop(self, active: Tensor) -> None:
        """Let clients that are not active stand still for good, were they NaN.

        `active`, bool `[V]`, is on the host.
        """
        zero_rows(self._blocks(self.velocity), ~active)

    def step(self, recipe: LocalTraining) -> None:
        """Move every client by its velocity."""
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

    def deltas_of_one_step(self, recipe: LocalTraining, out: Tensor) -> None:
        """What one step would move, into `out` `[V, P]`; the weights stay."""
        if self.clients == 1:
            torch.mul(self.velocity, -recipe.learning_rate, out=out[0])
            return
        columns = self._layout.unflatten(out).values()
        for block, column in zip(self._blocks(self.velocity), columns, strict=True):
            torch.mul(block, -recipe.learning_rate, out=column)

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


def _owner(backbone: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer that a parameter belongs to, and its name there."""
    layer, _, own = name.rpartition(".")
    return backbone.get_submodule(layer), own


def _order(
    form: Form | None, layer: nn.Module, parameter: str, axes: int
) -> tuple[int, ...]:
    wanted = None if form is None else form.stored_order(layer, parameter)
    return wanted or tuple(range(axes))


def trained_by(value: Tensor, velocity: Tensor) -> Tensor:
    """Shares memory with `value`; autograd adds its gradients to `velocity`."""
    leaf = value.detach().requires_grad_()
    leaf.grad = velocity.detach()
    if value.dim() >= 4:
        # Convolutions give gradients in another memory order, in which adding is slow.
        leaf.register_hook(_in_plain_order)  # type: ignore[no-untyped-call]
    return leaf


def _in_plain_order(gradient: Tensor | None) -> Tensor | None:
    """None where a layer has added its gradient already."""
    return None if gradient is None else gradient.contiguous()


def _with_leaves(
    backbone: nn.Module,
    layout: FlatLayout,
    leaves: Mapping[str, Tensor],
    clients: int,
    form: Form | None,
) -> nn.Module:
    """A copy of `backbone` that uses `leaves`; what is not trained is shared."""
    every = [*backbone.parameters(), *backbone.buffers()]
    twin = copy.deepcopy(backbone, {id(tensor): tensor for tensor in every})
    named = dict(backbone.named_parameters())
    of = {id(named[name]): leaf for name, leaf in leaves.items()}
    if form is None:
        for layer in twin.modules():
            for name, value in layer._parameters.items():
                if id(value) in of:
                    layer._parameters[name] = of[id(value)]  # type: ignore[assignment]
        hasten(twin)
        return twin
    replaced = {}
    for layer in trained_layers(twin, layout):
        values = {
            name: of.get(id(value), _repeated(form, layer, name, value, clients))
            for name, value in layer.named_parameters(recurse=False)
        }
        replaced[layer] = form.layers[type(layer)](layer, values)
    for parent in list(twin.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    root: nn.Module = replaced.get(twin, twin)
    return root


def _repeated(
    form: Form, layer: nn.Module, name: str, value: Tensor, clients: int
) -> Tensor:
    """A parameter that is not trained, the same for every client."""
    order = _order(form, layer, name, value.dim())
    return value.permute(order).expand(clients, *(value.shape[a] for a in order))
