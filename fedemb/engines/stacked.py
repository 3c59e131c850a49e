"""Layers with weights of their own for each of V clients, as plain matrix products.

A stacked layer takes the rows of all clients as one batch `[V * B, ...]`, client after
client, and uses weights `[V, ...]`. Between such layers a backbone runs as it always
does, without vectorisation overhead. Convolutions become products of patches and
kernels: per-client kernels would otherwise need grouped convolutions, whose backward
pass is slow on some devices (`fedemb.engines.grouped` is the form with those).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fedemb.engines.forms import ClientLayer, Form
from fedemb.engines.layers import zero_padded
from fedemb.engines.rows import as_one_batch, by_client, channels_last, patches


def _stored_order(layer: nn.Module, parameter: str) -> tuple[int, ...] | None:
    """The order of axes in which a stacked layer wants a parameter; None: as it is.

    Kernels are stored output channel last, so that forward pass and weight gradient are
    products of matrices that need no transposition.
    """
    if parameter != "weight":
        return None
    if isinstance(layer, nn.Linear):
        return (1, 0)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return (2, 3, 1, 0)
    return None


class StackedLinear(ClientLayer):
    """`[V * B, ..., I]` -> `[V * B, ..., O]`, by kernels `[V, I, O]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's rows by client v's weights."""
        rows = inputs.reshape(len(self.weights), -1, inputs.shape[-1])
        outputs = products(rows, self.weights, self.offsets)
        return outputs.view(*inputs.shape[:-1], -1)


class StackedConv2d(ClientLayer):
    """`[V * B, C, H, W]` -> `[V * B, O, H', W']`, by kernels `[V, kh, kw, C, O]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Client v's images by client v's kernels."""
        if self.layer.groups > 1:
            return self._grouped(inputs)
        outputs: Tensor = _PatchProducts.apply(  # type: ignore[no-untyped-call]
            channels_last(inputs), self.weights, self.offsets, self.layer
        )
        return outputs

    def _grouped(self, inputs: Tensor) -> Tensor:
        """Channels of all clients side by side: a convolution with more groups."""
        clients = len(self.weights)
        side_by_side = torch.unflatten(inputs, 0, (clients, -1))
        outputs = self.convolved(side_by_side.transpose(0, 1).flatten(1, 2))
        outputs = torch.unflatten(outputs, 1, (clients, -1))
        outputs = outputs.transpose(0, 1).flatten(0, 1)
        return channels_last(outputs)


class StackedNorm(ClientLayer):
    """GroupNorm or LayerNorm with gains and offsets of each client."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The norm without weights, then client v's gains and offsets."""
        layer = self.layer
        if isinstance(layer, nn.GroupNorm):
            normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
            own = (-1, 1, inputs.shape[1], *[1] * (inputs.dim() - 2))
        else:
            normal = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
            rest = inputs.dim() - len(layer.normalized_shape)
            own = (-1, *[1] * rest, *layer.normalized_shape)
        return self.scaled(torch.unflatten(normal, 0, (len(self.weights), -1)), own)


def products(rows: Tensor, kernels: Tensor, offsets: Tensor | None) -> Tensor:
    """`[V, N, I]` by kernels `[V, I, O]`, plus `[V, O]`: `[V, N, O]`."""
    outputs: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
        rows, kernels, offsets
    )
    return outputs


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, kernels: Tensor, offsets: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(rows, kernels)
        ctx.leaf, ctx.biased = kernels, offsets is not None
        return _affine(rows, kernels, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, kernels = ctx.saved_tensors
        return (
            torch.bmm(upstream, kernels.mT) if ctx.needs_input_grad[0] else None,
            _added(ctx.leaf, rows, upstream),
            upstream.sum(1) if ctx.biased else None,
        )


def _affine(rows: Tensor, kernels: Tensor, offsets: Tensor | None) -> Tensor:
    outputs = torch.bmm(rows, kernels)
    return outputs if offsets is None else outputs.add_(offsets[:, None])


def _added(kernels: Tensor, rows: Tensor, upstream: Tensor) -> Tensor | None:
    """The gradient of kernels, or None if it could be added to theirs right away.

    The buffer that gathers a trained layer's gradients is there before the first step
    (`Stack`); to add into it saves writing the product and reading it again.
    """
    if not kernels.requires_grad:
        return None
    total = kernels.grad if kernels.is_leaf else None
    if total is None:
        return torch.bmm(rows.mT, upstream).view(kernels.shape)
    total.view(len(total), -1, total.shape[-1]).baddbmm_(rows.mT, upstream)
    return None


class _PatchProducts(torch.autograd.Function):
    """Convolution by gathering patches, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        kernels: Tensor,
        offsets: Tensor | None,
        layer: nn.Conv2d,
    ) -> Tensor:
        clients, channels_out = len(kernels), kernels.shape[-1]
        read = patches(layer, inputs)  # [N, H', W', kh, kw, C]
        height, width = read.shape[1:3]
        rows = read.reshape(clients, -1, read.shape[3:].numel())
        flat = kernels.flatten(1, 3)
        ctx.save_for_backward(rows, flat)
        ctx.layer, ctx.inputs, ctx.leaf = layer, inputs.shape, kernels
        ctx.biased = offsets is not None
        outputs = _affine(rows, flat, offsets)
        return outputs.view(-1, height, width, channels_out).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, flat = ctx.saved_tensors
        clients, channels_out = len(flat), flat.shape[-1]
        wanted = upstream.permute(0, 2, 3, 1).reshape(clients, -1, channels_out)
        kernels = _added(ctx.leaf, rows, wanted)
        offsets = wanted.sum(1) if ctx.biased else None
        inputs = None
        if ctx.needs_input_grad[0]:
            spread = torch.bmm(wanted, flat.mT)
            spread = spread.view(
                len(upstream), *upstream.shape[2:], *ctx.leaf.shape[1:-1]
            )
            inputs = _gather_patches(spread, ctx.layer, ctx.inputs)
        return inputs, kernels, offsets, None


def _gather_patches(spread: Tensor, layer: nn.Conv2d, shape: torch.Size) -> Tensor:
    """Add patches `[N, H', W', kh, kw, C]` where they were read, `[N, C, H, W]`."""
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    ph, pw = (int(p) for p in layer.padding)
    n, channels, height, width = shape
    padded = spread.new_zeros(n, height + 2 * ph, width + 2 * pw, channels)
    a, b, c, d = padded.stride()
    # Few calls: threads hand over the interpreter's lock at each.
    for tap, read in enumerate(spread.flatten(3, 4).unbind(3)):
        i, j = divmod(tap, spread.shape[4])
        places = (a, sh * b, sw * c, d)
        padded.as_strided(read.shape, places, i * dh * b + j * dw * c).add_(read)
    inside = padded[:, ph : ph + height, pw : pw + width]
    return inside.permute(0, 3, 1, 2)


STACKED = Form(
    layers={
        nn.Linear: StackedLinear,
        nn.Conv2d: StackedConv2d,
        nn.GroupNorm: StackedNorm,
        nn.LayerNorm: StackedNorm,
    },
    serves=lambda layer: not isinstance(layer, nn.Conv2d) or zero_padded(layer),
    stored_order=_stored_order,
    as_one_batch=as_one_batch,
    by_client=by_client,
)
