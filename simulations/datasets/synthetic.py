"""Procedural characters with a per-user hand: any number of users, rendered on demand.

A class is a handful of random strokes, shared by everybody. A user writes a few
classes, each a few times, with a hand of her own (slant, rotation, size, offset, pen)
and a wobble per drawing. Everything is a hash of (seed, user, drawing), so a million
users cost nothing until they are drawn, and a user's drawings never depend on who else
is asked for.

Rendering reads, for every pixel, the distance to the nearest stroke from a table made
once per class, at a place that the hand and the wobble displace; ink is where that
distance is below the width of the pen. That is one small matrix product and one gather
per image.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance, Source
from fedemb.errors import UserError
from simulations.datasets.counters import integers, mix_seed, signed
from simulations.datasets.generated import USERS
from simulations.datasets.registry import LoadOptions

SIDE = 28
TRAIN_CLASSES = 401  # prime: any stride visits distinct classes
HELD_OUT_CLASSES = 200
_FIELD = 56  # side of the distance fields that characters are read from
_WOBBLES = 256  # bank of smooth displacement fields
_BLOCK = 256  # images rendered at a time: the working set stays in cache
_HELD_OUT_USERS = np.uint64(1) << np.uint64(62)  # no training user is numbered so high

# How far a user's hand, and each of her drawings, depart from the printed character.
_HAND = {"angle": 0.15, "slant": 0.2, "size": 0.12, "shift": 1.0, "pen": 0.5}
_DRAWING = {"angle": 0.15, "slant": 0.2, "size": 0.15, "shift": 2.8, "pen": 0.2}
_PEN = 2.4  # half the width of a stroke, in field pixels


def load(options: LoadOptions) -> "SyntheticCharacters":
    """The data set for `--dataset synthetic`, of a million users by default."""
    return SyntheticCharacters(
        options.users or USERS,
        seed=options.seed,
        side=options.image_size or SIDE,
    )


@dataclass(frozen=True)
class SyntheticCharacters:
    """A `UserDataset` of grey characters.

    Fields: `image` uint8 `[n, side, side, 1]`, bright ink on black; `label` `[n]`.

    Attributes:
        num_users: number of training users.
        seed: of alphabet and hands.
        classes_per_user: different characters a user draws.
        drawings: how often she draws each.
        side: of the images, in pixels.

    Raises:
        UserError: a number below 1, or more classes a user than there are.

    Example:
        >>> data = SyntheticCharacters(1_000_000)
        >>> examples = data.fetch(np.array([5, 999_999]))
        >>> examples.fields["image"].shape, examples.offsets.tolist()
        ((32, 28, 28, 1), [0, 16, 32])
    """

    num_users: int
    seed: int = 0
    classes_per_user: int = 8
    drawings: int = 2
    side: int = SIDE

    def __post_init__(self) -> None:
        for name in ("num_users", "classes_per_user", "drawings", "side"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.classes_per_user > TRAIN_CLASSES:
            raise UserError(
                f"classes_per_user={self.classes_per_user} exceeds the alphabet of "
                f"{TRAIN_CLASSES} characters."
            )

    @property
    def num_classes(self) -> int:
        """Characters that training users draw from."""
        return TRAIN_CLASSES

    @property
    def class_names(self) -> list[str]:
        """`character 0`, ..."""
        return [f"character {i}" for i in range(TRAIN_CLASSES + HELD_OUT_CLASSES)]

    @cached_property
    def provenance(self) -> Provenance:
        """The source record; the checksum names the generator's parameters."""
        facts = (
            f"synthetic-2 {self.seed} {self.num_users} {self.classes_per_user} "
            f"{self.drawings} {self.side}"
        )
        return Provenance(
            name="synthetic",
            source=Source.SYNTHETIC,
            licence="CC0-1.0",
            checksum=hashlib.sha256(facts.encode()).hexdigest()[:16],
            description=(
                f"procedural characters by {self.num_users:,} users, "
                f"{self.classes_per_user} characters x {self.drawings} drawings each"
            ),
        )

    def user_id(self, index: int) -> str:
        """`user-7`, say."""
        return f"user-{index}"

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """The drawings of `users`, one group per user."""
        each = self.classes_per_user * self.drawings
        names = np.asarray(users, dtype=np.uint64)
        start = integers(self._hash(names, 1), TRAIN_CLASSES)
        stride = 1 + integers(self._hash(names, 2), TRAIN_CLASSES - 1)
        steps = np.arange(each) // self.drawings
        labels = ((start[:, None] + stride[:, None] * steps) % TRAIN_CLASSES).ravel()
        images = self._render(np.repeat(names, each), labels, each)
        offsets = np.arange(len(names) + 1, dtype=np.int64) * each
        return Examples({"image": images, "label": labels}, offsets)

    def held_out(self) -> Examples:
        """20 drawings of each of 200 unseen characters, every one by another hand."""
        labels = np.repeat(np.arange(HELD_OUT_CLASSES), 20) + TRAIN_CLASSES
        names = np.arange(len(labels), dtype=np.uint64) + _HELD_OUT_USERS
        images = self._render(names, labels, 1)
        rows = np.array([0, len(labels)], dtype=np.int64)
        return Examples({"image": images, "label": labels.astype(np.int64)}, rows)

    @cached_property
    def _fields(self) -> NDArray[np.float32]:
        return _distance_fields(self.seed, TRAIN_CLASSES + HELD_OUT_CLASSES)

    @cached_property
    def _wobbles(self) -> NDArray[np.float32]:
        return _wobble_bank(self.seed, self.side)

    def _hash(self, names: NDArray[np.uint64], purpose: int) -> NDArray[np.uint64]:
        return mix_seed(names, self.seed, purpose)

    def _render(
        self, names: NDArray[np.uint64], labels: NDArray[np.int64], each: int
    ) -> NDArray[np.uint8]:
        """Images uint8 `[n, side, side, 1]` of `labels` in the hands of `names`."""
        number = np.arange(len(names), dtype=np.uint64) % np.uint64(each)
        drawing = self._hash(names, 3) + number
        hand = [signed(self._hash(names, 10 + k)) for k in range(7)]
        jitter = [signed(self._hash(drawing, 30 + k)) for k in range(7)]
        transform = _transforms(hand, jitter, self.side)
        pen = _PEN + _HAND["pen"] * hand[6] + _DRAWING["pen"] * jitter[6]
        wobble = integers(self._hash(drawing, 50), _WOBBLES)
        out = np.empty((len(names), self.side * self.side), dtype=np.uint8)
        for start in range(0, len(names), _BLOCK):
            part = slice(start, start + _BLOCK)
            where = _places(transform[part], self._wobbles[wobble[part]], self.side)
            out[part] = _ink(self._fields, where, labels[part], pen[part])
        return out.reshape(-1, self.side, self.side, 1)


