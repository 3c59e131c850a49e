"""The card of the latent diffusion model; importing this imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedemb.errors import UserError
from model_zoo.changes import changed
from model_zoo.system import COPIES, Configuration, DataFacts, System, TaskOptions

if TYPE_CHECKING:
    from fedemb.stages import Stage

_SCENES = DataFacts(example_shape=(32, 32, 3), num_classes=1152)
_IMAGENET = DataFacts(example_shape=(256, 256, 3), num_classes=1000)
_LAION = DataFacts(example_shape=(512, 512, 3), num_classes=1)


@dataclass(frozen=True, kw_only=True)
class LatentStages:
    """Builds the one stage of a configuration.

    Attributes:
        size: a name in `model_zoo.imagen3.sizes`.
        weights: file of public models; None is the toy that comes with the zoo.
        changes: to the task and what it holds, such as
            `{"drop": 0.0, "objective": {"times": "uniform"}}`.
    """

    size: str
    weights: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains the denoiser.

        Raises:
            UserError: if the data has no square pictures of a fitting side, or an
                option or a change does not apply.
        """
        from fedemb.stages import Stage
        from model_zoo.imagen3.sizes import SIZES

        size = SIZES[self.size]
        options.refuse(
            ("embedding_dim", "always_normalize"),
            "embeddings of imagen3 have the denoiser's own width, and unit length.",
        )
        *_, height, side, _ = (0, *data.example_shape)
        factor = size.public.autoencoder.factor * size.patch
        if len(data.example_shape) not in (3, 4) or height != side or side % factor:
            raise UserError(
                f"example_shape={data.example_shape} must be of square pictures whose "
                f"side is a multiple of {factor}; set data.image_size."
            )
        task = size.task(
            side=side,
            num_classes=data.num_classes,
            head=options.head,
            temperature=options.temperature,
            weights=self.weights,
        )
        task = changed(task, self.changes)
        if options.label_space not in (None, task.label_space):
            raise UserError(
                f"label_space={options.label_space!r} must be {task.label_space} here."
            )
        trainable = options.trainable or size.trainable
        return (Stage("denoise", task, 1.0, trainable),)


def _size(name: str, note: str, data: DataFacts) -> Configuration:
    return Configuration(note=note, build=LatentStages(size=name), data=data)


IMAGEN3 = System(
    name="imagen3",
    unused=COPIES,
    paper="Imagen 3 Team, Google (2024), Imagen 3, arXiv:2408.07009, for how it is "
    "judged; its architecture is undisclosed, and latent diffusion (Rombach et al. "
    "2022, arXiv:2112.10752) with diffusion transformers (Peebles and Xie 2023, "
    "arXiv:2212.09748) stands in",
    user="a contributor, artist or subject: whoever owns a group of pictures with "
    "captions; the head that aligns inner features stays on the virtual client, the "
    "autoencoder and the text encoder are public and frozen",
    stages=(
        "denoise: predict the velocity of the virtual client's noised latents, told "
        "their captions, and tell its pictures apart by inner features",
    ),
    default_dataset="scenes",
    default_configuration="tiny",
    metric="explained",
    beside=("alignment", "alignment_gap"),
    configurations={
        "tiny": _size("tiny", "2 blocks of width 32, flow matching", _SCENES),
        "tiny_ddpm": _size("tiny_ddpm", "3 blocks, predicting noise", _SCENES),
        "tiny_class": _size("tiny_class", "3 blocks, told labels, not text", _SCENES),
        "tiny_unet": _size("tiny_unet", "a U-Net of two levels", _SCENES),
        "tiny_upscaler": _size(
            "tiny_upscaler",
            "super-resolution: doubles the side of a small picture",
            _SCENES,
        ),
        "small": _size("small", "6 blocks of width 128, flow matching", _SCENES),
        "dit_s_2": _size("dit_s_2", "DiT-S/2 of 256-pixel pictures", _IMAGENET),
        "dit_b_2": _size("dit_b_2", "DiT-B/2 of 256-pixel pictures", _IMAGENET),
        "dit_l_2": _size("dit_l_2", "DiT-L/2 of 256-pixel pictures", _IMAGENET),
        "dit_xl_2": _size("dit_xl_2", "DiT-XL/2 of 256-pixel pictures", _IMAGENET),
        "sd_1_5": _size("sd_1_5", "the U-Net of Stable Diffusion 1.5", _LAION),
        "sd_2": _size("sd_2", "the U-Net of Stable Diffusion 2", _LAION),
    },
)
