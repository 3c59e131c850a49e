"""Pictures of species that never lived: shapes, coats and habitats, made once.

A species is an outline (a few harmonics around an ellipse), a coat (stripes, spots or
rings in two colours) and a mark. Species of one genus share the outline and the kind of
coat and differ in proportions, colours and rhythm, so telling them apart takes more
than colour. Everything is drawn once, into one table that pictures are read from.
"""

import numpy as np
from numpy.typing import NDArray

ATLAS = 48  # side of a species' picture in the table
HABITAT = 64  # side of a habitat's picture
NUM_HABITATS = 96
_GENUS_SIZE = 5
_CHUNK = 64  # species drawn at a time
_GROUNDS = np.array(  # leaves, moss, soil, sand, bark, rock, water, sky, snow, straw
    [
        (60, 110, 40),
        (95, 125, 60),
        (105, 75, 50),
        (195, 170, 125),
        (80, 65, 55),
        (125, 125, 120),
        (60, 95, 120),
        (150, 185, 215),
        (215, 220, 225),
        (185, 165, 90),
    ],
    dtype=np.float64,
)


def species_atlas(seed: int, species: int) -> NDArray[np.uint32]:
    """Species, packed RGBA, uint32 `[species, 48, 48]`; alpha is 255 on the body.

    Species g * 5 .. g * 5 + 4 form a genus.
    """
    axis = np.linspace(-1, 1, ATLAS, dtype=np.float32)
    y, x = (a.reshape(-1) for a in np.meshgrid(axis, axis, indexing="ij"))
    out = np.empty((species, ATLAS * ATLAS, 4), dtype=np.uint8)
    for start in range(0, species, _CHUNK):
        ids = np.arange(start, min(start + _CHUNK, species))
        traits = np.stack([_traits(seed, int(i)) for i in ids]).astype(np.float32)
        out[ids] = _draw(traits[:, :, None], x, y)
    return out.view(np.uint32).reshape(species, ATLAS, ATLAS)


def _traits(seed: int, species: int) -> NDArray[np.float64]:
    """28 numbers that describe a species, uniform on [-1, 1]; mostly its genus's."""
    genus = np.random.default_rng([seed, 11, species // _GENUS_SIZE]).uniform(-1, 1, 28)
    own = np.random.default_rng([seed, 12, species]).uniform(-1, 1, 28)
    share = np.full(28, 0.35)  # of the species' own; the rest is the genus's
    share[20] = 0.0  # kind of coat
    share[13:20] = 0.7  # colours and rhythm
    return np.asarray(np.clip((1 - share) * genus + share * own, -1, 1))


def _draw(
    t: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """RGBA uint8 `[s, 48 * 48, 4]` of traits `[s, 28, 1]`."""
    aspect = np.exp(0.45 * t[:, 0])
    u, v = x / aspect, y * aspect
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    edge = np.full_like(radius, 0.58)
    for k in range(1, 6):  # lobes, fewer and stronger first
        size = 0.22 * t[:, k] / np.sqrt(k)
        edge += size * np.cos((k + 1) * angle + np.pi * t[:, 5 + k])
    body = radius < edge
    turn = np.pi * t[:, 11]
    along = u * np.cos(turn) + v * np.sin(turn)
    across = v * np.cos(turn) - u * np.sin(turn)
    rhythm = 9.0 + 5.0 * t[:, 19]
    kind = t[:, 20]
    stripes = np.sin(rhythm * along + 2.0 * np.sin(3.0 * across))
    spots = np.sin(rhythm * along) * np.sin(rhythm * across) * 1.6
    rings = np.sin(rhythm * 1.3 * radius + 2.0 * t[:, 12])
    coat = np.where(kind < -0.33, stripes, np.where(kind < 0.33, spots, rings))
    share = np.clip(0.5 + 2.5 * (coat + 0.4 * t[:, 21]), 0, 1)
    mark = np.hypot(u - 0.35 * t[:, 22], v - 0.35 * t[:, 23]) < 0.14
    light = np.clip(1.15 - 0.5 * (radius / np.maximum(edge, 0.05)) ** 2, 0.4, 1.2)
    out = np.empty((*radius.shape, 4), dtype=np.uint8)
    for channel in range(3):
        first = 128 + 110 * t[:, 13 + channel]
        second = 128 + 110 * t[:, 16 + channel]
        paint = first + (second - first) * share
        paint = np.where(mark, 255 - first, paint) * light
        out[..., channel] = np.clip(paint, 0, 255)
    out[..., 3] = np.where(body, 255, 0)
    return out


def habitats(seed: int) -> NDArray[np.uint32]:
    """Backgrounds, packed RGBX, uint32 `[96, 64, 64]`, that tile without a seam."""
    draw = np.random.default_rng([seed, 13])
    frequency = np.fft.fftfreq(HABITAT)
    distance = np.hypot(*np.meshgrid(frequency, frequency)) + 1 / HABITAT
    out = np.zeros((NUM_HABITATS, HABITAT, HABITAT, 4), dtype=np.uint8)
    for index in range(NUM_HABITATS):
        roughness = draw.uniform(0.8, 2.0)
        noise = np.fft.fft2(draw.normal(size=(HABITAT, HABITAT)))
        field = np.fft.ifft2(noise / distance**roughness).real
        share = 0.5 + 0.5 * np.tanh(field / field.std())
        ground, growth = _GROUNDS[draw.integers(0, len(_GROUNDS), 2)]
        ground, growth = draw.normal(0, 18, (2, 3)) + (ground, growth)
        mixed = ground + (growth - ground) * share[..., None]
        out[index, ..., :3] = np.clip(mixed, 0, 255)
    return out.view(np.uint32).reshape(NUM_HABITATS, HABITAT, HABITAT)
