"""Gradients of look-up tables, client by client, from who was looked up."""

import torch
from torch import Tensor, nn


def plain_table(layer: nn.Embedding) -> bool:
    """Whether a lookup's gradient is its upstream gradient, row by row.

    Tables that pad, renormalise or scale by frequency have gradients of their own.
    """
    return (
        layer.padding_idx is None
        and layer.max_norm is None
        and not layer.scale_grad_by_freq
    )


def embedding(
    layer: nn.Module, inputs: Tensor, upstream: Tensor, clients: int
) -> dict[str, Tensor]:
    """Gradient `[V, rows, D]` of the table: upstream rows added where they came from.

    Args:
        layer: a plain `nn.Embedding`.
        inputs: ids, int64 `[V * B, ...]`.
        upstream: gradient of what was looked up, `[V * B, ..., D]`.
        clients: V.

    Example:
        >>> ids, ones = torch.tensor([[0, 0], [2, 1]]), torch.ones(2, 2, 1)
        >>> embedding(nn.Embedding(3, 1), ids, ones, 2)["weight"][..., 0].tolist()
        [[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    if not isinstance(layer, nn.Embedding):
        raise TypeError(type(layer).__name__)
    rows, width = layer.num_embeddings, layer.embedding_dim
    first = rows * torch.arange(clients, device=inputs.device)
    places = (inputs.reshape(clients, -1) + first[:, None]).flatten()
    found = upstream.new_zeros(clients * rows, width)
    found.index_add_(0, places, upstream.reshape(-1, width))
    return {"weight": found.view(clients, rows, width)}
