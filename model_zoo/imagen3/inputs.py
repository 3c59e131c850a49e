"""What a denoiser is shown: pictures, small ones enlarged, and noise to probe with."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.pixels import pixels
from model_zoo.imagen3.public import PublicModels

PROBE_DRAWS = 8
"""Noise draws that an embedding averages over."""
_PROBE_SEED = 261


def pictures(examples: Examples) -> Tensor:
    """Pictures, or the middle frames of clips, as x / 128 - 1 `[n, C, H, W]`."""
    if "image" in examples.fields:
        return pixels(examples.fields["image"])
    clips = examples.fields["clip"]
    return pixels(clips[:, clips.shape[1] // 2])


def probes(shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The public noise `[8, C, h, w]` that embeddings average over."""
    draw = np.random.default_rng(_PROBE_SEED)
    return torch.from_numpy(
        draw.standard_normal((PROBE_DRAWS, *shape), dtype=np.float32)
    )


def shrunk(images: Tensor, times: int) -> Tensor:
    """Pictures averaged over squares of `times` pixels a side."""
    return F.avg_pool2d(images, times)


def enlarged(latents: Tensor, times: int) -> Tensor:
    """Latents `[n, c, h, w]`, `times` as large a side by bilinear interpolation."""
    return F.interpolate(latents, scale_factor=float(times), mode="bilinear")


def enlarged_latents(models: PublicModels, small: Tensor, times: int) -> Tensor:
    """Latents of small pictures, enlarged to the side of those of the large ones."""
    return enlarged(models.latents(small), times)
