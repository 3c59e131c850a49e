"""Omniglot as a packed archive: one bit per pixel, with alphabet, character and drawer.

Lake, Salakhutdinov and Tenenbaum (2015), "Human-level concept learning through
probabilistic program induction". A class is a character of an alphabet, a user is one
drawer of one alphabet, and the alphabets of the evaluation set are held out.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

PACKED = ("ink_packed", "alphabet", "character", "drawer", "evaluation_split")
_SIDE, _BLOCK = 105, 3


def is_packed(members: list[str]) -> bool:
    """Whether an archive with these arrays is in the packed form."""
    return "images" not in members and set(PACKED) <= set(members)


def unpacked(
    arrays: Mapping[str, NDArray[np.generic]], name: str
) -> dict[str, NDArray[np.generic]]:
    """`images` uint8 `[n, 35, 35]` (ink is 255), `labels`, `users` and `split`.

    The drawings of 105 x 105 pixels are averaged over blocks of 3 x 3.

    Raises:
        UserError: if the bits are not those of such drawings.
    """
    bits, needed = arrays["ink_packed"], -(-_SIDE * _SIDE // 8)
    if bits.ndim != 2 or bits.dtype != np.uint8 or bits.shape[1] != needed:
        raise UserError(
            f"{name}: ink_packed is {bits.dtype} of shape {bits.shape}; packed "
            f"drawings are uint8 of shape [n, {needed}]."
        )
    ink = np.unpackbits(bits.astype(np.uint8), axis=1)[:, : _SIDE * _SIDE]
    small = _SIDE // _BLOCK
    blocks = ink.reshape(-1, small, _BLOCK, small, _BLOCK)
    counts = blocks.sum((2, 4), dtype=np.uint16)
    alphabet = arrays["alphabet"].astype(np.int64) * 1000
    return {
        "images": (counts * 255 // _BLOCK**2).astype(np.uint8),
        "labels": alphabet + arrays["character"].astype(np.int64),
        "users": alphabet + arrays["drawer"].astype(np.int64),
        "split": np.where(arrays["evaluation_split"].astype(bool), "test", "train"),
    }
