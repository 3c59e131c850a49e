"""What `fedemb` reports of a denoiser: how well it denoises, listens and paints."""

import math
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import beside
from fedemb.protocols import Batch
from model_zoo.imagen3.generate import generate
from model_zoo.imagen3.inputs import pictures, shrunk
from model_zoo.imagen3.quality.distances import cmmd, frechet_distance
from model_zoo.imagen3.task import LatentDiffusionTask

_ROWS, _PICTURES, _CANDIDATES = 512, 128, 8
_SEED = np.array([2408], np.uint64)


@torch.no_grad()
def denoising(
    task: LatentDiffusionTask, backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """How much of what is to be predicted is explained, and by what it is told.

    Times and noise are public constants; at most 512 rows count, evenly spread.

    Returns:
        `explained`: 1 - squared error / squared target, 0 for a denoiser that says
        nothing; `condition_gain`: what is lost of it when rows are told another row's
        caption or label; `condition_accuracy`: share of rows whose own condition, of
        eight, gives the smallest error (chance 0.125).
    """
    told = replace(task, drop=0.0, head="none")
    batch = told.prepare(spread(examples, _ROWS), _SEED)
    names = [name for name in ("tokens", "seen", "pooled", "told") if name in batch]
    count = len(batch["latent"])
    steps = [k * count // _CANDIDATES for k in range(min(_CANDIDATES, count))]
    errors = []
    for step in steps:
        other = {name: batch[name].roll(step, 0) for name in names}
        errors.append(_errors(told, backbone, batch | other))
    scale = float(batch["target"].square().flatten(1).mean(1).mean())
    own = float(errors[0].mean())
    found = {"explained": 1 - own / scale}
    if len(steps) > 1:
        others = float(torch.stack(errors[1:]).mean())
        found["condition_gain"] = (others - own) / scale
        best = torch.stack(errors[1:]).amin(0)
        found["condition_accuracy"] = float((errors[0] < best).float().mean())
    return found


@torch.no_grad()
def generation(
    task: LatentDiffusionTask, backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Quality of 128 pictures of held-out captions, in the eyes of the public model.

    Returns:
        `fd_eye` and `cmmd_eye`: Frechet distance and CMMD between generated and true
        pictures (lower is better; small samples bias them upwards); `alignment`: mean
        cosine, times 100, of pictures and their captions; `alignment_gap`: that minus
        the same for other rows' captions. Of one picture alone, distances and gap are
        nan. For super-resolution: `refined`, 1 - squared
        error / squared error of plain bilinear enlargement.
    """
    part = spread(examples, _PICTURES)
    captions = cast(NDArray[np.str_], part.fields["caption"])
    true = pictures(part)
    models = task.models
    if task.coarse > 1:
        small = shrunk(true, task.coarse)
        made = generate(task, backbone, captions, small=small, guidance=1.0)
        plain = nn.functional.interpolate(
            small, scale_factor=float(task.coarse), mode="bilinear"
        )
        error, base = ((x - true).square().mean() for x in (made, plain))
        return {"refined": float(1 - error / base)}
    made = generate(task, backbone, captions)
    words = models.words(captions).vector
    seen = models.look(made)
    score = 100 * (seen * words).sum(1).clamp(min=0)
    wrong = 100 * (seen * words.roll(len(words) // 2, 0)).sum(1).clamp(min=0)
    known = models.look(true)
    if len(part) < 2:
        undefined = dict.fromkeys(("fd_eye", "cmmd_eye", "alignment_gap"), math.nan)
        return {"alignment": float(score.mean())} | undefined
    return {
        "fd_eye": frechet_distance(seen.numpy(), known.numpy()),
        "cmmd_eye": cmmd(seen.numpy(), known.numpy()),
        "alignment": float(score.mean()),
        "alignment_gap": float((score - wrong).mean()),
    }


def spread(examples: Examples, most: int) -> Examples:
    """At most so many rows as one group, evenly spread."""
    rows = np.unique(np.linspace(0, len(examples) - 1, most).astype(np.int64))
    return examples.only(rows)


def _errors(task: LatentDiffusionTask, backbone: nn.Module, batch: Batch) -> Tensor:
    batch = beside(backbone, batch)
    found = cast(dict[str, Tensor], task.features(backbone, batch))
    mean = found["prediction"][:, : task.latents]
    return (mean - batch["target"]).square().flatten(1).mean(1).cpu()
