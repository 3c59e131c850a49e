"""Normalisation that treats every example alone, and the layers built with it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int, groups: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm (Wu and He 2018, arXiv:1803.08494) of `channels` in `groups`.

    Raises:
        ValueError: if the groups do not divide the channels.
    """
    if channels % groups:
        raise ValueError(f"groups={groups} must divide channels={channels}.")
    return nn.GroupNorm(groups, channels, eps=eps)


class FrozenNorm(nn.Module):
    """Batch normalisation with statistics that never change: an affine map per channel.

    Weight and bias can be trained; mean and variance are constants from public
    pre-training, so that rows stay apart and nothing of a user ends up in a buffer.

    Args:
        channels: C.
        eps: added to the variance.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, H, W]`."""
        scale = self.weight * (self.var + self.eps).rsqrt()
        shift = self.bias - self.mean * scale
        return images * scale[:, None, None] + shift[:, None, None]


class ConvNorm(nn.Module):
    """A bias-free convolution, GroupNorm and, unless `linear`, ReLU6 or ReLU.

    Args:
        conv: the convolution.
        groups: of the normalisation.
        eps: of the normalisation.
        activation: `relu`, `relu6` or `linear`.
    """

    def __init__(
        self, conv: nn.Conv2d, groups: int, eps: float, activation: str
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = group_norm(conv.out_channels, groups, eps)
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        x: Tensor = self.norm(self.conv(images))
        if self.activation == "relu6":
            return F.relu6(x)
        return F.relu(x) if self.activation == "relu" else x


def glorot_(module: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases in all layers: the published default.

    Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward
    neural networks.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
