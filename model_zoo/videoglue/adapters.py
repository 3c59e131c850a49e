"""Low-rank adapters beside the perceptrons of a frozen encoder.

Yuan et al. (2024), arXiv:2307.03166, figure 5; Yang et al. (2023), AIM,
arXiv:2302.03024. The placement, parallel to the perceptron, is our reading of a figure.
"""

import copy
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class _Beside:
    """Adds what the adapter makes of a module's input to its output.

    An object, not a closure: a copy of the encoder then has hooks to its own adapters.
    """

    adapter: Adapter

    def __call__(
        self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        del module
        (x,) = inputs
        if x.dim() == 5:  # the maps of a convolution, [B, D, T, H, W]
            more: Tensor = self.adapter(x.movedim(1, -1)).movedim(-1, 1)
        else:
            more = self.adapter(x)
        return output + more


def with_adapters(encoder: VideoEncoder, bottleneck: int) -> nn.Module:
    """A copy of `encoder` with adapters at its sites, which computes the same at first.

    The encoder's own parameters keep their names; the adapters' are `adapters.*`. Train
    and aggregate those alone.

    Example:
        >>> from model_zoo.videoglue.vit3d import ViT3D, ViTShape
        >>> adapted = with_adapters(ViT3D(ViTShape()), 8)
        >>> sum(p.numel() for n, p in adapted.named_parameters() if "adapters." in n)
        4388
    """
    copied: nn.Module = copy.deepcopy(encoder)  # type: ignore[assignment]
    adapters = nn.ModuleDict()
    for name, width in encoder.adapter_sites().items():
        adapter = Adapter(width, bottleneck)
        adapters[name.replace(".", "_")] = adapter
        copied.get_submodule(name).register_forward_hook(_Beside(adapter))
    copied.add_module("adapters", adapters)
    return copied
