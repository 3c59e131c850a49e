"""The networks that only training needs: likelihood estimators and a discriminator.

They live and die on the virtual client. Each has an objective of its own; `frozen`
keeps one network's objective from moving another network.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call


def frozen(module: nn.Module, *inputs: Tensor) -> Tensor:
    """The output of `module` with gradients to `inputs` but not to its parameters."""
    constants = {name: value.detach() for name, value in module.named_parameters()}
    return cast(Tensor, functional_call(module, constants, inputs))


class LikelihoodEstimator(nn.Module):
    """A Gaussian q(y | x): mean and log-variance (between -1 and 1) of y, given x.

    4,352 parameters for 32 numbers; LayerNorm in place of batch normalisation.

    Args:
        inputs: width of x.
        dim: width of y.
    """

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.mean = _two_layers(inputs, dim)
        self.logvar = _two_layers(inputs, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` -> mean, then log-variance, in one `[..., 2 d]`."""
        return torch.cat([self.mean(x), torch.tanh(self.logvar(x))], dim=-1)


class Discriminator(nn.Module):
    """Tells embeddings from samples of the prior: a multilayer perceptron with ReLU.

    6,273 parameters for 64 numbers.

    Args:
        inputs: d.
        hidden: widths of the hidden layers.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (inputs, *hidden, 1)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[..., d]` -> `[...]`."""
        return self.with_slopes(x)[0]

    def with_slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[...]` and their gradients by the input, `[..., d]`.

        The gradient is written out, so that a penalty on it needs no second backward
        pass and works under `torch.func`.
        """
        gates = []
        for layer in self.layers[:-1]:
            x = layer(x)
            gates.append((x > 0).to(x.dtype))
            x = torch.relu(x)
        last = cast(nn.Linear, self.layers[-1])
        scores = last(x)[..., 0]
        slopes = last.weight[0].expand(*scores.shape, -1)
        for layer, gate in zip(
            reversed(self.layers[:-1]), reversed(gates), strict=True
        ):
            slopes = (slopes * gate) @ cast(nn.Linear, layer).weight
        return scores, slopes


def glorot_(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot-uniform weights and zero biases of linear layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


def _two_layers(inputs: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, dim), nn.LayerNorm(dim), nn.ELU(), nn.Linear(dim, dim)
    )
