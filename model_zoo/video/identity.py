"""The published task on clips: an embedding learned by telling classes apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.identity import IdentityTask, labels_of
from fedemb.protocols import Batch
from model_zoo.video.encoder import clip_pixels


@dataclass(frozen=True, kw_only=True)
class ClipIdentityTask(IdentityTask):
    """An `IdentityTask` whose backbone reads clips `[B, 3, T, H, W]`."""

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Pixels x / 128 - 1 of the field `clip`, and labels."""
        del seeds  # nothing here is random
        labels = labels_of(examples)
        return {"image": clip_pixels(examples.fields["clip"]), "label": labels}
