"""The learned variance of a diffusion step (Nichol and Dhariwal, 2021, 2102.09672).

The second half of a denoiser's channels interpolates, in the logarithm, between the
smallest and the largest sensible variance of a step back. Its loss is the variational
bound with the mean held fixed, so that it trains these channels alone.
"""

import math

import torch
from torch import Tensor

from model_zoo.imagen3.objectives import TIMES, Diffusion


def bound(
    objective: Diffusion,
    prediction: Tensor,
    shares: Tensor,
    target: Tensor,
    time: Tensor,
) -> Tensor:
    """KL divergence of the true step back from the predicted one, in bits, `[B]`.

    Args:
        objective: the noising.
        prediction: predicted noise `[B, C, h, w]`; no gradient reaches it.
        shares: the variance channels, -1 (smallest) to 1 (largest).
        target: the noise `[B, C, h, w]`.
        time: `[B]`, of steps 1 to `steps`.

    Returns:
        The mean over a row's latents; at equal means and variances 0.
    """
    one = TIMES / objective.steps
    kept = objective.at(time)
    before = objective.at((time - one).clamp(min=one))  # step 1 borrows from step 2
    kept = torch.where(time < 1.5 * one, objective.at(2 * one + 0 * time), kept)
    ratio = kept / before
    largest = (1 - ratio)[:, None, None, None]
    smallest = ((1 - before) / (1 - kept) * (1 - ratio))[:, None, None, None]
    share = (shares + 1) / 2
    log_variance = share * largest.log() + (1 - share) * smallest.log()
    # Both means are x_t / sqrt(ratio) minus this multiple of the noise.
    multiple = largest / ((1 - kept) * ratio).sqrt()[:, None, None, None]
    distance = (multiple * (target - prediction.detach())).square()
    log_ratio = log_variance - smallest.log()
    nats = 0.5 * (log_ratio - 1 + (-log_ratio).exp() + distance * (-log_variance).exp())
    return nats.flatten(1).mean(1) / math.log(2)
