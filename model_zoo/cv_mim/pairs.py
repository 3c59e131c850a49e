"""Pairs for training: one pose, seen by two cameras.

A row of the data is a motion (or a single pose) of one person: `pose3d` `[T, 13, 3]`,
`keypoints` `[V, T, 13, 2]` from V cameras, or both. In training a pose of the motion is
either taken as two of the cameras saw it or projected to two random cameras, about half
and half, as CV-MIM mixes detections with projections.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo.cv_mim.geometry import FAR, KEYPOINTS, look, normalize_3d

Number = TypeVar("Number", bound=np.generic)

_CHANCES = 4 + 6 + 2 * KEYPOINTS * 2  # frame, source, views; cameras; noise


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """How training pairs are made.

    Attributes:
        frames: poses taken of every motion, each at a random time.
        projected: share of pairs that are projections of the 3D pose; 0 uses the
            cameras of the data alone.
        azimuth: of random cameras, up to this to either side, in radians.
        elevation: likewise.
        roll: likewise.
        camera_distance: of random cameras, in lengths of the spine.
        noise: standard deviation of joint positions in projections, in lengths of the
            spine as the camera shows them.

    Raises:
        UserError: if a number is out of range.
    """

    frames: int = 1
    projected: float = 0.5
    azimuth: float = np.pi
    elevation: float = np.pi / 6
    roll: float = np.pi / 6
    camera_distance: float = 2.0  # 1 / the unit of normalised 2D poses
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UserError(f"frames={self.frames} must be at least 1.")
        if not 0 <= self.projected <= 1:
            raise UserError(f"projected={self.projected} must be in [0, 1].")
        if not self.camera_distance > 0 or self.noise < 0:
            raise UserError(
                f"camera_distance={self.camera_distance} must be positive and "
                f"noise={self.noise} at least 0."
            )

    def draw(
        self, examples: Examples, seeds: NDArray[np.uint64]
    ) -> dict[str, NDArray[np.generic]]:
        """Pairs of all rows; every group draws from its own seed.

        Returns:
            `words` int64 `[n, K, 2]`, random; `poses` float32 `[n, K, 2, 13, 2]`, not
            normalised, unless there is neither a second camera nor a 3D pose; if there
            are 3D poses `joints` float32 `[n, K, 13, 3]`, with spines of length 1.

        Raises:
            UserError: if the rows hold no poses.
        """
        pose3d, keypoints = motions(examples.fields)
        frames, sizes = self.frames, examples.sizes
        chance = by_group(
            sizes,
            seeds,
            1,
            lambda rng, n: rng.random((n, frames, _CHANCES), dtype=np.float32),
        )
        words = by_group(
            sizes,
            seeds,
            2,
            lambda rng, n: rng.integers(-(2**63), 2**63 - 1, (n, frames, 2)),
        )
        rows = np.arange(len(examples))[:, None]
        found: dict[str, NDArray[np.generic]] = {"words": words}
        seen = projected = None
        if keypoints is not None and keypoints.shape[1] > 1 and self.projected < 1:
            time = _choose(chance[..., 0], keypoints.shape[2])
            seen = keypoints[
                rows[..., None], _two_of(keypoints, chance), time[..., None]
            ]
        if pose3d is not None:
            joints = pose3d[rows, _choose(chance[..., 0], pose3d.shape[1])]
            found["joints"] = spines = normalize_3d(joints).astype(np.float32)
            if self.projected > 0 or seen is None:
                projected = self._project(spines, chance[..., 4:])
        if seen is not None and projected is not None:
            use = (chance[..., 1] < self.projected)[..., None, None, None]
            found["poses"] = np.where(use, projected, seen).astype(np.float32)
        elif seen is not None or projected is not None:
            found["poses"] = np.asarray(
                projected if seen is None else seen, dtype=np.float32
            )
        return found

    def _project(
        self, spines: NDArray[np.float32], chance: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        reach = np.array([self.azimuth, self.elevation, self.roll], np.float32)
        camera = (2 * chance[..., :6] - 1).reshape(*chance.shape[:-1], 2, 3) * reach
        picture = look(spines[..., None, :, :], camera, self.camera_distance)
        if self.noise:
            drawn = chance[..., 6:].reshape(picture.shape)
            width = self.noise * 12**0.5 / self.camera_distance  # of uniform noise
            picture = picture + (drawn - 0.5) * width
        return picture.astype(np.float32)


def _choose(chance: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Integers in `range(count)` from uniform numbers."""
    return np.minimum((chance * count).astype(np.int64), count - 1)


