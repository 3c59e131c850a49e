"""From noise to latents: classifier-free guidance, Euler steps and DDIM.

Samplers are deterministic functions of the noise that they are given.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fedemb.errors import UserError
from model_zoo.imagen3.objectives import TIMES, Objective

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents `[B, C, h, w]` and times `[B]` to a prediction `[B, C, h, w]`."""


def guided(conditional: Denoiser, unconditional: Denoiser, weight: float) -> Denoiser:
    """v_none + w (v_told - v_none): 0 is unconditional, 1 conditional, more is more.

    Ho and Salimans (2022, arXiv:2207.12598).
    """

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        told = conditional(noisy, time)
        if weight == 1:
            return told
        without = unconditional(noisy, time)
        return without + weight * (told - without)

    return predict


def euler(velocity: Denoiser, noise: Tensor, steps: int = 20) -> Tensor:
    """The flow's latents at time 0, by `steps` equal Euler steps from `noise`.

    Example:
        >>> to = torch.ones(1, 1, 2, 2)
        >>> noise = torch.zeros(1, 1, 2, 2)
        >>> euler(lambda x, t: noise - to, noise, steps=3).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    x = noise
    for start, end in _pairs(steps):
        time = torch.full((len(x),), start, dtype=x.dtype, device=x.device)
        x = x + velocity(x, time) * ((end - start) / TIMES)
    return x


def ddim(
    denoiser: Denoiser, noise: Tensor, objective: Objective, steps: int = 20
) -> Tensor:
    """Latents at time 0 by deterministic DDIM (eta 0), for any objective.

    Song et al. (2021, arXiv:2010.02502): split what is there into clean latents and
    noise, and mix them again for the next time. On a straight flow it is `euler`.
    """
    x = noise
    for start, end in _pairs(steps):
        time = torch.full((len(x),), start, dtype=x.dtype, device=x.device)
        clean, spread = objective.split(x, denoiser(x, time), time)
        x = objective.noised(clean, spread, torch.full_like(time, end))
    return x


def _pairs(steps: int) -> list[tuple[float, float]]:
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1.")
    times = [TIMES * (1 - step / steps) for step in range(steps + 1)]
    return list(zip(times, times[1:], strict=False))
