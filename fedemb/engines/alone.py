"""Layers with the weights of one client, computed in the fastest way at hand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedemb.norms import group_norm
from fedemb.products import mm


class AloneLinear(nn.Linear):
    """`[..., I]` -> `[..., O]`, by a weight `[O, I]`: what `nn.Linear` computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The rows by the weight, plus the bias."""
        # Elsewhere, and with less precision, torch's own layer is the one to call.
        if inputs.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs: Tensor = _Rows.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, self.bias
        )
        return outputs.view(*inputs.shape[:-1], -1)


class AloneGroupNorm(nn.GroupNorm):
    """`[N, C, ...]` -> `[N, C, ...]`: what `nn.GroupNorm` computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The images with mean 0 and variance 1 in every group, scaled and shifted."""
        return group_norm(inputs, self.num_groups, self.weight, self.bias, self.eps)


_HASTENED: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {nn.Linear: AloneLinear, nn.GroupNorm: AloneGroupNorm}
)


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


class _Rows(torch.autograd.Function):
    """Rows `[N, I]` by a weight `[O, I]`, plus a bias `[O]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        outputs = mm(rows, weight.mT)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            mm(upstream, weight) if wants_rows else None,
            mm(upstream.mT, rows) if wants_weight else None,
            upstream.sum(0) if wants_bias else None,
        )
