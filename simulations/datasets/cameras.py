"""Pictures of skeletons: 13 joints seen by cameras all around."""

import numpy as np
from numpy.typing import NDArray

from model_zoo.cv_mim.geometry import rotation

__all__ = ["DISTANCE", "FOCAL", "JOINTS", "project", "rotation"]

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
    seen = np.asarray(poses)[:, None] @ turn[:, :, None].swapaxes(-1, -2)
    depth = np.maximum(DISTANCE - seen[..., 2], 0.5)
    x = 0.5 + FOCAL * seen[..., 0] / depth
    y = 0.5 - FOCAL * seen[..., 1] / depth
    return np.stack([x, y], axis=-1).astype(np.float32)
