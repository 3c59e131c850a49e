"""The public image-language model that adaptation starts from.

It stands in for PaLI-3, whose weights come with no package.
`benchmarks/pretrain_vld.py` made it from generated *still* pictures with captions that
hold no verbs, and from public texts with some words left out, as language models are
trained: it knows what moving is called and has never seen it. Its users are numbered
beyond any population.
"""

from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor

from fedemb.errors import NotAvailable
from model_zoo.vld.network import Sizes, VideoLanguage


def make_backbone(sizes: Sizes, *, public: bool) -> VideoLanguage:
    """A new backbone, with the public captioner if it is asked for.

    Raises:
        NotAvailable: if no captioner of these sizes is shipped.
    """
    model = VideoLanguage(sizes)
    if public and not model.to_shared.weight.is_meta:
        load_public(model)
    return model


def load_public(model: VideoLanguage) -> None:
    """Put the shipped captioner into a backbone.

    Raises:
        NotAvailable: if it has another shape.
    """
    own = model.state_dict()
    state = public_captioner()
    for name, value in state.items():
        if name not in own or own[name].shape != value.shape:
            clip = " x ".join(map(str, model.sizes.clip))
            raise NotAvailable(
                f"the shipped captioner does not fit clips of {clip}: {name} is "
                f"{tuple(value.shape)} in it. It sees clips of 8 x 32 x 32 (--frames 8 "
                "--image-size 32); video_language_distillation:small starts at random "
                "and sees others."
            )
    model.load_state_dict(state, strict=False)


def public_captioner() -> dict[str, Tensor]:
    """The shipped captioner, float32, by its names in the backbone."""
    file = resources.files("model_zoo.vld") / "captioner.safetensors"
    return {name: x.to(torch.float32) for name, x in load(file.read_bytes()).items()}
