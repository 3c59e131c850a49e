"""Low-rank adapters beside the perceptrons of a frozen encoder.

Yuan et al. (2024), arXiv:2307.03166, figure 5; Yang et al. (2023), AIM,
arXiv:2302.03024. The placement, parallel to the perceptron, is our reading of a figure.
"""

import copy

import torch
from torch import Tensor, nn

from model_zoo.video.encoder import VideoEncoder


class Adapter(nn.Module):
    """Down, ReLU, up, times a learned scale; zero at first."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to `[..., width]`."""
        out: Tensor = self.up(torch.relu(self.down(x))) * self.scale
        return out


class Beside(nn.Module):
    """A module with an adapter beside it: both see the input, the outputs add up."""

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, x: Tensor) -> Tensor:
        """The sum; channels come second in the maps of convolutions, `[B, D, ...]`."""
        out: Tensor = self.base(x)
        if x.dim() == 5:
            more: Tensor = self.adapter(x.movedim(1, -1)).movedim(-1, 1)
        else:
            more = self.adapter(x)
        return out + more


def with_adapters(encoder: VideoEncoder, bottleneck: int) -> nn.Module:
    """A copy of `encoder` with adapters at its sites, which computes the same at first.

    Its parameters named `*.adapter.*` are the adapters'; train and aggregate those.

    Example:
        >>> from model_zoo.videoglue.vit3d import ViT3D, ViTShape
        >>> adapted = with_adapters(ViT3D(ViTShape()), 8)
        >>> sum(p.numel() for n, p in adapted.named_parameters() if ".adapter." in n)
        4388
    """
    copied: nn.Module = copy.deepcopy(encoder)  # type: ignore[assignment]
    for name, width in encoder.adapter_sites().items():
        beside = Beside(copied.get_submodule(name), Adapter(width, bottleneck))
        copied.set_submodule(name, beside)
    return copied
