"""Procedural motion: a skeleton of 13 joints, many actions, any number of performers.

An action says how each limb swings; a performer has her own proportions, tempo, vigour
and a tripod of her own. Every motion is seen by two cameras, as cross-view learning of
pose needs (Sun et al. 2020, arXiv:1912.01001).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.cameras import project
from simulations.datasets.counters import signed, uniform
from simulations.datasets.generated import USERS, Fields, Generated
from simulations.datasets.pose_windows import FRAMES
from simulations.datasets.registry import LoadOptions

NAMED = ("wave", "squat", "walk in place", "kick", "jump", "idle")

# Channels of motion: three for each of left arm, right arm, left leg, right leg
# (swing to the front, swing outwards, bend), then lean, bounce.
_CHANNELS = 14
_L_ARM, _R_ARM, _L_LEG, _R_LEG, _LEAN, _BOUNCE = 0, 3, 6, 9, 12, 13


def load(options: LoadOptions) -> "Motions":
    """The data set for `--dataset poses`."""
    return Motions(options.users or USERS, options.seed)


@dataclass(frozen=True)
class Motions(Generated):
    """Motions of T frames, seen by two cameras.

    Fields: `pose3d` float32 `[n, T, 13, 3]` in metres relative to the middle of the
    hips (x to her left, y up, z to her front; see `cameras.JOINTS`); `keypoints`
    float32 `[n, 2, T, 13, 2]` in units of the picture's side; `camera` float32
    `[n, 2, 3]` as (azimuth, elevation, roll) in radians; `label` int64 `[n]`, the
    action.

    Attributes:
        frames: T.

    Example:
        >>> rows = Motions(100).fetch(np.array([7])).fields
        >>> rows["pose3d"].shape, rows["keypoints"].shape
        ((16, 16, 13, 3), (16, 2, 16, 13, 2))
    """

    frames: int = FRAMES

    name: ClassVar[str] = "poses"
    description: ClassVar[str] = "motions of a skeleton from two cameras"
    all_classes: ClassVar[int] = 40
    held_out_repeats: ClassVar[int] = 40

    def class_name(self, kind: int) -> str:
        """`squat`, or `action 17`."""
        return NAMED[kind] if kind < len(NAMED) else f"action {kind}"

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """Motions of performers `names`, from two cameras each."""
        tempo = 1 + 0.25 * signed(self.hash(names, 20))
        vigour = (
            1 + 0.2 * signed(self.hash(names, 21)) + 0.1 * signed(self.hash(own, 22))
        )
        start = 2 * np.pi * uniform(self.hash(own, 23))
        time = np.linspace(0, 2 * np.pi, self.frames, endpoint=False)
        phase = start[:, None] + tempo[:, None] * time
        base, swing, pace, lag = self._actions[:, kind][..., None]
        angle = np.sin(pace * phase[:, None, :] + lag)
        motion = base + vigour[:, None, None] * swing * angle  # [n, channels, T]
        limbs = [0.08 * signed(self.hash(names, 24 + k)) for k in range(5)]
        poses = _skeleton(motion, 1 + np.stack(limbs, axis=1))
        camera = np.stack(
            [
                np.stack(
                    [
                        np.pi * signed(self.hash(own, 30 + view)),
                        0.3 * signed(self.hash(names, 32))
                        + 0.2 * signed(self.hash(own, 33 + view)),
                        0.1 * signed(self.hash(names, 35))
                        + 0.1 * signed(self.hash(own, 36 + view)),
                    ],
                    axis=1,
                )
                for view in range(2)
            ],
            axis=1,
        )
        return {
            "keypoints": project(poses, camera),
            "pose3d": poses.astype(np.float32),
            "camera": camera.astype(np.float32),
        }

    @cached_property
    def _actions(self) -> NDArray[np.float64]:
        """(base, swing, pace, lag) of every action's channels, `[4, 40, 14]`."""
        draw = np.random.default_rng([self.seed, 61])
        shape = (self.all_classes, _CHANNELS)
        base = draw.normal(0.3, 0.4, shape)
        swing = draw.gamma(1.2, 0.35, shape) * (draw.random(shape) < 0.6)
        pace = draw.integers(1, 3, shape).astype(np.float64)
        lag = draw.integers(0, 4, shape) * np.pi / 2
        base[:, _LEAN], swing[:, _LEAN] = 0.3 * base[:, _LEAN], 0.3 * swing[:, _LEAN]
        base[:, _BOUNCE], swing[:, _BOUNCE] = 0.0, 0.1 * swing[:, _BOUNCE]
        base[: len(NAMED)], swing[: len(NAMED)] = 0.05, 0.02
        lag[: len(NAMED)], pace[: len(NAMED)] = 0.0, 1.0
        wave, squat, walk, kick, jump = range(5)
        base[wave, _L_ARM + 1], base[wave, _L_ARM + 2] = 2.4, 0.5
        swing[wave, _L_ARM + 2], pace[wave, _L_ARM + 2] = 0.6, 3.0
        for leg in (_L_LEG, _R_LEG):
            base[squat, leg], swing[squat, leg] = 0.7, 0.7
            base[squat, leg + 2], swing[squat, leg + 2] = 1.1, 1.1
            base[jump, leg + 2], swing[jump, leg + 2] = 0.4, 0.4
        for arm in (_L_ARM, _R_ARM):
            base[squat, arm], swing[squat, arm] = 0.7, 0.7
            base[jump, arm + 1], swing[jump, arm + 1] = 1.2, 1.2
        swing[jump, _BOUNCE] = 0.2
        for limb, side in ((_L_LEG, 0.0), (_R_LEG, np.pi), (_R_ARM, 0.0)):
            swing[walk, limb], lag[walk, limb] = 0.5, side
        swing[walk, _L_ARM], lag[walk, _L_ARM] = 0.5, np.pi
        base[walk, [_L_LEG + 2, _R_LEG + 2]] = 0.5
        swing[walk, [_L_LEG + 2, _R_LEG + 2]] = 0.4
        base[kick, _R_LEG], swing[kick, _R_LEG] = 0.5, 0.9
        return np.stack([base, swing, pace, lag])


