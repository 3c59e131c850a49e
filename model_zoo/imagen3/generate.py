"""Pictures from prompts, and large from small ones, with a trained denoiser."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.devices import device_of
from fedemb.errors import UserError
from model_zoo.imagen3.condition import Condition
from model_zoo.imagen3.conditions import text_condition
from model_zoo.imagen3.inputs import enlarged_latents
from model_zoo.imagen3.objectives import Flow
from model_zoo.imagen3.samplers import Denoiser, ddim, euler, guided
from model_zoo.imagen3.task import LatentDiffusionTask

SAMPLERS = ("euler", "ddim")


@torch.no_grad()
def generate(
    task: LatentDiffusionTask,
    backbone: nn.Module,
    prompts: Sequence[str] | NDArray[np.str_],
    *,
    seed: int = 0,
    guidance: float | None = None,
    steps: int = 20,
    sampler: str | None = None,
    small: Tensor | None = None,
) -> Tensor:
    """Pictures in [-1, 1] `[n, C, H, W]`, a function of seed and prompts.

    Args:
        task: that the denoiser was trained by.
        backbone: the denoiser.
        prompts: one per picture; empty ones tell nothing.
        seed: of the noise that sampling starts from.
        guidance: weight of classifier-free guidance; 1 is none, None the task's.
        steps: evaluations of the denoiser (twice as many with guidance).
        sampler: `euler` (of the flow objective alone) or `ddim`; None is the first that
            the objective allows.
        small: pictures `[n, C, H / k, W / k]` to enlarge, where the task is a
            super-resolution stage.

    Raises:
        UserError: for a sampler that is unknown or does not go with the objective, or
            small pictures where none belong.
    """
    allowed = SAMPLERS if isinstance(task.objective, Flow) else SAMPLERS[1:]
    sampler = sampler or allowed[0]
    if sampler not in allowed:
        raise UserError(f"sampler={sampler!r} must be one of {', '.join(allowed)}.")
    if (small is None) != (task.coarse == 1):
        raise UserError("small pictures go with a super-resolution stage, and only so.")
    shape = (len(prompts), task.latents, *[task.denoiser.side] * 2)
    draw = np.random.default_rng(seed)
    device = device_of(backbone)
    noise = torch.from_numpy(draw.standard_normal(shape, np.float32)).to(device)
    beside = None
    if small is not None:
        beside = enlarged_latents(task.models, small.cpu(), task.coarse).to(device)
    told = text_condition(task.heard(task.models.words(prompts)), device)
    empty = task.unconditional(len(prompts), noise)
    predict = guided(
        _denoiser(task, backbone, told, beside),
        _denoiser(task, backbone, empty, beside),
        task.guidance if guidance is None else guidance,
    )
    if sampler == "euler":
        latents = euler(predict, noise, steps)
    else:
        latents = ddim(predict, noise, task.objective, steps)
    return task.models.pictures(latents.cpu())


def _denoiser(
    task: LatentDiffusionTask,
    backbone: nn.Module,
    told: Condition,
    beside: Tensor | None,
) -> Denoiser:
    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        shown = noisy if beside is None else torch.cat([noisy, beside], 1)
        found: Tensor = backbone(shown, time, told)
        return found[:, : task.latents]

    return predict
