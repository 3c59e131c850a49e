"""How latents are noised, what a denoiser predicts, and how the noise is taken back.

Times run from 0 (the data) to 1000 (noise) for every objective, as the denoiser is told
them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.errors import UserError

TIMES = 1000
"""The time of pure noise."""


class Objective(Protocol):
    """One way to noise latents and to learn to take the noise back.

    All tensors are `[B, ...]`; times are float `[B]` in [0, 1000].
    """

    def draw(self, draw: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Times of `count` training examples."""
        ...

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Latents at `time`."""
        ...

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the denoiser should predict."""
        ...

    def split(
        self, noisy: Tensor, predicted: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction amounts to."""
        ...


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Rectified flow: x_t = (1 - t) x_0 + t e with velocity v = e - x_0.

    Liu et al. (2022, arXiv:2209.03003); Esser et al. (2024, arXiv:2403.03206).

    Attributes:
        times: `uniform`, or `logit-normal` (more of the middle).

    Raises:
        UserError: for other times.
    """

    times: str = "logit-normal"

    def __post_init__(self) -> None:
        if self.times not in ("uniform", "logit-normal"):
            raise UserError(f"times={self.times!r} must be uniform or logit-normal.")

    def draw(self, draw: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Times in (0, 1000)."""
        if self.times == "uniform":
            shares = draw.random(count)
        else:
            shares = 1 / (1 + np.exp(-draw.standard_normal(count)))
        return (TIMES * shares).astype(np.float32)

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """A point of the straight line from data to noise."""
        share = _along(time / TIMES, clean)
        return (1 - share) * clean + share * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """The velocity, the same at all times."""
        del time
        return noise - clean

    def split(
        self, noisy: Tensor, predicted: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two ends of the line."""
        share = _along(time / TIMES, noisy)
        return noisy - share * predicted, noisy + (1 - share) * predicted


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """DDPM: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, and e is predicted.

    Ho et al. (2020, arXiv:2006.11239), with linear betas or the cosine schedule of
    Nichol and Dhariwal (2021, arXiv:2102.09672).

    Attributes:
        schedule: `linear` or `cosine`.
        steps: of the noising; step k, from 1, is time 1000 k / steps, and time 0 is the
            data.

    Raises:
        UserError: for another schedule, or no steps.
    """

    schedule: str = "linear"
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "cosine") or self.steps < 1:
            raise UserError(
                f"schedule={self.schedule!r} must be linear or cosine, and steps="
                f"{self.steps} at least 1."
            )

    @cached_property
    def kept(self) -> Tensor:
        """The products a_k of step 0 (1.0) to `steps`, float64 `[steps + 1]`."""
        if self.schedule == "linear":
            scale = 1000 / self.steps
            beta = torch.linspace(
                1e-4 * scale, 0.02 * scale, self.steps, dtype=torch.float64
            )
        else:
            grid = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
            wave = torch.cos((grid + 0.008) / 1.008 * torch.pi / 2).square()
            beta = 1 - wave[1:] / wave[:-1]
        products = (1 - beta.clamp(max=0.999)).cumprod(0)
        return torch.cat([torch.ones(1, dtype=torch.float64), products])

    def at(self, time: Tensor) -> Tensor:
        """The product of the step nearest to `time`, `[B]`."""
        step = (time * (self.steps / TIMES)).round().long().clamp(0, self.steps)
        return self.kept.to(time.device)[step].to(time.dtype)

    def draw(self, draw: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Times of steps 1 to `steps`, each as likely."""
        steps = draw.integers(1, self.steps + 1, count)
        return (steps * (TIMES / self.steps)).astype(np.float32)

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Data and noise, mixed so that unit variance stays unit variance."""
        kept = _along(self.at(time), clean)
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """The noise."""
        del clean, time
        return noise

    def split(
        self, noisy: Tensor, predicted: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clean latents that go with the predicted noise, and that noise."""
        kept = _along(self.at(time), noisy)
        return (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt(), predicted


def _along(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` with as many dimensions as `like` `[B, ...]`."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
