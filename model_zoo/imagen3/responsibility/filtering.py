"""What a virtual client trains on: its own pictures, filtered and de-duplicated."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo.imagen3.responsibility.duplicates import hashes, votes
from model_zoo.imagen3.responsibility.text_safety import personal, violations

FLAG = "generated"
"""Optional field: true for pictures that a detector takes for generated ones."""


def row_weights(examples: Examples) -> NDArray[np.float32]:
    """How much each row counts, float32 `[n]`, from its own group alone.

    0 where the caption is unsafe or tells who somebody is, or the picture is flagged as
    generated; otherwise 1 / size of its cluster of near-duplicates in the group.

    Raises:
        UserError: for rows with neither pictures nor clips.
    """
    images = examples.fields.get("image")
    if images is None:
        if "clip" not in examples.fields:
            raise UserError(
                f"rows with the fields {', '.join(examples.fields)} have neither "
                "'image' nor 'clip', whose near-duplicates are looked for."
            )
        clips = examples.fields["clip"]
        images = clips[:, clips.shape[1] // 2]
    found, looks = np.ones(len(examples), np.float32), hashes(images)
    for start, end in zip(examples.offsets, examples.offsets[1:], strict=False):
        found[start:end] = votes(looks[start:end])
    if "caption" in examples.fields:
        captions = cast(NDArray[np.str_], examples.fields["caption"])
        distinct, which = np.unique(captions, return_inverse=True)
        fine = [not (violations(str(t)) or personal(str(t))) for t in distinct]
        found *= np.array(fine, np.float32)[which]
    if FLAG in examples.fields:
        found *= ~examples.fields[FLAG].astype(np.bool_)
    return found
