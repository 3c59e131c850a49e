"""What is public and frozen: autoencoder, text encoder, and an eye that judges.

A toy version of each comes with the zoo, trained by
`benchmarks/train_imagen3_public.py` on generated pictures with captions, of a seed that
no run trains on. The eye and the text encoder were trained together to tell which
caption goes with which picture (Radford et al., 2021, arXiv:2103.00020).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.errors import NotAvailable, UserError
from fedemb.heads import unit_rows
from model_zoo.imagen3.autoencoder import Autoencoder, AutoencoderShape, Encoder
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.text.transformer import TextShape, TextTower

_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class PublicShape:
    """Sizes of the public models.

    Attributes:
        autoencoder: pictures to latents and back.
        text: the text encoder; its vocabulary is a shipped one.
        eye: pictures to the space of text vectors.
    """

    autoencoder: AutoencoderShape = field(
        default_factory=lambda: AutoencoderShape(
            width=32, multiples=(1,), blocks=1, groups=8, patch=4
        )
    )
    text: TextShape = field(
        default_factory=lambda: TextShape(
            vocab_size=256, length=24, width=64, layers=3, heads=4, embedding_dim=64
        )
    )
    eye: AutoencoderShape = field(
        default_factory=lambda: AutoencoderShape(
            width=32, multiples=(1,), blocks=1, groups=8, patch=4
        )
    )


@dataclass(frozen=True)
class Texts:
    """Encoded texts.

    Attributes:
        tokens: `[n, L, width]`.
        seen: float `[n, L]`, 1 where there is text.
        vector: unit-length `[n, E]`, comparable to `PublicModels.look`.
    """

    tokens: Tensor
    seen: Tensor
    vector: Tensor


class PublicModels(nn.Module):
    """Autoencoder, text encoder and eye; every row depends on itself alone."""

    def __init__(self, shape: PublicShape) -> None:
        super().__init__()
        width = shape.text.embedding_dim or shape.text.width
        self.shape = shape
        self.autoencoder = Autoencoder(shape.autoencoder)
        self.text = TextTower(shape.text)
        self.eye = Encoder(shape.eye, width)
        self.project = nn.Linear(width, width)

    def words(self, texts: Sequence[str] | NDArray[np.str_]) -> Texts:
        """Encoded texts; each distinct one is encoded once."""
        shape = self.shape.text
        distinct, rows = np.unique(np.asarray(texts), return_inverse=True)
        ids = torch.from_numpy(
            encode(shipped(shape.vocab_size), distinct, shape.length)
        )
        tokens = self.text.tokens(ids)
        vector = unit_rows(self.text.projection(self.text.pooled(tokens, ids)))
        which = torch.from_numpy(rows)
        seen = (ids != shape.pad).to(tokens.dtype)
        return Texts(tokens[which], seen[which], vector[which])

    def look(self, images: Tensor) -> Tensor:
        """Unit-length vectors `[n, E]` of pictures in [-1, 1] `[n, C, H, W]`."""
        return unit_rows(self.project(self.eye(images).mean((2, 3))))

    def latents(self, images: Tensor) -> Tensor:
        """Scaled latents of pictures, a block at a time.

        Raises:
            UserError: if the sides are no multiple of the reduction.
        """
        factor = self.shape.autoencoder.factor
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise UserError(
                f"pictures of {images.shape[-2]} x {images.shape[-1]} pixels do not "
                f"fall into latents of {factor} x {factor}; set data.image_size to a "
                f"multiple of {factor}."
            )
        parts = [self.autoencoder.encode(part) for part in torch.split(images, _BLOCK)]
        return torch.cat(parts)

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures in [-1, 1] of scaled latents, a block at a time."""
        parts = [self.autoencoder.decode(part) for part in torch.split(latents, _BLOCK)]
        return torch.cat(parts).clamp(-1, 1)


def public_models(shape: PublicShape, weights: Path | None = None) -> PublicModels:
    """The public models of a shape, frozen; loaded once per process.

    Args:
        shape: of the models.
        weights: a file as `benchmarks/train_imagen3_public.py` writes it; None is the
            toy that comes with the zoo.

    Raises:
        NotAvailable: if no public weights of this shape are at hand.
    """
    if weights is None and shape != PublicShape():
        raise NotAvailable(
            "this size has no public autoencoder and text encoder at hand; train or "
            "convert some into the names of model_zoo.imagen3.public.PublicModels and "
            "build a configuration with LatentStages(weights=...), or use `tiny`."
        )
    return _loaded(shape, weights)


@cache
def _loaded(shape: PublicShape, weights: Path | None) -> PublicModels:
    from safetensors.torch import load

    if weights is None:
        file = resources.files("model_zoo.imagen3") / "public.safetensors"
        content = file.read_bytes()
    else:
        content = weights.read_bytes()
    models = PublicModels(shape)
    state = {name: value.float() for name, value in load(content).items()}
    models.load_state_dict(state)
    return models.eval().requires_grad_(False)
