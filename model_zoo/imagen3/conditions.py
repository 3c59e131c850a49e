"""From captions or labels to what a denoiser is told, with "nothing" among it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.protocols import Batch
from model_zoo.imagen3.condition import Condition
from model_zoo.imagen3.public import PublicShape, Texts, public_models


def text_fields(texts: Texts, kept: NDArray[np.bool_], empty: Texts) -> Batch:
    """`tokens`, `seen` and `pooled` of texts; those not `kept` `[n]` become empty."""
    keep = torch.from_numpy(kept)
    return {
        "tokens": torch.where(keep[:, None, None], texts.tokens, empty.tokens),
        "seen": torch.where(keep[:, None], texts.seen, empty.seen),
        "pooled": pooled(torch.where(keep[:, None], texts.vector, empty.vector)),
    }


def only(texts: Texts, empty: Texts, ways: Sequence[str]) -> Texts:
    """Texts of which only `tokens`, only the `pooled` vector or neither is told.

    The rest is that of the empty text, which stands for no text.
    """
    rows = len(texts.vector)
    tokens, seen, vector = (
        value.expand(rows, *value.shape[1:])
        for value in (empty.tokens, empty.seen, empty.vector)
    )
    if "tokens" in ways:
        tokens, seen = texts.tokens, texts.seen
    return Texts(tokens, seen, texts.vector if "pooled" in ways else vector)


def text_condition(texts: Texts, device: torch.device) -> Condition:
    """What texts tell a denoiser on `device`."""
    told = texts.tokens, texts.seen, pooled(texts.vector)
    return Condition(*(value.to(device) for value in told))


def nothing(empty: Texts, rows: int, like: Tensor) -> Condition:
    """The empty text for `rows` rows, in the type and place of `like`."""
    told = empty.tokens, empty.seen, pooled(empty.vector)
    return Condition(*(x.to(like).expand(rows, *x.shape[1:]) for x in told))


def no_label(classes: int, rows: int, like: Tensor) -> Condition:
    """No label for `rows` rows."""
    return Condition(label=torch.full((rows,), classes, device=like.device))


@cache
def empty_text(shape: PublicShape, weights: Path | None) -> Texts:
    """The empty text `[1, ...]`, which stands for no text."""
    with torch.no_grad():
        return public_models(shape, weights).words([""])


def pooled(vectors: Tensor) -> Tensor:
    """Unit-length vectors with entries of about unit size, as a denoiser likes them."""
    scaled: Tensor = vectors * vectors.shape[-1] ** 0.5
    return scaled
