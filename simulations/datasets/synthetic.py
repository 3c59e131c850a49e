"""Procedural characters with a per-user hand: any number of users, rendered on demand.

A class is a handful of random strokes, shared by everybody. A user writes a few classes,
each a few times, with a style of her own (slant, rotation, size, offset, pen width) and
a little wobble per drawing. Everything is a hash of (seed, user, drawing), so a million
users cost nothing until they are drawn, and a user's drawings never depend on who else
is asked for.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance, Source
from fedemb.errors import UserError
from fedemb.permutation import mix64

SIDE = 28
TRAIN_CLASSES = 401  # prime: any stride visits distinct classes
HELD_OUT_CLASSES = 200
_FIELD = 56  # side of the distance fields that characters are read from
_WOBBLES = 256  # bank of smooth displacement fields
_BLOCK = 256  # images rendered at a time: the working set stays in cache
_HELD_OUT_USERS = np.uint64(1) << np.uint64(62)  # no training user is numbered so high


@dataclass(frozen=True)
class SyntheticCharacters:
    """A `UserDataset` of 28 x 28 grey characters.

    Attributes:
        num_users: number of training users.
        seed: of alphabet and hands.
        classes_per_user: different characters a user draws.
        drawings: how often she draws each.

    Example:
        >>> data = SyntheticCharacters(1_000_000)
        >>> examples = data.fetch(np.array([5, 999_999]))
        >>> examples.fields["image"].shape, examples.offsets.tolist()
        ((32, 28, 28, 1), [0, 16, 32])
    """

    num_users: int = 10_000
    seed: int = 0
    classes_per_user: int = 8
    drawings: int = 2

    def __post_init__(self) -> None:
        if self.num_users < 1:
            raise UserError(f"users={self.num_users} must be at least 1.")

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
        facts = f"{self.seed} {self.num_users} {self.classes_per_user} {self.drawings}"
        return Provenance(
            name="synthetic",
            source=Source.SYNTHETIC,
            licence="CC0-1.0",
            checksum=hashlib.sha256(f"synthetic-1 {facts}".encode()).hexdigest()[:16],
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
        start = _integers(self._hash(names, 1), TRAIN_CLASSES)
        stride = 1 + _integers(self._hash(names, 2), TRAIN_CLASSES - 1)
        steps = np.arange(each) // self.drawings
        labels = (start[:, None] + stride[:, None] * steps) % TRAIN_CLASSES
        images = self._render(np.repeat(names, each), labels.reshape(-1), each)
        offsets = np.arange(len(names) + 1, dtype=np.int64) * each
        return Examples({"image": images, "label": labels.reshape(-1)}, offsets)

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
        return _wobble_bank(self.seed)

    def _hash(self, names: NDArray[np.uint64], purpose: int) -> NDArray[np.uint64]:
        salt = np.uint64((self.seed * 1_000_003 + purpose) % 2**63)
        return mix64(mix64(names ^ mix64(np.array([salt]))[0]) + np.uint64(purpose))

    def _render(
        self, names: NDArray[np.uint64], labels: NDArray[np.int64], each: int
    ) -> NDArray[np.uint8]:
        """Images uint8 `[n, 28, 28, 1]` of `labels` in the hands of `names`."""
        drawing = np.arange(len(names), dtype=np.uint64) % np.uint64(each)
        single = mix64(names) + drawing
        style = [_uniform(self._hash(names, 10 + k)) for k in range(7)]
        wobble = [_uniform(self._hash(single, 30 + k)) for k in range(7)]
        transform = _transforms(style, wobble)
        pen = 1.1 + 1.6 * style[6] + 0.4 * wobble[5]
        bank = _integers(self._hash(single, 50), _WOBBLES)
        out = np.empty((len(names), SIDE * SIDE), dtype=np.uint8)
        for start in range(0, len(names), _BLOCK):
            part = slice(start, start + _BLOCK)
            out[part] = _draw(
                self._fields,
                self._wobbles[bank[part]],
                labels[part],
                transform[part],
                pen[part],
            )
        return out.reshape(-1, SIDE, SIDE, 1)


def _transforms(
    style: list[NDArray[np.float64]], wobble: list[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Pixel -> field coordinates, float32 `[n, 2, 3]`, by user style and wobble."""
    centred = [2 * s - 1 for s in style]
    jitter = [2 * w - 1 for w in wobble]
    angle = 0.45 * centred[0] + 0.12 * jitter[0]
    slant = 0.45 * centred[1] + 0.08 * jitter[1]
    width = 1.0 + 0.28 * centred[2] + 0.06 * jitter[2]
    height = 1.0 + 0.28 * centred[3] + 0.06 * jitter[3]
    shift_x = 2.2 * centred[4] + 0.8 * jitter[4]
    shift_y = 2.2 * centred[5] + 0.8 * jitter[6]
    cos, sin = np.cos(angle), np.sin(angle)
    zoom = _FIELD / SIDE
    matrix = np.empty((len(angle), 2, 3), dtype=np.float32)
    matrix[:, 0, 0] = zoom * (cos + slant * sin) / width
    matrix[:, 0, 1] = zoom * (slant * cos - sin) / width
    matrix[:, 1, 0] = zoom * sin / height
    matrix[:, 1, 1] = zoom * cos / height
    centre = (SIDE - 1) / 2
    for row in (0, 1):
        matrix[:, row, 2] = (
            (_FIELD - 1) / 2
            - matrix[:, row, 0] * (centre + shift_x)
            - matrix[:, row, 1] * (centre + shift_y)
        )
    return matrix


