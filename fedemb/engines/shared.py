"""One backbone step per virtual client: all gradients are taken at the same weights.

One batched forward and one batched backward then serve every client, at the speed of
ordinary training; only the gradients with respect to the *weights* are formed client by
client, from each layer's input and output gradient (Goodfellow 2015, arXiv:1510.01799;
Rochette et al. 2019, arXiv:1912.06015). A backbone with trained parameters outside the
layers that have such a rule is vectorised over clients by `torch.func` instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fedemb.engines.heads import features_by_row, fit_heads, head_loss
from fedemb.engines.rows import as_one_batch, by_client, patches
from fedemb.engines.serial import local_parameters
from fedemb.local import LocalModel, LocalTraining, Work
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features, Parameters

Rule: TypeAlias = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Tensor]]
"""(layer, input `[V * B, ...]`, gradient of its output, V) -> gradients `[V, ...]`."""


@dataclass(frozen=True)
class _Call:
    """One use of a layer in the forward pass."""

    name: str
    layer: nn.Module
    inputs: Tensor
    output: Tensor
    version: int


def single_backbone_step(work: Work, recipe: LocalTraining) -> bool:
    """Whether every client of `work` moves its backbone exactly once, at most."""
    return sum(recipe.trains_backbone(step) for step in work.steps()) <= 1


def shared_deltas(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    work: Work,
    recipe: LocalTraining,
) -> Tensor:
    """Backbone deltas (final minus initial) `[V, P]` of the virtual clients of `work`.

    Raises:
        ValueError: if a client takes more than one backbone step.
    """
    if not single_backbone_step(work, recipe):
        raise ValueError(
            "the shared-weights engine needs one backbone step per virtual client; "
            "use the vectorized engine for several."
        )
    steps = [step for step in work.steps() if recipe.trains_backbone(step)]
    if not steps:
        return theta.new_zeros(len(work.rows), len(theta))
    batch, rows = work.at(steps[0]), work.rows[:, steps[0]].flatten()
    layout.load(model.backbone, theta)
    rules = _rules(model.backbone, layout)

    def heads_on(features: Features | None) -> Parameters:
        """Heads fitted to the features of the backbone step, if they cover theirs."""
        known = (
            None if features is None else features_by_row(work, features, rows, recipe)
        )
        return fit_heads(model, layout, theta, work, recipe, known)

    gradients = (
        None if rules is None else _hooked(model, layout, rules, heads_on, batch)
    )
    if gradients is None:
        gradients = _functional(model, layout, theta, heads_on(None), batch)
    gradients.mul_(-recipe.learning_rate)
    idle = ~work.active(steps[0])
    if bool(idle.any()):
        gradients[idle] = 0.0
    return gradients


def _functional(
    model: LocalModel,
    layout: FlatLayout,
    theta: Tensor,
    heads: Parameters,
    batch: Batch,
) -> Tensor:
    """Gradients `[V, P]` by vectorising over clients, weights not stacked."""

    def loss(theta: Tensor, head: Parameters, batch: Batch) -> Tensor:
        value: Tensor = functional_call(
            model, local_parameters(layout, theta, head), (batch,)
        )
        return value

    found: Tensor = vmap(grad(loss), in_dims=(None, 0, 0))(theta, heads, batch)
    return found


def _hooked(
    model: LocalModel,
    layout: FlatLayout,
    rules: dict[str, Rule],
    heads_on: Callable[[Features], Parameters],
    batch: Batch,
) -> Tensor | None:
    """Gradients `[V, P]` from the inputs and output gradients of the trained layers."""
    clients = len(batch["weight"])
    seen: list[_Call] = []
    hooks = [
        layer.register_forward_hook(_recorder(seen, name))
        for name, layer in model.backbone.named_modules()
        if name in rules
    ]
    flat = as_one_batch(batch)
    try:
        with torch.enable_grad():
            features = model.task.features(model.backbone, flat)
    finally:
        for hook in hooks:
            hook.remove()
    if {call.name for call in seen} != set(rules):
        return None  # some layer's weights are used without calling the layer
    heads = heads_on(features)
    with torch.enable_grad():
        losses = vmap(lambda h, f, b: head_loss(model, h, f, b))(
            heads, by_client(features, clients), batch
        )
    outputs = [call.output for call in seen]
    _refuse_overwritten(seen)
    upstream = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    total = losses.new_zeros(clients, layout.size)
    columns = layout.unflatten(total)
    with torch.no_grad():
        for call, output_gradient in zip(seen, upstream, strict=True):
            if output_gradient is None:
                continue
            rule = rules[call.name]
            found = rule(call.layer, call.inputs, output_gradient, clients)
            for parameter, gradient in found.items():
                full = f"{call.name}.{parameter}" if call.name else parameter
                if full in columns:
                    columns[full].add_(gradient)
    return total


def _recorder(
    seen: list[_Call], name: str
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:  # the first trained layer starts the graph
            output = output.detach().requires_grad_()
        seen.append(_Call(name, layer, inputs[0].detach(), output, output._version))
        return output

    return record


def _refuse_overwritten(seen: list[_Call]) -> None:
    for call in seen:
        if call.output._version != call.version:
            raise RuntimeError(
                f"the output of layer {call.name!r} was changed in place, which hides "
                "its gradient; use activations that are not in place."
            )


def _linear(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    inputs = inputs.reshape(clients, -1, inputs.shape[-1])
    upstream = upstream.reshape(clients, -1, upstream.shape[-1])
    return {
        "weight": torch.bmm(upstream.transpose(1, 2), inputs),
        "bias": upstream.sum(1),
    }


def _conv2d(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    out_channels, groups = layer.out_channels, layer.groups
    # Rows of patches and of gradients, one per output position; channels come last, so
    # that with channels-last activations both are read in long contiguous runs.
    read = patches(layer, inputs).reshape(
        clients, -1, layer.kernel_size[0] * layer.kernel_size[1], layer.in_channels
    )
    outputs = upstream.permute(0, 2, 3, 1).reshape(clients, -1, out_channels)
    if groups == 1:
        weight = torch.bmm(outputs.transpose(1, 2), read.flatten(2))
        weight = weight.view(clients, out_channels, read.shape[2], -1)
    else:
        weight = torch.einsum(
            "vlgo,vlkgi->vgoki",
            torch.unflatten(outputs, 2, (groups, -1)),
            torch.unflatten(read, 3, (groups, -1)),
        ).flatten(1, 2)
    weight = weight.transpose(2, 3).reshape(clients, *layer.weight.shape)
    return {"weight": weight, "bias": outputs.sum(1)}


def _group_norm(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    if not isinstance(layer, nn.GroupNorm):
        raise TypeError(type(layer).__name__)
    product = F.group_norm(inputs, layer.num_groups, eps=layer.eps) * upstream
    rest = tuple(range(2, upstream.dim()))
    weight, bias = product, upstream
    if rest:
        weight, bias = product.sum(rest), upstream.sum(rest)
    return {
        "weight": torch.unflatten(weight, 0, (clients, -1)).sum(1),
        "bias": torch.unflatten(bias, 0, (clients, -1)).sum(1),
    }


def _layer_norm(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    if not isinstance(layer, nn.LayerNorm):
        raise TypeError(type(layer).__name__)
    product = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps) * upstream
    shape = (clients, -1, *layer.normalized_shape)
    return {
        "weight": product.reshape(shape).sum(1),
        "bias": upstream.reshape(shape).sum(1),
    }


def _rules(backbone: nn.Module, layout: FlatLayout) -> dict[str, Rule] | None:
    """A rule for every layer that owns trained parameters, or None if one has none."""
    known: dict[type[nn.Module], Rule] = {
        nn.Linear: _linear,
        nn.Conv2d: _conv2d,
        nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
    }
    trained = set(layout.names)
    rules: dict[str, Rule] = {}
    for name, layer in backbone.named_modules():
        own = {
            f"{name}.{k}" if name else k
            for k, _ in layer.named_parameters(recurse=False)
        }
        if not own & trained:
            continue
        rule = known.get(type(layer))
        padded = isinstance(layer, nn.Conv2d) and (
            layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        )
        if rule is None or padded:
            return None
        rules[name] = rule
    return rules
