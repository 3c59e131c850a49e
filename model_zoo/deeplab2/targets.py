"""What the network should say about a panoptic map: classes, centres, offsets, weights.

Cheng et al. (2020), arXiv:1911.10194. Instance 0 of a thing is a crowd: it has a class,
but neither centre nor offset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from model_zoo.deeplab2.categories import DIVISOR, Categories

_MOST_BINS = 2**24


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """How targets are drawn.

    Attributes:
        sigma: of the Gaussian at a centre, in pixels; patches are 6 sigma + 3 wide.
        small_area: instances of fewer pixels are small.
        small_weight: of their pixels in the semantic loss.

    Raises:
        UserError: if a number is not positive.
    """

    sigma: float = 8.0
    small_area: int = 4096
    small_weight: float = 3.0

    def __post_init__(self) -> None:
        for name in ("sigma", "small_weight"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be positive.")


@dataclass(frozen=True)
class Segments:
    """The segments of a few maps.

    Attributes:
        row: which map, `[S]`.
        value: `category * divisor + instance`, `[S]`.
        area: pixels, `[S]`.
        center: rounded mean (y, x), int `[S, 2]`.
        of_pixel: the segment of every pixel, `[n, H, W]`.
    """

    row: NDArray[np.int64]
    value: NDArray[np.int64]
    area: NDArray[np.int64]
    center: NDArray[np.int64]
    of_pixel: NDArray[np.int64]


def find_segments(maps: NDArray[np.integer]) -> Segments:
    """The segments of `[n, H, W]` maps, by map and then by value.

    Halves are rounded to even, as NumPy does.
    """
    n, height, width = maps.shape
    span = int(maps.max(initial=0)) + 1
    keys = maps.astype(np.int64) + span * np.arange(n)[:, None, None]
    counts = np.bincount(keys.ravel(), minlength=n * span)
    found = np.flatnonzero(counts)
    place = np.zeros(n * span, np.int64)
    place[found] = np.arange(len(found))
    of_pixel = place[keys]
    flat, area = of_pixel.ravel(), counts[found]
    y = np.broadcast_to(np.arange(height)[:, None], (n, height, width)).ravel()
    x = np.broadcast_to(np.arange(width), (n, height, width)).ravel()
    sums = [np.bincount(flat, axis, minlength=len(found)) for axis in (y, x)]
    center = np.rint(np.stack(sums, 1) / area[:, None]).astype(np.int64)
    return Segments(found // span, found % span, area, center, of_pixel)


def make_targets(
    maps: NDArray[np.integer],
    categories: Categories,
    spec: TargetSpec,
    *,
    instances: bool = True,
) -> dict[str, NDArray[np.generic]]:
    """Targets of `[n, H, W]` maps; a row depends on its own map alone.

    Args:
        maps: `category * 256 + instance`.
        categories: what the categories are.
        spec: how targets are drawn.
        instances: whether there are centres and offsets to predict.

    Returns:
        `semantic` int64 `[n, H, W]`: the class, -1 for void;
        `semantic_weight`: 0 for void, `small_weight` on small instances, else 1;
        `center`: heat-map, 1 at the rounded mean of every instance;
        `center_weight`: 0 for void and crowds, else 1;
        `offset` `[n, 2, H, W]`: centre minus pixel (y, x), 0 outside instances;
        `offset_weight`: 1 on instances, else 0. All float32 but the first. Without
        `instances` only the first two.
    """
    n = len(maps)
    most = max(1, _MOST_BINS // (int(maps.max(initial=0)) + 1))
    blocks = [
        _block(maps[start : start + most], categories, spec, instances)
        for start in range(0, max(n, 1), most)
    ]
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}


def _block(
    maps: NDArray[np.integer],
    categories: Categories,
    spec: TargetSpec,
    instances: bool,
) -> dict[str, NDArray[np.generic]]:
    found = find_segments(maps)
    category = found.value // DIVISOR
    void = category == 0
    thing = categories.is_thing[category]
    instance = thing & (found.value % DIVISOR > 0)
    weight = np.where(instance & (found.area < spec.small_area), spec.small_weight, 1.0)
    weight[void] = 0.0
    semantic: dict[str, NDArray[np.generic]] = {
        "semantic": (category - 1)[found.of_pixel],
        "semantic_weight": weight[found.of_pixel].astype(np.float32),
    }
    if not instances:
        return semantic
    height, width = maps.shape[1:]
    pixel = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    offset = found.center[found.of_pixel].transpose(0, 3, 1, 2) - pixel
    on_instance = instance[found.of_pixel]
    return semantic | {
        "center": _heat_map(found, instance, maps.shape, spec.sigma),
        "center_weight": (instance | ~(thing | void))[found.of_pixel].astype(
            np.float32
        ),
        "offset": (offset * on_instance[:, None]).astype(np.float32),
        "offset_weight": on_instance.astype(np.float32),
    }


def _heat_map(
    found: Segments, instance: NDArray[np.bool_], shape: tuple[int, ...], sigma: float
) -> NDArray[np.float32]:
    """The largest of the instances' Gaussians, at every pixel."""
    out = np.zeros(shape, np.float32)
    rows, centers = found.row[instance], found.center[instance]
    half = int(3 * sigma + 1)
    bells = []
    for axis, side in ((0, shape[1]), (1, shape[2])):
        distance = np.arange(side) - centers[:, axis, None]
        bell = np.exp(-(distance**2) / (2 * sigma**2)).astype(np.float32)
        bells.append(np.where(np.abs(distance) <= half, bell, 0))
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    for block in np.array_split(np.arange(len(starts)), -(-len(starts) // 256) or 1):
        if not len(block):
            continue
        first = starts[block[0]]
        last = starts[block[-1] + 1] if block[-1] + 1 < len(starts) else len(rows)
        drawn = bells[0][first:last, :, None] * bells[1][first:last, None, :]
        out[rows[starts[block]]] = np.maximum.reduceat(drawn, starts[block] - first)
    return out
