"""What an adaptation costs, counted on the real modules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.video.encoder import VideoEncoder


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one adaptation.

    Attributes:
        parameters: trained ones.
        aggregated: those of them that the encoder holds; under DP-FedEmb these are
            clipped, noised and added, the head's are not.
        trainable_flops: floating-point operations of trained parts, for one clip.
        inference_flops: of everything, for one clip.
    """

    parameters: int
    aggregated: int
    trainable_flops: int
    inference_flops: int


def flops(call: Callable[..., Any], *inputs: Any) -> int:
    """Floating-point operations of a call, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    # With gradients on: the counter follows modules by their gradient functions.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        call(*inputs)
    return int(counter.get_total_flops())


def costs_of(
    plain: VideoEncoder,
    adapted: VideoEncoder,
    head: nn.Module,
    clip: Tensor,
    layers: int,
    answer: Callable[[Sequence[Tensor]], Any],
    encoder_parameters: Sequence[Tensor],
) -> Costs:
    """Costs of an adapted encoder with its head.

    Args:
        plain: the encoder as it was.
        adapted: the same, or with adapters.
        head: trained in every adaptation.
        clip: one clip, `[1, 3, T, H, W]`.
        layers: blocks that the head reads.
        answer: the head on the encoder's grids.
        encoder_parameters: what is trained of `adapted`.
    """
    grids = adapted.grids(clip, layers)
    inside = flops(adapted.grids, clip, layers)
    outside = flops(answer, grids)
    own = sum(p.numel() for p in encoder_parameters)
    whole = sum(p.numel() for p in _module(adapted).parameters())
    if not own:
        tuned = 0
    elif own == whole:
        tuned = inside
    else:
        tuned = inside - flops(plain.grids, clip, layers)
    return Costs(
        parameters=own + sum(p.numel() for p in head.parameters()),
        aggregated=own,
        trainable_flops=tuned + outside,
        inference_flops=inside + outside,
    )


def _module(encoder: VideoEncoder) -> nn.Module:
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"{type(encoder).__name__} is no torch module.")
    return encoder
