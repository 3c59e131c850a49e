"""The residual multilayer perceptron that reads 2D poses.

Martinez et al. (2017), arXiv:1705.03098, as CV-MIM uses it, with LayerNorm (Ba et al.
2016, arXiv:1607.06450) in place of batch normalisation: the same number of parameters,
and rows that stay apart.
"""

import math

import torch
from torch import Tensor, nn

from model_zoo.cv_mim.geometry import HIPS, SHOULDERS

SCALE_UNIT = 0.5
"""What the longest distance of a normalised pose's trunk becomes."""

_MIX = (0x1E3779B97F4A7C15, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


def he_normal_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Truncated He-normal weights *and* biases of linear layers, as published.

    He et al. (2015), arXiv:1502.01852. A bias of n units has the fan-in n.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            for values in (layer.weight, layer.bias):
                std = math.sqrt(2.0 / values.shape[-1]) / 0.87962566103423978
                nn.init.trunc_normal_(
                    values, std=std, a=-2 * std, b=2 * std, generator=generator
                )


def kept_units(words: Tensor, layer: int, units: int, rate: float) -> Tensor:
    """Which units dropout keeps: a hash of word, layer and unit, bool `[..., units]`.

    A mask that is a function of one word per row needs no random state inside the
    model, so every engine drops the same units.

    Args:
        words: int64 `[...]`, random.
        layer: number of the layer.
        units: width.
        rate: share to drop.
    """
    index = torch.arange(units, device=words.device) + layer * 65_537
    x = words[..., None] ^ ((index + 1) * _MIX[0])
    x = (x ^ (x >> 30)) * _MIX[1]
    x = (x ^ (x >> 27)) * _MIX[2]
    return ((x ^ (x >> 31)) & 0x7FFFFFFF) >= int(rate * 2**31)


def normalize_2d(keypoints: Tensor) -> Tensor:
    """The middle of the hips at 0, the longest distance of the trunk at `SCALE_UNIT`.

    Distances of the trunk are those between the shoulders, between the hips and from
    every shoulder to every hip. A skeleton whose trunk is one point is not scaled.

    Args:
        keypoints: `[..., 13, 2]`, in any unit.

    Example:
        >>> pose = torch.rand(13, 2)
        >>> moved = 300 * pose + 20
        >>> torch.allclose(normalize_2d(moved), normalize_2d(pose), atol=1e-5)
        True
    """
    trunk = keypoints[..., (*SHOULDERS, *HIPS), :]
    centred = keypoints - trunk[..., 2:, :].mean(-2, keepdim=True)
    first, second = (0, 0, 0, 1, 1, 2), (1, 2, 3, 2, 3, 3)
    sides = trunk[..., first, :] - trunk[..., second, :]
    longest = (sides**2).sum(-1).amax(-1).sqrt()[..., None, None]
    return centred * (SCALE_UNIT / torch.where(longest > 0, longest, 1.0))


class Dense(nn.Module):
    """Linear, LayerNorm, ReLU, dropout.

    Args:
        inputs: width of the input.
        units: width of the output.
        index: number of the layer, for its dropout mask.
        dropout: share of units to drop in training.
        norm: whether to normalise.
    """

    def __init__(
        self, inputs: int, units: int, index: int, dropout: float, norm: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units)
        self.norm = nn.LayerNorm(units) if norm else nn.Identity()
        self.index, self.dropout = index, dropout

    def forward(self, x: Tensor, words: Tensor | None = None) -> Tensor:
        """`[..., inputs]` -> `[..., units]`; `words` `[...]` turn dropout on."""
        x = torch.relu(self.norm(self.linear(x)))
        if words is None or self.dropout == 0:
            return x
        kept = kept_units(words, self.index, x.shape[-1], self.dropout)
        return x * kept / (1 - self.dropout)


class DenseLayers(nn.ModuleList):
    """Layers in a row, each with its own dropout."""

    def forward(self, x: Tensor, words: Tensor | None) -> Tensor:
        """`[..., hidden]` -> `[..., hidden]`."""
        for layer in self:
            x = layer(x, words)
        return x


class Trunk(nn.Module):
    """Residual blocks and an embedder: all that follows the first layer.

    Args:
        hidden: width.
        outputs: width of the embedding.
        blocks: residual blocks.
        layers: layers of each block.
        dropout: share of units to drop in training.
        norm: whether to normalise.
        gaussian: embed as mean and log-variance.
        first: number of the first layer, for dropout masks.
    """

    def __init__(
        self,
        hidden: int,
        outputs: int,
        *,
        blocks: int = 2,
        layers: int = 2,
        dropout: float = 0.0,
        norm: bool = True,
        gaussian: bool = False,
        first: int = 1,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DenseLayers(
                Dense(hidden, hidden, first + b * layers + k, dropout, norm)
                for k in range(layers)
            )
            for b in range(blocks)
        )
        self.embedder = nn.Linear(hidden, outputs)
        self.logvar = nn.Linear(hidden, outputs) if gaussian else None

    def forward(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """`[..., hidden]` -> embedding (its mean) `[..., outputs]`."""
        embedded: Tensor = self.embedder(self.inner(hidden, words))
        return embedded

    def inner(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        """`[..., hidden]` -> what the embedder reads, `[..., hidden]`."""
        for block in self.blocks:
            hidden = hidden + block(hidden, words)
        return hidden


class Encoder(nn.Module):
    """2D poses -> pose code and view code, side by side.

    4,301,888 parameters at the published size: 13 keypoints, 1,024 units, 32 + 32.

    Args:
        inputs: numbers of a pose; 26.
        hidden: width of all layers.
        pose_dim: of the pose code.
        view_dim: of the view code; 0 for a code that is not split.
        blocks: residual blocks.
        layers: layers of each block.
        dropout: share of units to drop in training.
        norm: whether to normalise.
        gaussian: codes are Gaussian, sampled in training and their mean afterwards.
        normalize: inputs are 2D keypoints `[..., inputs / 2, 2]`, centred and scaled
            first; else they are any numbers `[..., inputs]`.
    """

    def __init__(
        self,
        inputs: int = 26,
        hidden: int = 1024,
        pose_dim: int = 32,
        view_dim: int = 32,
        *,
        blocks: int = 2,
        layers: int = 2,
        dropout: float = 0.25,
        norm: bool = True,
        gaussian: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.fc0 = Dense(inputs, hidden, 0, dropout, norm)
        self.trunk = Trunk(
            hidden,
            pose_dim + view_dim,
            blocks=blocks,
            layers=layers,
            dropout=dropout,
            norm=norm,
            gaussian=gaussian,
        )
        he_normal_(self)

    def forward(self, poses: Tensor) -> Tensor:
        """Pose code and view code `[..., pose_dim + view_dim]` of poses, for use."""
        codes: Tensor = self.trunk(self.fc0(self.inputs(poses)))
        return codes

    def inputs(self, poses: Tensor) -> Tensor:
        """What the first layer reads, `[..., inputs]`."""
        return normalize_2d(poses).flatten(-2) if self.normalize else poses

    def train_codes(
        self, poses: Tensor, words: Tensor, noise: Tensor | None
    ) -> dict[str, Tensor]:
        """What training needs of poses.

        Args:
            poses: as for `forward`.
            words: int64 `[...]`, for dropout.
            noise: standard normal `[..., E]`, for Gaussian codes.

        Returns:
            `poses` `[..., inputs]`, normalised. `hidden` `[..., hidden]`: what the
            first layer makes; the sub-encoder of the head reads this very tensor.
            `codes` `[..., E]`. For Gaussian codes `kl` `[...]`, their divergence from
            the standard normal.
        """
        inputs = self.inputs(poses)
        hidden = self.fc0(inputs, words)
        inner = self.trunk.inner(hidden, words)
        mean = self.trunk.embedder(inner)
        found = {"poses": inputs, "hidden": hidden, "codes": mean}
        if self.trunk.logvar is None or noise is None:
            return found
        logvar = 10 * torch.tanh(self.trunk.logvar(inner))
        found["kl"] = 0.5 * (mean**2 + torch.exp(logvar) - logvar - 1).sum(-1)
        found["codes"] = mean + torch.exp(0.5 * logvar) * noise
        return found
