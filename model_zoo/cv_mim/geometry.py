"""Skeletons of 13 keypoints: layouts and cameras.

Keypoints are COCO's without eyes and ears: nose, then left and right shoulder, elbow,
wrist, hip, knee and ankle. Everything is numpy and works on any leading axes.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

Floats = NDArray[np.floating]

KEYPOINTS = 13
SHOULDERS, HIPS = (1, 2), (7, 8)
FAR = 10.0
"""Distance of an ordinary camera in lengths of the spine: about five metres."""

_LAYOUTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "coco13": tuple(range(13)),
        "coco17": (0, *range(5, 17)),
        "h36m17": (10, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3),
        "kinect20": (3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18),
        "kinect25": (3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18),
    }
)


def select_keypoints(poses: Floats, layout: str) -> Floats:
    """The 13 keypoints of skeletons of a known layout.

    Args:
        poses: `[..., J, 2 or 3]`.
        layout: `coco13`, `coco17`, `h36m17` (pelvis, right leg, left leg, spine,
            thorax, neck, head, left arm, right arm), `kinect20` or `kinect25` (NTU
            RGB+D). Where there is no nose the head stands for it.

    Returns:
        `[..., 13, 2 or 3]`.

    Raises:
        UserError: for another layout, or too few joints for it.

    Example:
        >>> select_keypoints(np.zeros((5, 25, 3)), "kinect25").shape
        (5, 13, 3)
    """
    if layout not in _LAYOUTS:
        raise UserError(f"layout={layout!r} must be one of {', '.join(_LAYOUTS)}.")
    wanted = int(layout[-2:])
    if poses.shape[-2] != wanted:
        raise UserError(
            f"poses of {poses.shape[-2]} joints are not of the layout {layout!r}, "
            f"which has {wanted}."
        )
    return poses[..., list(_LAYOUTS[layout]), :]


def rotation(azimuth: Floats, elevation: Floats, roll: Floats) -> NDArray[np.float64]:
    """World (x to her left, y up, z to her front) -> camera, `[..., 3, 3]`, in radians.

    The person is turned by the azimuth about the vertical, then tipped by the elevation
    about the camera's right, then turned by the roll about its axis.
    """
    zero, one = np.zeros_like(azimuth), np.ones_like(azimuth)

    def stack(*rows: tuple[Floats, ...]) -> Floats:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    ca, sa = np.cos(azimuth), np.sin(azimuth)
    ce, se = np.cos(elevation), np.sin(elevation)
    cr, sr = np.cos(roll), np.sin(roll)
    about_y = stack((ca, zero, sa), (zero, one, zero), (-sa, zero, ca))
    about_x = stack((one, zero, zero), (zero, ce, -se), (zero, se, ce))
    about_z = stack((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return np.asarray(about_z @ about_x @ about_y)


def normalize_3d(poses: Floats) -> Floats:
    """The middle of the hips at 0; the spine, hips to shoulders, has length 1.

    Args:
        poses: `[..., 13, 3]`, in any unit.
    """
    hips = poses[..., HIPS, :].mean(-2, keepdims=True)
    spine = poses[..., SHOULDERS, :].mean(-2, keepdims=True) - hips
    length = np.linalg.norm(spine, axis=-1, keepdims=True)
    return np.asarray((poses - hips) / np.where(length > 0, length, 1.0))


def look(poses: Floats, camera: Floats, distance: float | None) -> Floats:
    """Pictures of poses, y downwards, before any normalisation.

    Args:
        poses: `[..., J, 3]` with the middle of the hips at 0.
        camera: (azimuth, elevation, roll) in radians, `[..., 3]`.
        distance: of the camera, in units of `poses`; joints are kept a tenth of it
            before the camera. None is a camera at infinity (orthographic).

    Example:
        >>> look(np.array([[0.3, 1.0, 0.5]]), np.zeros(3), None).tolist()
        [[0.3, -1.0]]
    """
    turn = rotation(*np.moveaxis(camera, -1, 0))
    seen = poses @ turn.swapaxes(-1, -2)
    picture = seen[..., :2] * np.array([1.0, -1.0])
    if distance is None:
        return np.asarray(picture)
    depth = np.maximum(distance - seen[..., 2:], 0.1 * distance)
    return np.asarray(picture / depth)