def _draw(
    fields: NDArray[np.float32],
    wobble: NDArray[np.float32],
    labels: NDArray[np.int64],
    transform: NDArray[np.float32],
    pen: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Ink uint8 `[b, 784]`: bright where the distance to a stroke is below the pen."""
    grid = np.mgrid[0:SIDE, 0:SIDE].reshape(2, -1).astype(np.float32)
    rows = np.stack([grid[1], grid[0], np.ones_like(grid[0])])  # x, y, 1
    where = transform @ rows  # [b, 2, 784]
    where += wobble
    np.clip(where, 0, _FIELD - 1, out=where)
    where += 0.5
    cell = where.astype(np.int32)
    flat = cell[:, 1] * _FIELD + cell[:, 0]
    flat += (labels * _FIELD * _FIELD).astype(np.int32)[:, None]
    ink = fields.reshape(-1)[flat]
    np.subtract(pen.astype(np.float32)[:, None] + 0.5, ink, out=ink)
    ink *= 160.0
    np.clip(ink, 0, 255, out=ink)
    return ink.astype(np.uint8)


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
    """Field cells along a random quadratic curve."""
    ends = draw.uniform(0.18, 0.82, size=(3, 2)) * (_FIELD - 1)
    t = np.linspace(0, 1, 160)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    return np.rint(curve).astype(np.int64)


def _wobble_bank(seed: int) -> NDArray[np.float32]:
    """Smooth displacement fields, in field pixels, float32 `[256, 2, 784]`."""
    draw = np.random.default_rng([seed, 2])
    position = np.mgrid[0:SIDE, 0:SIDE].reshape(2, -1) / SIDE
    frequency = draw.uniform(0.4, 1.3, size=(_WOBBLES, 2, 2))
    phase = draw.uniform(0, 2 * np.pi, size=(_WOBBLES, 2, 1))
    waves = np.sin(2 * np.pi * frequency @ position + phase)
    return (2.2 * waves).astype(np.float32)


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (words >> np.uint64(11)) * 2.0**-53


def _integers(words: NDArray[np.uint64], below: int) -> NDArray[np.int64]:
    return (words % np.uint64(below)).astype(np.int64)
