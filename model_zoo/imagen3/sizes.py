"""The sizes that can be built, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from model_zoo.imagen3.autoencoder import AutoencoderShape
from model_zoo.imagen3.dit import DiTShape
from model_zoo.imagen3.objectives import Diffusion, Flow, Objective
from model_zoo.imagen3.public import PublicShape
from model_zoo.imagen3.task import LatentDiffusionTask
from model_zoo.imagen3.unet import UNetShape
from model_zoo.text.transformer import TextShape


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of the denoiser, for pictures of any side.

    Attributes:
        width: of the transformer's tokens, or of the U-Net's first level.
        depth: of the transformer.
        mlp_ratio: hidden width of its perceptrons, in widths.
        heads: attention heads; None is one for every 64 channels of a U-Net.
        patch: latents on a token's side.
        kind: `dit` or `unet`.
        multiples: of the U-Net's levels.
        groups: of the U-Net's normalisations.
        blocks: of the U-Net's levels.
        labels: whether it is told labels in place of text.
        learned_variance: whether variances are predicted, too.
        coarse: see `LatentDiffusionTask`.
        objective: see `LatentDiffusionTask`.
        head: see `LatentDiffusionTask`.
        public: shape of the public models.
    """

    width: int
    depth: int = 1
    mlp_ratio: int = 4
    heads: int | None
    patch: int = 2
    kind: str = "dit"
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    groups: int = 32
    blocks: int = 2
    labels: bool = False
    learned_variance: bool = False
    coarse: int = 1
    objective: Objective = field(default_factory=Flow)
    head: str = "class-means"
    public: PublicShape = field(default_factory=PublicShape)

    @property
    def trainable(self) -> str:
        """What is trained unless told otherwise; a transformer's positions are not."""
        return "denoiser" if self.kind == "dit" else "all"

    def task(
        self,
        *,
        side: int,
        num_classes: int,
        head: str | None = None,
        temperature: float | None = None,
        weights: Path | None = None,
    ) -> LatentDiffusionTask:
        """The task for pictures of this side, in pixels."""
        return LatentDiffusionTask(
            denoiser=self.denoiser(side, num_classes),
            num_classes=num_classes,
            public=self.public,
            weights=weights,
            objective=self.objective,
            head=head or self.head,
            temperature=0.1 if temperature is None else temperature,
            coarse=self.coarse,
        )

    def denoiser(self, side: int, num_classes: int) -> DiTShape | UNetShape:
        """The shape for pictures of this side, in pixels."""
        latents = self.public.autoencoder.latents
        common = {
            "side": side // self.public.autoencoder.factor,
            "channels": latents * (1 + (self.coarse > 1)),
            "out_channels": latents * (1 + self.learned_variance),
            "width": self.width,
        }
        if self.kind == "unet":
            return UNetShape(
                **common,
                multiples=self.multiples,
                blocks=self.blocks,
                heads=self.heads,
                groups=self.groups,
                text=self.public.text.width,
            )
        return DiTShape(
            **common,
            patch=self.patch,
            depth=self.depth,
            mlp_ratio=self.mlp_ratio,
            heads=self.heads or 1,
            classes=num_classes if self.labels else None,
            text=None if self.labels else self.public.text.width,
        )


def _text(width: int, layers: int) -> TextShape:
    return TextShape(
        vocab_size=49_408,
        length=77,
        width=width,
        layers=layers,
        heads=width // 64,
        causal=True,
        embedding_dim=width,
    )


def _paper(text: TextShape) -> PublicShape:
    return PublicShape(autoencoder=AutoencoderShape(), text=text)


def _dit(width: int, depth: int, heads: int) -> Size:
    return Size(
        width=width,
        depth=depth,
        heads=heads,
        labels=True,
        learned_variance=True,
        objective=Diffusion(),
        public=_paper(_text(768, 12)),
    )


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "tiny": Size(width=32, depth=2, mlp_ratio=2, heads=4),
        "tiny_ddpm": Size(
            width=32, depth=3, heads=4, objective=Diffusion(schedule="cosine")
        ),
        "tiny_class": Size(width=32, depth=3, heads=4, labels=True),
        "tiny_unet": Size(
            kind="unet", width=16, multiples=(1, 2), blocks=1, heads=2, groups=4
        ),
        "tiny_upscaler": Size(width=32, depth=3, heads=4, coarse=2, head="none"),
        "small": Size(width=128, depth=6, heads=4),
        "dit_s_2": _dit(384, 12, 6),
        "dit_b_2": _dit(768, 12, 12),
        "dit_l_2": _dit(1024, 24, 16),
        "dit_xl_2": _dit(1152, 28, 16),
        "sd_1_5": Size(
            kind="unet", width=320, heads=8, patch=8, public=_paper(_text(768, 12)),
            objective=Diffusion(),
        ),
        "sd_2": Size(
            kind="unet", width=320, heads=None, patch=8,
            public=_paper(_text(1024, 23)), objective=Diffusion(),
        ),
    }
)  # fmt: skip
