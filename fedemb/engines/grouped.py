"""Layers with weights of their own for each of V clients, as layers with more groups.

Rows of the clients are interleaved, first rows of all, second rows of all, and images
are in plain memory order. Then rows `[B * V, C, ...]` are, without moving a number, the
B rows of one network whose channels are those of all clients side by side, `[B, V * C,
...]`, and a convolution or group norm of each client is one of V times as many groups.
Patches, which the stacked form writes out, cost memory traffic as large as the kernel's
area times the image; grouped convolutions read the image itself.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.engines.forms import CONVOLVE, ClientLayer, Form
from fedemb.engines.rows import as_interleaved_batch, interleaved_by_client
from fedemb.engines.stacked import products


class GroupedLinear(ClientLayer):
    """`[B * V, ..., I]` -> `[B * V, ..., O]`, by kernels `[V, I, O]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's rows by client v's weights."""
        clients = len(self.weights)
        rows = _apart(inputs, clients).transpose(0, 1)  # [V, B, ..., I]
        outputs = products(
            rows.reshape(clients, -1, inputs.shape[-1]), self.weights, self.offsets
        )
        outputs = outputs.view(*rows.shape[:-1], -1)
        return outputs.transpose(0, 1).flatten(0, 1)


class GroupedConv(ClientLayer):
    """`[B * V, C, ...]` -> `[B * V, O, ...]`, by kernels `[V, O, C / groups, ...]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's images by client v's kernels."""
        clients = len(self.weights)
        outputs = self.convolved(_side_by_side(inputs, clients))
        return _one_after_another(outputs, clients)


class GroupedNorm(ClientLayer):
    """GroupNorm with gains and offsets `[V, C]` of each client."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's images with client v's gains and offsets."""
        layer, clients = self.layer, len(self.weights)
        outputs = F.group_norm(
            _side_by_side(inputs, clients),
            clients * layer.num_groups,
            self.weights.flatten(),
            None if self.offsets is None else self.offsets.flatten(),
            layer.eps,
        )
        return _one_after_another(outputs, clients)


class GroupedLayerNorm(ClientLayer):
    """LayerNorm with gains and offsets of each client."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The norm without weights, then client v's gains and offsets."""
        shape = self.layer.normalized_shape
        normal = F.layer_norm(inputs, shape, eps=self.layer.eps)
        rest = inputs.dim() - 1 - len(shape)
        own = (-1, *[1] * rest, *shape)
        return self.scaled(_apart(normal, len(self.weights)), own)


def _apart(rows: Tensor, clients: int) -> Tensor:
    """`[B * V, ...]` as `[B, V, ...]`."""
    return torch.unflatten(rows, 0, (-1, clients))


def _side_by_side(images: Tensor, clients: int) -> Tensor:
    """`[B * V, C, ...]` as `[B, V * C, ...]`: a view of images in plain order."""
    return _apart(images.contiguous(), clients).flatten(1, 2)


def _one_after_another(images: Tensor, clients: int) -> Tensor:
    """`[B, V * C, ...]` as `[B * V, C, ...]`."""
    return torch.unflatten(images.contiguous(), 1, (clients, -1)).flatten(0, 1)


def _serves(layer: nn.Module) -> bool:
    padding = getattr(layer, "padding_mode", "zeros")
    affine = not isinstance(layer, nn.GroupNorm) or layer.affine
    return padding == "zeros" and affine


def _stored_order(layer: nn.Module, parameter: str) -> tuple[int, ...] | None:
    return (1, 0) if isinstance(layer, nn.Linear) and parameter == "weight" else None


GROUPED = Form(
    layers={
        nn.Linear: GroupedLinear,
        nn.GroupNorm: GroupedNorm,
        nn.LayerNorm: GroupedLayerNorm,
        **dict.fromkeys(CONVOLVE, GroupedConv),
    },
    serves=_serves,
    stored_order=_stored_order,
    as_one_batch=as_interleaved_batch,
    by_client=interleaved_by_client,
)
