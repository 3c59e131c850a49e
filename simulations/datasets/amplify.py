"""A larger population from a smaller one: every copy of a user has a style of her own.

For trying out scale on real pictures. The first copy of each user is the user herself;
later copies are slanted, turned, resized, shifted and drawn with a thicker or thinner
stroke, each by her own fixed amounts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples, Provenance, Source, UserDataset
from fedemb.errors import UserError
from simulations.datasets.counters import mix_seed, signed

_ANGLE, _SLANT, _SIZE, _SHIFT, _STROKE = 0.2, 0.25, 0.15, 0.06, 0.8
_BLOCK = 64  # images warped at a time


@dataclass(frozen=True)
class Amplified:
    """A `UserDataset` of `num_users` users made from fewer.

    User i is a copy of user `i % base.num_users`; with `i < base.num_users` she is
    unchanged. Styles depend on (seed, i) alone. The held-out set is the base's own.

    Attributes:
        base: where users come from; must have a field `image`, uint8 `[n, H, W, C]`.
        num_users: size of the population.
        seed: of the styles.

    Raises:
        UserError: fewer users than the base has, or no images.
    """

    base: UserDataset
    num_users: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_users < self.base.num_users:
            raise UserError(
                f"amplify={self.num_users} is below the {self.base.num_users} users "
                "that the data set has; give a larger number or leave it out."
            )
        image = self.base.fetch(np.array([0])).fields.get("image")
        if image is None or image.ndim != 4 or image.dtype != np.uint8:
            raise UserError(
                f"{self.base.provenance.name} has no images to style; amplify works on "
                "image data sets."
            )

    @cached_property
    def provenance(self) -> Provenance:
        """The base's record, marked as amplified."""
        base = self.base.provenance
        people = self.base.num_users
        notice = (
            f"AMPLIFIED DATA: {self.num_users:,} users were made from {people:,} by "
            "per-user styles. Privacy holds for the made users; a person behind several"
            " of them has less."
        )
        return replace(
            base,
            source=Source.AMPLIFIED,
            checksum=f"{base.checksum}-amplified-{self.num_users}-{self.seed}",
            description=f"{base.description}, amplified to {self.num_users:,} users",
            notices=(*base.notices, notice),
        )

    @property
    def num_classes(self) -> int:
        """The base's number of training classes."""
        return self.base.num_classes

    @property
    def class_names(self) -> Sequence[str]:
        """The base's class names."""
        return self.base.class_names

    def user_id(self, index: int) -> str:
        """The base user's name, and which copy this is."""
        copy, user = divmod(index, self.base.num_users)
        return f"{self.base.user_id(user)}/{copy}"

    def fetch(self, users: NDArray[np.int64]) -> Examples:
        """Training examples of `users`, one group per user, in the order asked for."""
        users = np.asarray(users, dtype=np.int64)
        found = self.base.fetch(users % self.base.num_users)
        images = np.asarray(found.fields["image"], dtype=np.uint8).copy()
        names = np.repeat(users, found.sizes)
        copies = np.flatnonzero(names >= self.base.num_users)
        for start in range(0, len(copies), _BLOCK):
            rows = copies[start : start + _BLOCK]
            images[rows] = self._styled(images[rows], names[rows].astype(np.uint64))
        return Examples({**found.fields, "image": images}, found.offsets)

    def held_out(self) -> Examples:
        """The base's evaluation examples, unchanged."""
        return self.base.held_out()

    def _styled(
        self, images: NDArray[np.uint8], names: NDArray[np.uint64]
    ) -> NDArray[np.uint8]:
        style = [signed(mix_seed(names, self.seed, 60 + k)) for k in range(7)]
        return warp(stroke(images, _STROKE * style[6]), *_matrices(style))


def _matrices(
    style: list[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear maps `[n, 2, 2]` and shifts `[n, 2]` in units of the image's side."""
    angle, slant = _ANGLE * style[0], _SLANT * style[1]
    width, height = 1 + _SIZE * style[2], 1 + _SIZE * style[3]
    cos, sin = np.cos(angle), np.sin(angle)
    top = np.stack([(cos + slant * sin) / width, (slant * cos - sin) / width], axis=-1)
    bottom = np.stack([sin / height, cos / height], axis=-1)
    return np.stack([top, bottom], axis=-2), _SHIFT * np.stack(style[4:6], axis=-1)


def warp(
    images: NDArray[np.uint8],
    linear: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Affine maps about the centre, bilinear; outside, the border continues.

    Args:
        images: `[n, H, W, C]`.
        linear: from output to input, `[n, 2, 2]`, acting on (x, y).
        shift: of the output, in units of (W, H), `[n, 2]`.

    Example:
        >>> image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
        >>> same = warp(image, np.eye(2)[None], np.zeros((1, 2)))
        >>> bool((same == image).all())
        True
    """
    count, height, width, channels = images.shape
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float32)
    centre = np.array([[(width - 1) / 2], [(height - 1) / 2]])
    grid = np.stack([x, y])[None] - centre - shift[:, :, None] * [[width], [height]]
    where = (linear @ grid + centre).astype(np.float32)  # [n, 2, H * W]
    np.clip(where, 0, np.array([[width - 1], [height - 1]], np.float32), out=where)
    corner = where.astype(np.int32)
    part = where - corner
    right = np.minimum(corner[:, 0] + 1, width - 1)
    below = np.minimum(corner[:, 1] + 1, height - 1)
    flat = images.reshape(count, -1, channels).astype(np.float32)
    number = np.arange(count)[:, None]

    def at(row: NDArray[np.int32], column: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.asarray(flat[number, row * width + column])

    u, v = part[:, 0, :, None], part[:, 1, :, None]
    upper = at(corner[:, 1], corner[:, 0]) * (1 - u) + at(corner[:, 1], right) * u
    lower = at(below, corner[:, 0]) * (1 - u) + at(below, right) * u
    mixed = upper * (1 - v) + lower * v
    return np.asarray(np.rint(mixed).astype(np.uint8).reshape(images.shape))


def stroke(images: NDArray[np.uint8], amount: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Mix towards the brightest (amount > 0) or darkest of each 3 x 3 neighbourhood.

    Args:
        images: `[n, H, W, C]`.
        amount: in [-1, 1], `[n]`; 0 changes nothing.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    size = (1, 3, 3, 1)
    brighter = np.asarray(maximum_filter(images, size), dtype=np.float32)
    darker = np.asarray(minimum_filter(images, size), dtype=np.float32)
    share = amount.astype(np.float32)[:, None, None, None]
    target = np.where(share > 0, brighter, darker)
    mixed = images + (target - images) * np.abs(share)
    return np.asarray(np.rint(mixed).astype(np.uint8))
