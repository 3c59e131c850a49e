"""Layers with weights of their own for each of V clients, as layers with more groups.

Rows of the clients are interleaved, first rows of all, second rows of all, and images
are in plain memory order. Then rows `[B * V, C, ...]` are, without moving a number, the
B rows of one network whose channels are those of all clients side by side, `[B, V * C,
...]`, and a convolution or group norm of each client is one of V times as many groups.
Patches, which the stacked form writes out, cost memory traffic as large as the kernel's
area times the image; grouped convolutions read the image itself.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.engines.forms import Form
from fedemb.engines.rows import as_interleaved_batch, interleaved_by_client
from fedemb.engines.stacked import products

_CONVOLVE: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


class GroupedLinear(nn.Module):
    """`[B * V, ..., I]` -> `[B * V, ..., O]`, by kernels `[V, I, O]`."""

    def __init__(self, layer: nn.Linear, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        del layer
        self.kernels, self.offsets = values["weight"], values.get("bias")

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's rows by client v's weights."""
        clients = len(self.kernels)
        rows = _apart(inputs, clients).transpose(0, 1)  # [V, B, ..., I]
        outputs = products(
            rows.reshape(clients, -1, inputs.shape[-1]), self.kernels, self.offsets
        )
        outputs = outputs.view(*rows.shape[:-1], -1)
        return outputs.transpose(0, 1).flatten(0, 1)


class GroupedConv(nn.Module):
    """`[B * V, C, ...]` -> `[B * V, O, ...]`, by kernels `[V, O, C / groups, ...]`."""

    def __init__(self, layer: nn.Conv2d, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layer = [layer]  # in a list: its weights are not those of this module
        self.kernels, self.offsets = values["weight"], values.get("bias")

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's images by client v's kernels."""
        layer, clients = self.layer[0], len(self.kernels)
        outputs = _CONVOLVE[type(layer)](
            _side_by_side(inputs, clients),
            self.kernels.flatten(0, 1),
            None if self.offsets is None else self.offsets.flatten(),
            layer.stride,
            layer.padding,
            layer.dilation,
            clients * layer.groups,
        )
        return _one_after_another(outputs, clients)


class GroupedNorm(nn.Module):
    """GroupNorm with gains and offsets `[V, C]` of each client."""

    def __init__(self, layer: nn.GroupNorm, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.groups, self.epsilon = layer.num_groups, layer.eps
        self.gains, self.offsets = values["weight"], values["bias"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's images with client v's gains and offsets."""
        clients = len(self.gains)
        outputs = F.group_norm(
            _side_by_side(inputs, clients),
            clients * self.groups,
            self.gains.flatten(),
            self.offsets.flatten(),
            self.epsilon,
        )
        return _one_after_another(outputs, clients)


class GroupedLayerNorm(nn.Module):
    """LayerNorm with gains and offsets of each client."""

    def __init__(self, layer: nn.LayerNorm, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.shape, self.epsilon = layer.normalized_shape, layer.eps
        self.gains, self.offsets = values["weight"], values.get("bias")

    def forward(self, inputs: Tensor) -> Tensor:
        """The norm without weights, then client v's gains and offsets."""
        normal = F.layer_norm(inputs, self.shape, eps=self.epsilon)
        normal = _apart(normal, len(self.gains))
        rest = normal.dim() - 2 - len(self.shape)
        own = (-1, *[1] * rest, *self.shape)
        scaled = normal * self.gains.view(own)
        if self.offsets is not None:
            scaled = scaled + self.offsets.view(own)
        return scaled.flatten(0, 1)


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
        **dict.fromkeys(_CONVOLVE, GroupedConv),
    },
    serves=_serves,
    stored_order=_stored_order,
    as_one_batch=as_interleaved_batch,
    by_client=interleaved_by_client,
)
