"""Pictures of skeletons: 13 joints seen by cameras all around."""

import numpy as np
from numpy.typing import NDArray

JOINTS = (
    "nose",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
)
"""The 13 keypoints of COCO's skeleton without eyes and ears, nose first."""

DISTANCE = 5.0
"""Metres from the camera to the middle of the hips."""

FOCAL = 2.0
"""Focal length in units of the picture's side: two metres fill 0.8 of it."""


def rotation(
    azimuth: NDArray[np.float64],
    elevation: NDArray[np.float64],
    roll: NDArray[np.float64],
) -> NDArray[np.float64]:
    """World (x to her left, y up, z to her front) -> camera, `[..., 3, 3]`, in radians.

    The person is turned by the azimuth about the vertical, then tipped by the elevation
    about the camera's right, then turned by the roll about its axis.
    """
    zero, one = np.zeros_like(azimuth), np.ones_like(azimuth)

    def stack(*rows: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    ca, sa = np.cos(azimuth), np.sin(azimuth)
    ce, se = np.cos(elevation), np.sin(elevation)
    cr, sr = np.cos(roll), np.sin(roll)
    about_y = stack((ca, zero, sa), (zero, one, zero), (-sa, zero, ca))
    about_x = stack((one, zero, zero), (zero, ce, -se), (zero, se, ce))
    about_z = stack((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return np.asarray(about_z @ about_x @ about_y)


def project(
    poses: NDArray[np.floating], camera: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Perspective pictures of poses, in units of the picture's side, y downwards.

    Args:
        poses: metres relative to the middle of the hips, `[n, T, J, 3]`.
        camera: (azimuth, elevation, roll) in radians, `[n, V, 3]`.

    Returns:
        float32 `[n, V, T, J, 2]`; the middle of the hips is at (0.5, 0.5).

    Example:
        >>> up = np.array([[[[0.0, 1.0, 0.0]]]])
        >>> project(up, np.zeros((1, 1, 3))).round(2).tolist()
        [[[[[0.5, 0.10000000149011612]]]]]
    """
    turn = rotation(*np.moveaxis(np.asarray(camera, dtype=np.float64), -1, 0))
    seen = np.einsum("nvij,ntkj->nvtki", turn, poses)
    depth = np.maximum(DISTANCE - seen[..., 2], 0.5)
    x = 0.5 + FOCAL * seen[..., 0] / depth
    y = 0.5 - FOCAL * seen[..., 1] / depth
    return np.stack([x, y], axis=-1).astype(np.float32)
