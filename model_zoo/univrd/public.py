"""Public towers and their vocabulary: shipped, and loaded at the start.

They stand in for CLIP's published weights, which come with no package. They were
aligned on pictures of the generated scenes, by users that no training population has,
and know which words mean the same; `benchmarks/align_univrd.py` makes them again. The
vocabulary belongs to the weights: with another one they would read nonsense.
"""

import json
from functools import cache
from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor

from fedemb.errors import NotAvailable
from model_zoo.text.tokenizer import BytePair, Tokenizer
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
    bare_phrases: bool = False,
    learned: bool = False,
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
        bare_phrases=bare_phrases,
        learned=learned,
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


@cache
def tokenizer() -> BytePair:
    """The vocabulary that the shipped towers were trained with, 1,024 pieces."""
    file = resources.files("model_zoo.univrd") / "vocabulary.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    merges = [(first, second) for first, second in record["merges"]]
    return BytePair(record["alphabet"], merges, with_bytes=True)