def _skeleton(
    motion: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Joints `[n, T, 13, 3]` of channels `[n, 14, T]` and proportions `[n, 5]`."""
    torso, upper, fore, thigh, shin = (
        length * size[:, k, None]
        for k, length in enumerate((0.52, 0.29, 0.26, 0.43, 0.42))
    )
    zero = np.zeros_like(motion[:, 0])
    lean, bounce = motion[:, _LEAN], motion[:, _BOUNCE]

    def point(*axes: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(np.broadcast_arrays(*axes), axis=-1)

    def limb(
        root: NDArray[np.float64],
        channel: int,
        out: int,
        lengths: tuple[NDArray[np.float64], NDArray[np.float64]],
        bend: int,
    ) -> list[NDArray[np.float64]]:
        front, side, fold = motion[:, channel : channel + 3].swapaxes(0, 1)
        joints = [root]
        for length, extra in zip(lengths, (zero, bend * np.abs(fold)), strict=True):
            forward = front + extra
            step = point(
                out * np.sin(side),
                -np.cos(side) * np.cos(forward),
                np.cos(side) * np.sin(forward),
            )
            joints.append(joints[-1] + length[..., None] * step)
        return joints

    spine = point(zero, np.cos(lean), np.sin(lean))
    chest = torso[..., None] * spine
    left_arm = limb(chest + [0.18, 0, 0], _L_ARM, 1, (upper, fore), 1)
    right_arm = limb(chest + [-0.18, 0, 0], _R_ARM, -1, (upper, fore), 1)
    left_leg = limb(point(zero + 0.1, zero, zero), _L_LEG, 1, (thigh, shin), -1)
    right_leg = limb(point(zero - 0.1, zero, zero), _R_LEG, -1, (thigh, shin), -1)
    nose = chest + 0.22 * spine + [0, 0, 0.08]
    pairs = zip(left_arm + left_leg, right_arm + right_leg, strict=True)
    joints = [nose, *(joint for pair in pairs for joint in pair)]
    out = np.stack(joints, axis=2)
    out[..., 1] += bounce[:, :, None]
    return out
