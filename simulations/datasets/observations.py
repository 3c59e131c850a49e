"""Procedural observations of species by people: any number, or iNaturalist's stand-in.

The stand-in has the shape of the published iNaturalist-User-120k: 9,275 observers,
1,203 species seen by a long tail, 120,300 pictures. An observer lives in a region with
its own species and habitats, sees a few of them again and again, and has a camera with
its own colours. Every picture is a function of (seed, observer, number), and how many
an observer has, of the number of all.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance, Source
from simulations.datasets import species
from simulations.datasets.counters import integers, mix_seed, signed, uniform
from simulations.datasets.generated import USERS
from simulations.datasets.registry import LoadOptions

NUM_USERS = 9_275
NUM_CLASSES = 1_203
NUM_IMAGES = 120_300
HELD_OUT_CLASSES = 150
HELD_OUT_EACH = 20
_REGIONS = 30
_REGION_HABITATS = 6
_BLOCK = 128  # pictures rendered at a time: the working set stays in cache
_NOISES = 64
_OPAQUE = np.uint32(
    1 << 24
)  # packed pixels with alpha are at least this (little-endian)
_HELD_OUT_USERS = 1 << 40  # no training observer is numbered so high


def load(options: LoadOptions) -> "Observations":
    """The data set for `--dataset observations`, of a million users by default."""
    users, side = options.users or USERS, options.image_size or 32
    facts = f"observations-1 {options.seed} {side} {users}"
    source = Provenance(
        name=options.name,
        source=Source.SYNTHETIC,
        licence="CC0-1.0",
        checksum=hashlib.sha256(facts.encode()).hexdigest()[:16],
        description=(
            f"generated pictures of {NUM_CLASSES:,} made-up species by {users:,} "
            "made-up observers"
        ),
    )
    return Observations(source, options.seed, side, users)


@dataclass(frozen=True)
class Observations:
    """A `UserDataset` of colour pictures of made-up species.

    Fields: `image` uint8 `[n, side, side, 3]`; `label` int64 `[n]`. Held out are 20
    pictures, each by another observer, of each of 150 species unseen in training.

    Attributes:
        provenance: the source record; a stand-in's has the notice that it is one.
        seed: of species and observers.
        side: of the images, in pixels.
        num_users: observers, with 13 pictures each in the mean.

    Example:
        >>> source = stand_in_provenance("inaturalist", 0, 32, "no files")
        >>> data = Observations(source)
        >>> data.num_users, data.num_classes, data.fetch(np.array([3])).num_groups
        (9275, 1203, 1)
    """

    provenance: Provenance
    seed: int = 0
    side: int = 32
    num_users: int = NUM_USERS

    @property
    def num_classes(self) -> int:
        """Species that training observers see."""
        return NUM_CLASSES

    @property
    def class_names(self) -> list[str]:
        """`genus 3 species 2`, ..."""
        count = NUM_CLASSES + HELD_OUT_CLASSES
        return [f"genus {i // 5} species {i % 5}" for i in range(count)]

    def user_id(self, index: int) -> str:
        """`observer-7`, say."""
        return f"observer-{index}"

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """The pictures of `users`, one group per user."""
        users = np.asarray(users, dtype=np.int64)
        sizes = self._sizes[users]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        names = np.repeat(users.astype(np.uint64), sizes)
        number = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)).astype(
            np.uint64
        )
        labels = self._species_seen(names, number, np.repeat(sizes, sizes))
        images = self._render(names, number, labels)
        return Examples({"image": images, "label": labels}, offsets)

    def held_out(self) -> Examples:
        """Pictures of species that no training observer sees."""
        labels = np.repeat(np.arange(HELD_OUT_CLASSES), HELD_OUT_EACH) + NUM_CLASSES
        names = np.arange(len(labels), dtype=np.uint64) + np.uint64(_HELD_OUT_USERS)
        images = self._render(names, np.zeros_like(names), labels)
        rows = np.array([0, len(labels)], dtype=np.int64)
        return Examples({"image": images, "label": labels.astype(np.int64)}, rows)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Pictures per observer, int64 `[users]`: log-normal, at least 3."""
        draw = np.random.default_rng([self.seed, 1])
        weights = draw.lognormal(0.0, 0.9, self.num_users)
        extra = round((NUM_IMAGES / NUM_USERS - 3) * self.num_users)
        ends = np.rint(np.cumsum(weights) / weights.sum() * extra)
        return np.asarray(3 + np.diff(ends, prepend=0), dtype=np.int64)

    @cached_property
    def _region_shares(self) -> NDArray[np.float64]:
        """Cumulative shares of the species in each region, `[regions, species]`."""
        draw = np.random.default_rng([self.seed, 2])
        popularity = draw.permutation(1.0 / (np.arange(NUM_CLASSES) + 40.0))
        lives = draw.random((_REGIONS, NUM_CLASSES)) < 0.12
        lives[np.arange(NUM_CLASSES) % _REGIONS, np.arange(NUM_CLASSES)] = True
        shares = np.cumsum(lives * popularity, axis=1)
        return np.asarray(shares / shares[:, -1:])

    @cached_property
    def _atlas(self) -> NDArray[np.uint32]:
        return species.species_atlas(self.seed, NUM_CLASSES + HELD_OUT_CLASSES)

    @cached_property
    def _habitats(self) -> NDArray[np.uint32]:
        return species.habitats(self.seed)

    @cached_property
    def _noises(self) -> NDArray[np.float32]:
        draw = np.random.default_rng([self.seed, 3])
        shape = (_NOISES, self.side * self.side * 3)
        return draw.normal(0, 9.0, shape).astype(np.float32)

    def _hash(self, names: NDArray[np.uint64], purpose: int) -> NDArray[np.uint64]:
        return mix_seed(names, self.seed, 100 + purpose)

    def _species_seen(
        self,
        names: NDArray[np.uint64],
        number: NDArray[np.uint64],
        sizes: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Species in each picture: drawn from the observer's own short list."""
        listed = np.maximum(2, np.rint(sizes / 2.5))
        taste = uniform(self._hash(self._hash(names, 1) + number, 2))
        entry = np.floor(listed * taste**1.3).astype(np.uint64)
        luck = uniform(self._hash(self._hash(names, 3) + entry, 4))
        region = integers(self._hash(names, 5), _REGIONS)
        place = (self._region_shares + np.arange(_REGIONS)[:, None]).reshape(-1)
        found = np.searchsorted(place, luck + region, side="right")
        inside = np.minimum(found - region * NUM_CLASSES, NUM_CLASSES - 1)
        return np.asarray(inside, dtype=np.int64)

    def _render(
        self,
        names: NDArray[np.uint64],
        number: NDArray[np.uint64],
        labels: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Pictures uint8 `[n, side, side, 3]`."""
        own = self._hash(self._hash(names, 6) + number, 7)  # one word per picture
        region = integers(self._hash(names, 5), _REGIONS)
        choice = integers(self._hash(own, 8), _REGION_HABITATS)
        habitat = (region * _REGION_HABITATS + choice) * 7 % species.NUM_HABITATS
        corner = integers(self._hash(own, 9), species.HABITAT**2)
        pose = _poses(
            [signed(self._hash(own, 20 + k)) for k in range(7)],
            signed(self._hash(names, 30)),
            self.side,
        )
        gain, offset = self._camera(names, own)
        noise = integers(self._hash(own, 10), _NOISES)
        pixels = self.side * self.side
        out = np.empty((len(names), pixels, 3), dtype=np.uint8)
        for start in range(0, len(names), _BLOCK):
            part = slice(start, start + _BLOCK)
            scene = self._compose(labels[part], pose[part], habitat[part], corner[part])
            grain = self._noises[noise[part]]
            for channel in range(3):
                seen = scene[:, :, channel] * gain[part, channel, None]
                seen += offset[part, channel, None]
                seen += grain[:, channel * pixels : (channel + 1) * pixels]
                out[part, :, channel] = np.clip(seen, 0, 255, out=seen)
        return out.reshape(-1, self.side, self.side, 3)

    def _compose(
        self,
        labels: NDArray[np.int64],
        pose: NDArray[np.float32],
        habitat: NDArray[np.int64],
        corner: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Animal on background, RGBX uint8 `[b, side * side, 4]`."""
        side, size = self.side, species.ATLAS
        y, x = np.mgrid[0:side, 0:side].reshape(2, -1)
        grid = np.stack([x, y, np.ones_like(x)]).astype(np.float32)
        where = pose @ grid  # [b, 2, side * side]
        np.clip(where, 0, size - 1, out=where)  # the border of the atlas is empty
        cell = where.astype(np.int32)
        flat = cell[:, 1] * np.int32(size)
        flat += cell[:, 0]
        flat += (labels * size * size).astype(np.int32)[:, None]
        scene = self._atlas.reshape(-1)[flat]
        tile = species.HABITAT
        step = max(1, tile // side)
        start = corner.astype(np.int32)[:, None]
        axis = np.arange(side, dtype=np.int32) * np.int32(step)
        column = (start % tile + axis) % tile
        row = (start // tile + axis) % tile + habitat.astype(np.int32)[:, None] * tile
        place = (row * tile)[:, :, None] + column[:, None, :]
        ground = self._habitats.reshape(-1)[place.reshape(len(labels), -1)]
        mixed = np.where(scene >= _OPAQUE, scene, ground)
        return np.asarray(mixed.view(np.uint8).reshape(len(labels), -1, 4))

    def _camera(
        self, names: NDArray[np.uint64], own: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """White balance with exposure, and haze: gain and offset, float32 `[n, 3]`."""
        balance = np.stack([signed(self._hash(names, 31 + k)) for k in range(3)], 1)
        exposure = 0.2 * signed(self._hash(names, 34))
        exposure = exposure + 0.15 * signed(self._hash(own, 35))
        haze = 20.0 * uniform(self._hash(names, 36))
        gain = (1 + 0.1 * balance) * (1 + exposure)[:, None] * (1 - haze / 255)[:, None]
        return gain.astype(np.float32), np.repeat(haze[:, None], 3, 1).astype(
            np.float32
        )


def _poses(
    own: list[NDArray[np.float64]], reach: NDArray[np.float64], side: int
) -> NDArray[np.float32]:
    """Pixel (x, y, 1) -> atlas coordinates, float32 `[n, 2, 3]`.

    Own to the picture: turn, mirror, size, shear, place; `reach` is the user's lens.
    """
    turn = 0.5 * own[0]
    mirror = np.where(own[1] < 0, -1.0, 1.0)
    size = 1.3 + 0.15 * own[2] + 0.15 * reach
    shear = 0.2 * own[3]
    zoom = species.ATLAS / side / size
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.empty((len(turn), 2, 3), dtype=np.float32)
    matrix[:, 0, 0] = zoom * mirror * (cos + shear * sin)
    matrix[:, 0, 1] = zoom * mirror * (shear * cos - sin)
    matrix[:, 1, 0] = zoom * sin
    matrix[:, 1, 1] = zoom * cos
    x = (side - 1) / 2 + 0.08 * side * own[4]
    y = (side - 1) / 2 + 0.08 * side * own[5]
    for row in (0, 1):
        centre = (species.ATLAS - 1) / 2 + 0.5
        matrix[:, row, 2] = centre - matrix[:, row, 0] * x - matrix[:, row, 1] * y
    return matrix


def stand_in_provenance(name: str, seed: int, side: int, missing: str) -> Provenance:
    """The source record of the stand-in; `missing` says what was looked for."""
    facts = f"observations-1 {seed} {side}"
    return Provenance(
        name=name,
        source=Source.STAND_IN,
        licence="CC0-1.0",
        checksum=hashlib.sha256(facts.encode()).hexdigest()[:16],
        description=(
            f"STAND-IN: generated pictures with the shape of iNaturalist-User-120k, "
            f"{NUM_USERS:,} users, {NUM_CLASSES:,} classes, {NUM_IMAGES:,} images"
        ),
        notices=(
            "STAND-IN DATA: these pictures are generated, not iNaturalist's, and no "
            f"figure from them says anything about iNaturalist. {missing} "
            "Use --require-real to refuse stand-ins.",
            f"The held-out set is {HELD_OUT_CLASSES} generated species unseen in "
            "training; the published test split shares its classes with training.",
        ),
    )