def _transforms(
    hand: list[NDArray[np.float64]], jitter: list[NDArray[np.float64]], side: int
) -> NDArray[np.float32]:
    """Pixel (x, y, 1) -> field coordinates, float32 `[n, 2, 3]`."""

    def both(name: str, index: int) -> NDArray[np.float64]:
        return _HAND[name] * hand[index] + _DRAWING[name] * jitter[index]

    angle, slant = both("angle", 0), both("slant", 1)
    width, height = 1 + both("size", 2), 1 + both("size", 3)
    shift_x, shift_y = both("shift", 4) * side / SIDE, both("shift", 5) * side / SIDE
    cos, sin = np.cos(angle), np.sin(angle)
    zoom = _FIELD / side
    matrix = np.empty((len(angle), 2, 3), dtype=np.float32)
    matrix[:, 0, 0] = zoom * (cos + slant * sin) / width
    matrix[:, 0, 1] = zoom * (slant * cos - sin) / width
    matrix[:, 1, 0] = zoom * sin / height
    matrix[:, 1, 1] = zoom * cos / height
    centre = (side - 1) / 2
    for row in (0, 1):
        matrix[:, row, 2] = (
            (_FIELD - 1) / 2
            - matrix[:, row, 0] * (centre + shift_x)
            - matrix[:, row, 1] * (centre + shift_y)
        )
    return matrix


def _places(
    transform: NDArray[np.float32], wobble: NDArray[np.float32], side: int
) -> NDArray[np.int32]:
    """Where in the field each pixel looks, int32 `[b, side * side]`."""
    y, x = np.mgrid[0:side, 0:side].reshape(2, -1).astype(np.float32)
    where = transform @ np.stack([x, y, np.ones_like(x)])  # [b, 2, side * side]
    where += wobble
    np.clip(where, 0, _FIELD - 1, out=where)
    where += 0.5
    cell = where.astype(np.int32)
    flat: NDArray[np.int32] = cell[:, 1] * np.int32(_FIELD)
    flat += cell[:, 0]
    return flat


def _ink(
    fields: NDArray[np.float32],
    where: NDArray[np.int32],
    labels: NDArray[np.int64],
    pen: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Ink uint8 `[b, side * side]`: bright where a stroke is nearer than the pen."""
    where += (labels * _FIELD * _FIELD).astype(np.int32)[:, None]
    ink = fields.reshape(-1)[where]
    np.subtract(pen.astype(np.float32)[:, None] + np.float32(0.5), ink, out=ink)
    ink *= 160.0
    np.clip(ink, 0, 255, out=ink)
    return np.asarray(ink.astype(np.uint8))


def _distance_fields(seed: int, classes: int) -> NDArray[np.float32]:
    """Distance to the nearest stroke, in field pixels, float32 `[classes, 56, 56]`."""
    from scipy.ndimage import distance_transform_edt

    out = np.empty((classes, _FIELD, _FIELD), dtype=np.float32)
    for label in range(classes):
        draw = np.random.default_rng([seed, 1, label])
        canvas = np.ones((_FIELD, _FIELD), dtype=bool)
        for _ in range(int(draw.integers(2, 5))):
            cells = _stroke(draw)
            canvas[cells[:, 1], cells[:, 0]] = False
        out[label] = distance_transform_edt(canvas)
    return out


def _stroke(draw: np.random.Generator) -> NDArray[np.int64]:
    """Field cells `[160, 2]` along a random quadratic curve."""
    ends = draw.uniform(0.18, 0.82, size=(3, 2)) * (_FIELD - 1)
    while np.linalg.norm(ends[2] - ends[0]) < 0.35 * _FIELD:
        ends = draw.uniform(0.14, 0.86, size=(3, 2)) * (_FIELD - 1)
    t = np.linspace(0, 1, 160)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    return np.asarray(np.rint(curve).astype(np.int64))


def _wobble_bank(seed: int, side: int) -> NDArray[np.float32]:
    """Smooth displacement fields, in field pixels, float32 `[256, 2, side * side]`."""
    draw = np.random.default_rng([seed, 2])
    position = np.mgrid[0:side, 0:side].reshape(2, -1) / side
    frequency = draw.uniform(0.4, 1.3, size=(_WOBBLES, 2, 2))
    phase = draw.uniform(0, 2 * np.pi, size=(_WOBBLES, 2, 1))
    waves = np.sin(2 * np.pi * frequency @ position + phase)
    return np.asarray((1.8 * waves).astype(np.float32))
