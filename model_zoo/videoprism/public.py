"""Eyes for still pictures that the encoder's first half starts from, and decoders.

The published model starts from an image-language model (CoCa, Yu et al. 2022,
arXiv:2205.01917), whose weights come with no package. The image transformer of the
captioner that the zoo ships stands in for it: it was trained on generated still
pictures of public users (`benchmarks/pretrain_vld.py`) and has never seen a clip.

The decoders of the second stage were trained on generated clips of public users
(`benchmarks/train_videoprism_decoders.py`), against first stages trained on them, too.
"""

from collections.abc import Callable, Mapping
from importlib import resources
from typing import TypeVar

import torch
from torch import Tensor

from fedemb.errors import NotAvailable
from model_zoo.videoprism.network import Distilled, DualShape, VideoText
from model_zoo.vld.public import public_captioner

Model = TypeVar("Model", bound=VideoText)

TAUGHT = {"outer": 32, "tokens": 64, "width": 16, "layers": 1, "heads": 2, "mlp": 32}
"""Sizes of the decoders that come with the zoo, of `DecoderShape`."""

_EYES = "captioner.visual.vit."
_START = 0
_LEVELS = 255.0 / 128.0  # their pixels are x / 128 - 1, ours x / 255


def seeing_video_text(shape: DualShape) -> VideoText:
    """A `VideoText` whose spatial half has seen public pictures.

    Raises:
        NotAvailable: if the shipped transformer has another shape.
    """
    return _with_eyes(_drawn(lambda: VideoText(shape)))


def seeing_distilled(shape: DualShape) -> Distilled:
    """The same for the second stage, which inherits all of it anyway.

    Raises:
        NotAvailable: if the shipped transformer has another shape.
    """
    return _with_eyes(_drawn(lambda: Distilled(shape)))


def taught_decoders() -> dict[str, Tensor]:
    """Decoders of the second stage that were trained on generated public clips.

    Made by `benchmarks/train_videoprism_decoders.py`.
    """
    from safetensors.torch import load

    file = resources.files("model_zoo.videoprism") / "decoders.safetensors"
    return {name: value.float() for name, value in load(file.read_bytes()).items()}


def spatial_half(captioner: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image transformer of a captioner's state by the names of our encoder.

    The same function of the same picture, but for the cap on attention logits and the
    epsilon of norms. The stacked matrices of query, key and value come apart, and
    patches are read colour by pixel rather than pixel by colour.
    """
    found: dict[str, Tensor] = {}
    for name, value in captioner.items():
        if not name.startswith(_EYES):
            continue
        own = name.removeprefix(_EYES)
        if own.startswith("norm."):
            found["spatial_" + own] = value
        elif ".attention.inward." in own:
            own = own.replace("blocks.", "spatial.", 1)
            for part, third in zip(
                ("query", "key", "value"), value.chunk(3), strict=True
            ):
                found[own.replace("inward", part)] = third
        elif own.startswith("blocks."):
            found[own.replace("blocks.", "spatial.", 1)] = value
    weight = captioner[_EYES + "patches.project.weight"]
    side = round((weight.shape[1] / 3) ** 0.5)
    pixels = weight.reshape(-1, 3, side, side).permute(0, 2, 3, 1).flatten(1)
    found["patches.weight"] = pixels * _LEVELS
    found["patches.bias"] = captioner[_EYES + "patches.project.bias"] - weight.sum(1)
    found["space"] = captioner[_EYES + "patches.place.weight"]
    return found


def _drawn(make: Callable[[], Model]) -> Model:
    """A model whose random initial values are the same in every run.

    What decoders have learned of the first stage would mean nothing to one that began
    elsewhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_START)
        return make()


def _with_eyes(model: Model) -> Model:
    if model.video.space.is_meta:
        return model
    own = model.video.state_dict()
    eyes = spatial_half(public_captioner())
    for name, value in eyes.items():
        if name not in own or own[name].shape != value.shape:
            raise NotAvailable(
                f"the shipped image transformer does not fit: {name} is "
                f"{tuple(value.shape)}. Use videoprism:tiny at its own width, or "
                "another configuration."
            )
    with torch.no_grad():
        model.video.load_state_dict(eyes, strict=False)
    return model
