"""The KL autoencoder between pictures and latents.

Rombach et al. (2022, arXiv:2112.10752): residual convolutions that halve the side at
every level, attention at the bottom, and latents scaled to unit standard deviation. It
is public and frozen: a round never trains it.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AutoencoderShape:
    """Sizes of an autoencoder; the defaults are those of Stable Diffusion 1.

    Attributes:
        channels: of the pictures.
        latents: channels of the latents.
        width: of the first level.
        multiples: of `width`, one per level; every level but the last halves the side.
        blocks: residual blocks of each encoder level; a decoder level has one more.
        groups: of the group normalisations.
        patch: side of the patches that become channels before anything else; with 1
            all reduction is left to the levels.

    Raises:
        UserError: if groups do not divide a width, or there is no level.
    """

    channels: int = 3
    latents: int = 4
    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    groups: int = 32
    patch: int = 1

    def __post_init__(self) -> None:
        if not self.multiples or self.width % self.groups:
            raise UserError(
                f"groups={self.groups} must divide width={self.width}, and multiples="
                f"{self.multiples} name a level at least."
            )

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per latent."""
        return self.patch * int(2 ** (len(self.multiples) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.width * multiple for multiple in self.multiples)


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] `[B, C, H, W]` to latents `[B, c, H / f, W / f]` and back.

    Example:
        >>> shape = AutoencoderShape(width=8, multiples=(1, 1), blocks=1, groups=4)
        >>> model = Autoencoder(shape)
        >>> model.decode(model.encode(torch.zeros(2, 3, 16, 16))).shape
        torch.Size([2, 3, 16, 16])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape, 2 * shape.latents)
        self.moments = nn.Conv2d(2 * shape.latents, 2 * shape.latents, 1)
        self.entry = nn.Conv2d(shape.latents, shape.latents, 1)
        self.decoder = Decoder(shape)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(shape.latents, 1, 1))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of unscaled latents, clamped to [-30, 20]."""
        mean, log_variance = self.moments(self.encoder(images)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, images: Tensor) -> Tensor:
        """The mean latents, shifted and scaled to mean 0 and standard deviation 1."""
        return (self.posterior(images)[0] - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of scaled latents; not clipped."""
        return cast(Tensor, self.decoder(self.entry(latents / self.scale + self.shift)))

    def loss(
        self,
        images: Tensor,
        noise: Tensor,
        divergence: float = 1e-6,
        squared: float = 0.0,
    ) -> Tensor:
        """Mean absolute error of a sampled reconstruction, and a touch of KL.

        Args:
            images: `[B, C, H, W]`.
            noise: standard normal, of the latents' shape.
            divergence: weight of the KL divergence to the standard normal, summed over
                a picture's latents.
            squared: weight of the mean squared error.
        """
        mean, log_variance = self.posterior(images)
        drawn = mean + (log_variance / 2).exp() * noise
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        made = self.decoder(self.entry(drawn))
        error = F.l1_loss(made, images) + squared * F.mse_loss(made, images)
        return error + divergence * kl.flatten(1).sum(1).mean()

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Set shift and scale so that the latents of `images` have unit deviation."""
        mean = self.posterior(images)[0]
        self.shift.copy_(mean.mean((0, 2, 3))[:, None, None])
        self.scale.copy_(1 / (mean - self.shift).square().mean().sqrt())


class Encoder(nn.Module):
    """Pictures `[B, C, H, W]` to `[B, out, H / f, W / f]`."""

    def __init__(self, shape: AutoencoderShape, out: int) -> None:
        super().__init__()
        self.patch = nn.PixelUnshuffle(shape.patch)
        self.enter = _conv(shape.channels * shape.patch**2, shape.width)
        layers: list[nn.Module] = []
        before = shape.width
        for level, width in enumerate(shape.widths):
            if level:
                layers.append(Halve(before))
            for _ in range(shape.blocks):
                layers.append(Residual(before, width, shape.groups))
                before = width
        self.levels = nn.Sequential(*layers)
        self.middle = _middle(before, shape.groups)
        self.leave = _leave(before, out, shape.groups)

    def forward(self, images: Tensor) -> Tensor:
        """Features of the latents' side."""
        out = self.middle(self.levels(self.enter(self.patch(images))))
        return cast(Tensor, self.leave(out))


class Decoder(nn.Module):
    """Latents `[B, c, h, w]` to pictures `[B, C, f h, f w]`."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        before = shape.widths[-1]
        self.enter = _conv(shape.latents, before)
        self.middle = _middle(before, shape.groups)
        layers: list[nn.Module] = []
        for level, width in enumerate(reversed(shape.widths)):
            if level:
                layers.append(Double(before))
            for _ in range(shape.blocks + 1):
                layers.append(Residual(before, width, shape.groups))
                before = width
        self.levels = nn.Sequential(*layers)
        self.leave = _leave(before, shape.channels * shape.patch**2, shape.groups)
        self.patch = nn.PixelShuffle(shape.patch)

    def forward(self, latents: Tensor) -> Tensor:
        """Pictures."""
        out = self.levels(self.middle(self.enter(latents)))
        return cast(Tensor, self.patch(self.leave(out)))


class Residual(nn.Module):
    """Two normalised convolutions beside a shortcut, told the time where there is one.

    Args:
        before: channels in.
        after: channels out.
        groups: of the normalisations.
        time: width of a time embedding that is added between the convolutions.
    """

    def __init__(
        self, before: int, after: int, groups: int, time: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=1e-6)
        self.conv1 = _conv(before, after)
        self.time = nn.Linear(time, after) if time else None
        self.norm2 = nn.GroupNorm(groups, after, eps=1e-6)
        self.conv2 = _conv(after, after)
        self.shortcut = (
            nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        )

    def forward(self, x: Tensor, moment: Tensor | None = None) -> Tensor:
        """`[B, before, H, W]` to `[B, after, H, W]`; `moment` is `[B, time]`."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None and moment is not None:
            hidden = hidden + self.time(F.silu(moment))[:, :, None, None]
        out: Tensor = self.shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))
        return out


class Halve(nn.Module):
    """A convolution of stride 2, padded at the far sides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H / 2, W / 2]`."""
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class Double(nn.Module):
    """Every pixel four times, and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, 2 H, 2 W]`."""
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0)))


class _Attention(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, side = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.inward(tokens).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) * width**-0.5).softmax(-1)
        mixed = self.outward(weights @ value).transpose(1, 2)
        out: Tensor = x + mixed.reshape(batch, width, height, side)
        return out


def _middle(width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        Residual(width, width, groups),
        _Attention(width, groups),
        Residual(width, width, groups),
    )


def _leave(before: int, after: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, before, eps=1e-6), nn.SiLU(), _conv(before, after)
    )


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)
