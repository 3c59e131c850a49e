"""Random flips, scales and crops of pictures with their maps.

As published: scales 0.5 to 2.0 in steps of 0.1, crops of the picture's own size, flips.
Every group of rows has a random generator of its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """What may happen to a picture while training.

    Attributes:
        flip: mirror half of them.
        scales: smallest and largest scale, in steps of 0.1; (1, 1) does not scale.

    Raises:
        UserError: unless 0 < smallest <= largest.
    """

    flip: bool = False
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise UserError(f"scales={self.scales} must be positive and ascending.")

    @property
    def active(self) -> bool:
        """Whether anything can happen."""
        return self.flip or self.scales != (1.0, 1.0)


def augment(
    images: NDArray[np.generic],
    maps: NDArray[np.integer],
    offsets: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    spec: AugmentSpec,
) -> tuple[NDArray[np.generic], NDArray[np.integer]]:
    """Pictures `[n, H, W, C]` and maps `[n, H, W]`, row by row.

    What a smaller picture leaves free is void and the picture's mean colour. Scaling
    takes nearest neighbours, for pictures and maps alike.
    """
    images, maps = images.copy(), maps.copy()
    for group, seed in enumerate(seeds):
        draw = np.random.Generator(np.random.Philox([int(seed), 2]))
        for row in range(int(offsets[group]), int(offsets[group + 1])):
            images[row], maps[row] = _one(images[row], maps[row], draw, spec)
    return images, maps


def _one(
    image: NDArray[np.generic],
    panoptic: NDArray[np.integer],
    draw: np.random.Generator,
    spec: AugmentSpec,
) -> tuple[NDArray[np.generic], NDArray[np.integer]]:
    low, high = spec.scales
    scale = low + 0.1 * draw.integers(0, round(10 * (high - low)) + 1)
    places, inside = [], []
    for side in panoptic.shape:
        scaled = max(1, round(side * scale))
        shift = draw.integers(min(0, side - scaled), max(0, side - scaled) + 1)
        place = np.floor((np.arange(side) - shift + 0.5) * side / scaled).astype(int)
        inside.append((place >= 0) & (place < side))
        places.append(np.clip(place, 0, side - 1))
    if spec.flip and draw.random() < 0.5:
        places[1], inside[1] = places[1][::-1], inside[1][::-1]
    cut = np.ix_(*places)
    kept = np.outer(*inside)
    mean = image.mean(axis=(0, 1), dtype=np.float64).astype(image.dtype)
    return (
        np.where(kept[..., None], image[cut], mean),
        np.where(kept, panoptic[cut], 0),
    )
