"""Near-duplicates by perceptual hash, and how much each picture should count.

Duplicates are looked for inside one group of rows at a time: a virtual client compares
its own pictures, and nothing crosses virtual clients.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fedemb.errors import UserError
from model_zoo.imagen3.checks import images_of

_SIDE, _KEPT = 32, 8
BITS = _KEPT * _KEPT - 1
"""Length of a hash."""


def hashes(images: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Signs of the lowest frequencies about their median, bool `[n, 63]`.

    The pHash of Zauner (2010): grey levels at 32 x 32, the 8 x 8 lowest coefficients
    of a cosine transform, without the mean.

    Args:
        images: `[n, H, W, C]`, of any range.

    Raises:
        UserError: for another number of axes.
    """
    grey = images_of(images).mean(-1)
    if len(grey) == 0:
        return np.zeros((0, BITS), np.bool_)
    rows = _areas(grey.shape[1])
    columns = _areas(grey.shape[2])
    small = rows @ grey @ columns.T
    waves = dctn(small, axes=(1, 2), norm="ortho")[:, :_KEPT, :_KEPT]
    flat = waves.reshape(len(images), -1)[:, 1:]
    flat = np.where(np.abs(flat) < 1e-9, 0.0, flat)
    found: NDArray[np.bool_] = flat > np.median(flat, axis=1, keepdims=True)
    return found


def clusters(found: NDArray[np.bool_], distance: int = 6) -> NDArray[np.int64]:
    """Cluster of every row `[n]`: rows at most so many bits apart belong together.

    Raises:
        UserError: for a negative distance.

    Example:
        >>> a, b = np.zeros((1, 63), bool), np.ones((1, 63), bool)
        >>> clusters(np.concatenate([a, b, a])).tolist()
        [0, 1, 0]
    """
    if distance < 0:
        raise UserError(f"distance={distance} must be 0 bits or more.")
    if len(found) == 0:
        return np.zeros(0, np.int64)
    signs = np.where(found, 1.0, -1.0)
    near = (signs.shape[1] - signs @ signs.T) / 2 <= distance
    if np.count_nonzero(near) == len(found):  # every row is near itself alone
        return np.arange(len(found))
    labels: NDArray[np.integer] = connected_components(coo_array(near), directed=False)[
        1
    ]
    return labels.astype(np.int64)


def weights(images: NDArray[np.generic], distance: int = 6) -> NDArray[np.float32]:
    """1 / size of its cluster, float32 `[n]`: near-duplicates share one vote.

    Example:
        >>> picture = np.random.default_rng(0).random((1, 32, 32, 3))
        >>> other = np.random.default_rng(1).random((1, 32, 32, 3))
        >>> weights(np.concatenate([picture, other, picture])).tolist()
        [0.5, 1.0, 0.5]
    """
    return votes(hashes(images), distance)


def votes(found: NDArray[np.bool_], distance: int = 6) -> NDArray[np.float32]:
    """1 / size of its cluster, float32 `[n]`, of rows with these hashes."""
    which = clusters(found, distance)
    return (1 / np.bincount(which)[which]).astype(np.float32)


def _areas(side: int) -> NDArray[np.float64]:
    """Averages `side` pixels down to 32 by area (or repeats them), `[32, side]`."""
    edges = np.linspace(0, side, _SIDE + 1)
    low = np.maximum(edges[:-1, None], np.arange(side))
    high = np.minimum(edges[1:, None], np.arange(side) + 1)
    shares = (high - low).clip(min=0)
    matrix: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
    return matrix
