"""One backbone step per virtual client: all gradients are taken at the same weights.

One batched forward and one batched backward then serve every client, at the speed of
ordinary training; only the gradients with respect to the *weights* are formed client by
client, from each layer's input and output gradient (`weight_gradients`). A backbone
with trained parameters outside the layers that have such a rule is vectorised over
clients by `torch.func` instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedemb.devices import zero_rows
from fedemb.engines.alone import hastened
from fedemb.engines.heads import features_by_row, fit_heads, losses_of
from fedemb.engines.layers import share_no_weights, trained_layers
from fedemb.engines.rows import as_one_batch, by_client
from fedemb.engines.serial import local_parameters
from fedemb.engines.weight_gradients import Rule, rule_of
from fedemb.local import LocalModel, LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features, Parameters
from fedemb.work import Work


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
    return len(work.moves(recipe)) <= 1


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
    steps = work.moves(recipe)
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

    rate = recipe.learning_rate
    deltas = (
        None if rules is None else _hooked(model, layout, rules, heads_on, batch, rate)
    )
    if deltas is None:
        deltas = _functional(model, layout, theta, heads_on(None), batch)
        deltas.mul_(-rate)
    zero_rows([deltas], ~work.active(steps[0]))
    return deltas


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
    rate: float,
) -> Tensor | None:
    """Deltas `[V, P]` from the inputs and output gradients of the trained layers."""
    clients = len(batch["weight"])
    seen: list[_Call] = []
    hooks = [
        layer.register_forward_hook(_recorder(seen, name))
        for name, layer in model.backbone.named_modules()
        if name in rules
    ]
    flat = as_one_batch(batch)
    try:
        with torch.enable_grad(), hastened(model.backbone):
            features = model.features(model.backbone, flat)
    finally:
        for hook in hooks:
            hook.remove()
    if {call.name for call in seen} != set(rules):
        return None  # some layer's weights are used without calling the layer
    heads = heads_on(features)
    with torch.enable_grad():
        losses = losses_of(model)(heads, by_client(features, clients), batch)
    outputs = [call.output for call in seen]
    _refuse_overwritten(seen)
    # Scaled here, where it costs one number, not in the [V, P] gradients.
    loss = losses.sum() * -rate
    upstream = torch.autograd.grad(loss, outputs, allow_unused=True)
    deltas = losses.new_empty(clients, layout.size)
    columns = layout.unflatten(deltas)
    written: set[str] = set()
    with torch.no_grad():
        for call, output_gradient in zip(seen, upstream, strict=True):
            if output_gradient is None:
                continue
            rule = rules[call.name]
            read = call.inputs
            if read.is_floating_point():  # with less precision: as the layer read it
                read = read.to(output_gradient.dtype)
            found = rule(call.layer, read, output_gradient, clients)
            for parameter, delta in found.items():
                full = f"{call.name}.{parameter}" if call.name else parameter
                if full in written:
                    columns[full].add_(delta)
                elif full in columns:
                    columns[full].copy_(delta)
                    written.add(full)
        for name in columns.keys() - written:  # no loss depends on it
            columns[name].zero_()
    return deltas


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


def _rules(backbone: nn.Module, layout: FlatLayout) -> dict[str, Rule] | None:
    """A rule for every layer that owns trained parameters, or None if one has none.

    Nor have layers that share weights: one name would stand for both their gradients.
    """
    layers = trained_layers(backbone, layout)
    names = {layer: name for name, layer in backbone.named_modules()}
    found = {names[layer]: rule_of(layer) for layer in layers}
    rules = {name: rule for name, rule in found.items() if rule is not None}
    return rules if len(rules) == len(found) and share_no_weights(layers) else None
