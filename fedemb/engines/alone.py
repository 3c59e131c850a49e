"""Layers with the weights of one client, computed in the fastest way at hand."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fedemb.convolutions import conv2d
from fedemb.engines.layers import sides_of_outputs, zero_padded
from fedemb.norms import group_norm
from fedemb.products import mm

# Weights of a kernel, and positions of all images together: measured on two cores with
# AVX-512, forward and backward, between 1 x 1 and 8 x 8 positions an image. And rows of
# which a product is added at once: 0.5 of the time with 8 of them, 0.9 with 128.
_LARGE, _HUGE = 1 << 18, 1 << 20
_FEW, _MANY = 64, 256
_ROWS = 128


class AloneLinear(nn.Linear):
    """`[..., I]` -> `[..., O]`, by a weight `[O, I]`: what `nn.Linear` computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The rows by the weight, plus the bias."""
        if _elsewhere(inputs):
            return super().forward(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = _by(rows, self.weight, self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)


class AloneGroupNorm(nn.GroupNorm):
    """`[N, C, ...]` -> `[N, C, ...]`: what `nn.GroupNorm` computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The images with mean 0 and variance 1 in every group, scaled and shifted."""
        return group_norm(inputs, self.num_groups, self.weight, self.bias, self.eps)


class AloneConv2d(nn.Conv2d):
    """`[N, C, H, W]` -> `[N, O, H', W']`: what `nn.Conv2d` computes.

    oneDNN brings kernels into an order of its own, and gradients back. Where kernels
    are large and images small that takes longer than the rest: 17 ms for 16 images of
    2 x 2 from 2048 channels to 512, forward and backward, where a product of positions
    and kernels as they lie takes 5 ms.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """The images by the kernels."""
        if not zero_padded(self) or inputs.dim() != 4:
            return super().forward(inputs)
        sides = sides_of_outputs(self, inputs.shape[2:])
        if _elsewhere(inputs) or not self._pays(len(inputs) * math.prod(sides)):
            return conv2d(
                inputs,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
            )
        read = self._read(inputs).flatten(0, 1)
        outputs = _by(read, self.weight, self.bias)
        outputs = outputs.view(len(inputs), *sides, self.out_channels)
        return outputs.permute(0, 3, 1, 2)

    def _pays(self, positions: int) -> bool:
        """Whether products of so many positions and the kernels are faster."""
        size = self.weight.numel()
        return (
            self.groups == 1
            and size >= _LARGE
            and positions <= (_MANY if self._single or size >= _HUGE else _FEW)
        )

    @property
    def _single(self) -> bool:
        return self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0)

    def _read(self, inputs: Tensor) -> Tensor:
        """What every position reads, `[N, H' * W', C * kh * kw]`."""
        if self._single:
            return inputs.permute(0, 2, 3, 1).flatten(1, 2)
        pads = tuple(int(pad) for pad in self.padding)
        read = F.unfold(inputs, self.kernel_size, self.dilation, pads, self.stride)
        return read.transpose(1, 2)


_HASTENED: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {
        nn.Linear: AloneLinear,
        nn.GroupNorm: AloneGroupNorm,
        nn.Conv2d: AloneConv2d,
    }
)


def _elsewhere(inputs: Tensor) -> bool:
    """On cards, and with less precision, torch's own layers are the ones to call."""
    return inputs.device.type != "cpu" or torch.is_autocast_enabled("cpu")


def hasten(backbone: nn.Module) -> None:
    """Let layers of an engine's own copy compute that way.

    Subclasses of these layers stay: they may compute something else.
    """
    for layer in backbone.modules():
        if type(layer) in _HASTENED and layer.weight is not None:
            layer.__class__ = _HASTENED[type(layer)]


@contextmanager
def hastened(backbone: nn.Module) -> Iterator[None]:
    """Layers compute that way in the block; `torch.func` could not look into them."""
    kinds = [(layer, type(layer)) for layer in backbone.modules()]
    hasten(backbone)
    try:
        yield
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind


def _by(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs: Tensor = _Rows.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return outputs


class _Rows(torch.autograd.Function):
    """Rows `[N, I]` by a weight `[O, ...]` of I numbers each, plus a bias `[O]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = weight.flatten(1)
        ctx.save_for_backward(rows, flat)
        ctx.leaf = weight
        outputs = mm(rows, flat.mT)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, flat = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            mm(upstream, flat) if wants_rows else None,
            _added(ctx.leaf, upstream, rows) if wants_weight else None,
            upstream.sum(0) if wants_bias else None,
        )


def _added(weight: Tensor, upstream: Tensor, rows: Tensor) -> Tensor | None:
    """The gradient of a weight, or None if it could be added to the others right away.

    A trained weight has a buffer that gathers its gradients (`Stack`). A product of few
    rows takes less time than writing it, reading it again and adding it.
    """
    total = weight.grad if weight.is_leaf else None
    if total is None or len(rows) > _ROWS:
        return mm(upstream.mT, rows).view(weight.shape)
    total.view(len(total), -1).addmm_(upstream.mT, rows)
    return None
