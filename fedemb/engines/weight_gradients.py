"""Gradients of one layer's weights, client by client, from its input and output.

The layer was called once for the rows of V clients, `[V * B, ...]`, client after
client. What it read and the gradient of what it gave are enough to form the gradient of
its weights for every client (Goodfellow 2015, arXiv:1510.01799; Rochette et al. 2019,
arXiv:1912.06015).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as layer_gradients

from fedemb.engines.layers import zero_padded
from fedemb.engines.rows import patches
from fedemb.engines.tables import embedding, plain_table
from fedemb.norms import group_norm

Rule: TypeAlias = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Tensor]]
"""(layer, input `[V * B, ...]`, gradient of its output, V) -> gradients `[V, ...]`.

The gradients may be views in any memory order: they are copied once, by the caller.
"""

_FEW = 100_000  # numbers of a client's patches; more are not worth writing out


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer, or None if it has none."""
    if isinstance(layer, nn.Conv2d) and not zero_padded(layer):
        return None
    if isinstance(layer, nn.Embedding) and not plain_table(layer):
        return None
    return _RULES.get(type(layer))


def _linear(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    inputs = inputs.reshape(clients, -1, inputs.shape[-1])
    upstream = upstream.reshape(clients, -1, upstream.shape[-1])
    return {"weight": _products(upstream, inputs), **_bias(layer, upstream)}


def _bias(layer: nn.Module, outputs: Tensor) -> dict[str, Tensor]:
    """The gradient of a bias, if there is one, from those of outputs `[V, N, O]`."""
    return {} if layer.bias is None else {"bias": outputs.sum(1)}


def _products(outputs: Tensor, inputs: Tensor) -> Tensor:
    """`[V, N, O]` and `[V, N, I]` to `[V, O, I]`; several times faster narrow first."""
    if inputs.shape[2] < outputs.shape[2]:
        return torch.bmm(inputs.mT, outputs).mT
    return torch.bmm(outputs.mT, inputs)


def _conv2d(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    """By a product of patches where they are few, else by one convolution per client.

    Writing out what every output position reads multiplies the input by the size of the
    kernel. It pays for small images, where a call per client costs more.
    """
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    outputs = upstream.permute(0, 2, 3, 1).reshape(clients, -1, layer.out_channels)
    copied = outputs.shape[1] * kernel * layer.in_channels if kernel > 1 else 0
    if layer.groups == 1 and copied <= _FEW:
        weight = _from_patches(layer, inputs, outputs)
    else:
        weight = torch.stack(
            [
                layer_gradients.conv2d_weight(  # type: ignore[no-untyped-call]
                    read,
                    layer.weight.shape,
                    given,
                    layer.stride,
                    layer.padding,
                    layer.dilation,
                    layer.groups,
                )
                for read, given in zip(
                    inputs.chunk(clients), upstream.chunk(clients), strict=True
                )
            ]
        )
    return {"weight": weight, **_bias(layer, outputs)}


def _from_patches(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Gradients `[V, C', C, kh, kw]` of an ungrouped convolution."""
    clients = len(outputs)
    kernel, channels = layer.kernel_size, layer.in_channels
    # Channels come last, so that with channels-last activations both factors are read
    # in long contiguous runs.
    read = patches(layer, inputs).reshape(clients, outputs.shape[1], -1)
    product = torch.unflatten(_products(outputs, read), 2, (*kernel, channels))
    return product.permute(0, 1, 4, 2, 3)


def _group_norm(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    if not isinstance(layer, nn.GroupNorm):
        raise TypeError(type(layer).__name__)
    ones, zeros = torch.ones_like(layer.weight), torch.zeros_like(layer.weight)
    product = group_norm(inputs, layer.num_groups, ones, zeros, layer.eps) * upstream
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


_RULES: Mapping[type[nn.Module], Rule] = MappingProxyType(
    {
        nn.Linear: _linear,
        nn.Conv2d: _conv2d,
        nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
        nn.Embedding: embedding,
    }
)