def _two_of(
    keypoints: NDArray[np.floating], chance: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Two different cameras of the data for every pose, `[n, K, 2]`."""
    views = keypoints.shape[1]
    first = _choose(chance[..., 2], views)
    step = 1 + _choose(chance[..., 3], views - 1)
    return np.stack([first, (first + step) % views], axis=-1)


def motions(
    fields: Mapping[str, NDArray[np.generic]],
) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """`pose3d` `[n, T, 13, 3]` and `keypoints` `[n, V, T, 13, 2]`, where there are any.

    A single pose per row is a motion of one frame.

    Raises:
        UserError: if a field has another shape, or both are missing.
    """
    found: list[NDArray[np.floating] | None] = []
    for name, dims, width in (("pose3d", 4, 3), ("keypoints", 5, 2)):
        values = fields.get(name)
        if values is None:
            found.append(None)
            continue
        if values.ndim == dims - 1:
            values = np.expand_dims(values, dims - 3)
        if values.ndim != dims or values.shape[-2:] != (KEYPOINTS, width):
            raise UserError(
                f"the field {name} has rows of shape {values.shape[1:]}; they must end "
                f"in ({KEYPOINTS}, {width}). For other skeletons see select_keypoints."
            )
        found.append(np.asarray(values, dtype=np.float32))
    pose3d, keypoints = found
    if pose3d is None and keypoints is None:
        raise UserError("rows have neither the field keypoints nor pose3d.")
    return pose3d, keypoints


def refuse_missing_joints(fields: Mapping[str, NDArray[np.generic]]) -> None:
    """Nothing, if every joint of every motion has a place.

    Training needs no such check: an update that is not finite counts as zero.

    Raises:
        UserError: how many motions have joints that are not finite, and the first.
    """
    for name, values in zip(("pose3d", "keypoints"), motions(fields), strict=True):
        if values is None:
            continue
        whole = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        bad = np.flatnonzero(~whole)
        if len(bad):
            raise UserError(
                f"{len(bad)} of {len(values)} held-out motions have joints in the "
                f"field {name} that are not finite, the first in row {bad[0]}; fill in "
                "missing joints from neighbouring frames, or leave those motions out."
            )


def first_view(fields: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Motions as the first camera saw them, `[n, T, 13, 2]`, y downwards.

    Where there are only 3D poses, or the first camera's motion is blank (all joints in
    one place), as a camera in front of the person sees them.
    """
    pose3d, keypoints = motions(fields)
    if keypoints is None:
        return _frontal(np.asarray(pose3d))
    seen = np.asarray(keypoints[:, 0], dtype=np.float32)
    blank = (seen == seen[:, :1, :1]).all((1, 2, 3))
    if pose3d is None or not blank.any():
        return seen
    return np.where(blank[:, None, None, None], _frontal(pose3d), seen)


def _frontal(pose3d: NDArray[np.floating]) -> NDArray[np.float32]:
    return look(normalize_3d(pose3d), np.zeros(3), FAR).astype(np.float32)


def by_group(
    sizes: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    purpose: int,
    draw: Callable[[np.random.Generator, int], NDArray[Number]],
) -> NDArray[Number]:
    """Random rows of all groups, `[n, ...]`; each group's from its own seed alone.

    Args:
        sizes: rows of each group.
        seeds: one word per group.
        purpose: draws of different purposes are independent.
        draw: makes the rows of one group from a generator and their number.
    """
    parts = [
        draw(np.random.Generator(np.random.Philox(key=[int(seed), purpose])), int(size))
        for size, seed in zip(sizes, seeds, strict=True)
    ]
    return np.concatenate(parts)
