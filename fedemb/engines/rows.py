"""Rows of several clients as one batch, and back: `[V, B, ...]` <-> `[V * B, ...]`.

Backbones treat rows independently (a formal requirement of `EmbeddingTask`), so the
rows of several virtual clients can pass through one as a single batch, in any order.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.engines.layers import sides_of_outputs
from fedemb.protocols import Batch, Features


def as_one_batch(batch: Batch) -> Batch:
    """`[V, B, ...]` as `[V * B, ...]`, client after client."""
    clients, width = batch["weight"].shape
    flat = {
        name: channels_last(values.flatten(0, 1)) if values.dim() > 1 else values
        for name, values in batch.items()
    }
    flat["classes"] = batch["classes"].repeat_interleave(width)
    return flat


def as_interleaved_batch(batch: Batch) -> Batch:
    """`[V, B, ...]` as `[B * V, ...]`: the first rows of all clients, the second ..."""
    clients, width = batch["weight"].shape
    flat = {
        name: values.transpose(0, 1).flatten(0, 1) if values.dim() > 1 else values
        for name, values in batch.items()
    }
    flat["classes"] = batch["classes"].repeat(width)
    return flat


def interleaved_by_client(features: Features, clients: int) -> Features:
    """`[B * V, ...]` as `[V, B, ...]`, in plain memory order."""
    return of_each(
        features,
        lambda rows: (
            torch.unflatten(rows, 0, (-1, clients)).transpose(0, 1).contiguous()
        ),
    )


def of_each(features: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """`function` of the features, or of each of them where they have names."""
    if isinstance(features, Tensor):
        return function(features)
    return {name: function(values) for name, values in features.items()}


def by_client(features: Features, clients: int) -> Features:
    """`[V * B, ...]` as `[V, B, ...]`, in plain memory order."""
    return of_each(
        in_plain_order(features), lambda rows: torch.unflatten(rows, 0, (clients, -1))
    )


def in_plain_order(features: Features) -> Features:
    """Contiguous features; norms under `vmap` refuse any other order."""
    return of_each(features, Tensor.contiguous)


def channels_last(values: Tensor) -> Tensor:
    """Images in the memory order that convolutions and weight gradients prefer."""
    if values.dim() == 4 and values.is_floating_point():
        return values.contiguous(memory_format=torch.channels_last)
    return values


def patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """What each output position reads, `[N, H', W', kh, kw, C]`, as a view."""
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    ph, pw = (int(p) for p in layer.padding)
    x = inputs.permute(0, 2, 3, 1)
    x = F.pad(x, (0, 0, pw, pw, ph, ph)) if ph or pw else x.contiguous()
    n, channels = len(x), x.shape[-1]
    rows, columns = sides_of_outputs(layer, inputs.shape[2:])
    a, b, c, d = x.stride()
    return x.as_strided(
        (n, rows, columns, kh, kw, channels), (a, sh * b, sw * c, dh * b, dw * c, d)
    )
