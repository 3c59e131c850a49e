"""Public towers: aligned on generated captions, shipped, and loaded at the start.

They stand in for CLIP's published weights, which come with no package. Pictures and
captions are of the generated scenes, by users that no training population has;
`benchmarks/align_univrd.py` makes them again.
"""

from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor

from fedemb.errors import NotAvailable
from model_zoo.text.tokenizer import Tokenizer
from model_zoo.univrd.backbone import UniVRD
from model_zoo.univrd.phrases import LabelSpace
from model_zoo.univrd.towers import DualShape, resized_positions

_POSITIONS = "image.positions"


def make_backbone(
    shape: DualShape,
    space: LabelSpace,
    tokenizer: Tokenizer,
    templates: tuple[str, ...],
    *,
    queries: int,
    decoder_layers: int,
    public: bool,
) -> UniVRD:
    """A new backbone, with the public towers if they are asked for.

    Raises:
        NotAvailable: if no public towers of that shape are shipped.
    """
    model = UniVRD(
        shape,
        space,
        tokenizer,
        templates,
        queries=queries,
        decoder_layers=decoder_layers,
    )
    if public and not model.text.token.weight.is_meta:
        load_public(model, shape.grid)
    return model


def load_public(model: UniVRD, grid: int) -> None:
    """Put the shipped towers into a backbone; positions are resized to its grid.

    Raises:
        NotAvailable: if they have another shape.
    """
    state = public_towers()
    state[_POSITIONS] = resized_positions(state[_POSITIONS], grid)
    own = model.state_dict()
    for name, value in state.items():
        if name not in own or own[name].shape != value.shape:
            raise NotAvailable(
                f"the shipped towers do not fit: {name} is {tuple(value.shape)}. Use "
                "univrd:tiny with its own sizes, or --pretrained with towers of yours."
            )
    model.load_state_dict(state, strict=False)


def public_towers() -> dict[str, Tensor]:
    """The shipped towers, float32, by their names in the backbone."""
    file = resources.files("model_zoo.univrd") / "towers.safetensors"
    return {name: x.to(torch.float32) for name, x in load(file.read_bytes()).items()}
