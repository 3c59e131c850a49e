"""Files as NTU RGB+D and Penn Action publish them, of a walking stick figure.

The figure stands in the middle of a room, her front to camera 2; camera 1 is 45 degrees
to her right, camera 3 to her left. Positions are written with all their digits.
"""

from pathlib import Path

import numpy as np
from scipy.io import savemat

FOCAL, DISTANCE = 1060.0, 3.5
AZIMUTHS = {1: -np.pi / 4, 2: 0.0, 3: np.pi / 4}
INFO = "0 1 1 1 1 0 0.02764709 0.05745083 2"
REST = "-0.2059419 0.05349901 0.9692109 -0.1239193 2"

# The joints of a Kinect v2 that the reduction keeps, by its number: place at rest with
# x to her left, y up, z to her front; and which of two phases they swing with.
KEPT = {
    3: (0.0, 0.70, 0.05, 0),  # head
    **{4: (0.2, 0.5, 0, 0), 8: (-0.2, 0.5, 0, 0)},  # shoulders
    **{5: (0.3, 0.25, 0, 1), 9: (-0.3, 0.25, 0, -1)},
    **{6: (0.3, 0.0, 0.1, 2), 10: (-0.3, 0.0, 0.1, -2)},
    **{12: (0.1, 0, 0, 0), 16: (-0.1, 0, 0, 0)},  # hips
    **{13: (0.1, -0.45, 0.02, -1), 17: (-0.1, -0.45, 0.02, 1)},
    **{14: (0.1, -0.9, 0, -2), 18: (-0.1, -0.9, 0, 2)},
}
ORDER = (3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18)


def figure(frames: int, pace: float = 1.0, size: float = 1.0) -> np.ndarray:
    """Joints `[frames, 25, 3]` of the room; those that nothing reads are at 9 m."""
    joints = np.full((frames, 25, 3), 9.0)
    swing = 0.1 * np.sin(pace * np.arange(frames) / 5)
    for number, (x, y, z, phase) in KEPT.items():
        joints[:, number] = np.array([x, y, z]) * size
        joints[:, number, 2] += phase * swing
    return joints


def seen_by(camera: int, joints: np.ndarray) -> np.ndarray:
    """What a Kinect writes: x to its left, y up, z away from it, column and row.

    Its picture is mirrored: columns grow to its left as well.
    """
    angle = AZIMUTHS[camera]
    turn = np.array(
        [
            [np.cos(angle), 0, np.sin(angle)],
            [0, 1, 0],
            [-np.sin(angle), 0, np.cos(angle)],
        ]
    )
    x, y, z = np.moveaxis(joints @ turn.T, -1, 0)
    x, z = -x, DISTANCE - z
    column, row = 960 + FOCAL * x / z, 540 - FOCAL * y / z
    return np.stack([x, y, z, column, row], axis=-1)


def body_lines(joints: np.ndarray, body: str) -> list[str]:
    """One body in one frame: joints `[25, 5]`."""
    rows = [
        f"{x!r} {y!r} {z!r} 277.419 191.8218 {column!r} {row!r} {REST}"
        for x, y, z, column, row in joints.tolist()
    ]
    return [f"{body} {INFO}", "25", *rows]


def skeleton_lines(*frames: list[np.ndarray]) -> list[str]:
    """A file: of every frame a list of bodies `[25, 5]`, of equal places equal ids."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for number, joints in enumerate(bodies):
            lines += body_lines(joints, str(72057594037931101 + number))
    return lines


def write_motion(
    folder: Path,
    performer: int,
    action: int,
    *,
    frames: int = 40,
    cameras: tuple[int, ...] = (1, 2, 3),
    replication: int = 1,
) -> dict[int, Path]:
    """One motion as the cameras saw it; files by camera."""
    joints = figure(frames, pace=action, size=1 + 0.1 * performer)
    paths = {}
    for camera in cameras:
        name = f"S001C{camera:03}P{performer:03}R{replication:03}A{action:03}.skeleton"
        paths[camera] = folder / name
        seen = seen_by(camera, joints)
        paths[camera].write_text("\n".join(skeleton_lines(*([s] for s in seen))) + "\n")
    return paths


def write_ntu(folder: Path, performers: int = 2, actions: int = 3, **more) -> Path:
    """All motions of a small NTU RGB+D."""
    folder.mkdir(parents=True, exist_ok=True)
    for performer in range(1, performers + 1):
        for action in range(1, actions + 1):
            for replication in (1, 2):
                write_motion(folder, performer, action, replication=replication, **more)
    return folder


def penn_fields(action: str, train: int, frames: int = 40, pace: float = 1.0) -> dict:
    """A label file's content: the figure from the front, 480 x 270 pixels."""
    joints = figure(frames, pace)[:, ORDER]
    return {
        "action": action,
        "pose": "front",
        "x": 240 + 100 * joints[..., 0],
        "y": 135 - 100 * joints[..., 1] + 20 * joints[..., 2],
        "visibility": np.ones((frames, 13), np.uint8),
        "train": train,
        "bbox": np.ones((frames, 4)),
        "dimensions": np.array([[270, 480, frames]], np.uint16),
        "nframes": frames,
    }


def write_penn(folder: Path, videos: int = 12, **changes) -> Path:
    """Videos of three actions; every third one is a test video."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        action = ("bowl", "pullup", "squat")[number % 3]
        train = -1 if number // 3 % 2 else 1
        fields = penn_fields(action, train, pace=1 + number % 3) | changes
        savemat(folder / "labels" / f"{number + 1:04}.mat", fields)
    return folder
